"""The store against a dict: builds, changes, refusals, kills and rival commits in any order lose nothing."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from spine_etl.errors import StoreNotCommitted
from spine_etl.store import open_store
from spine_etl.store.check import check_store
from spine_etl.store.location import LocalLocation
from spine_etl.store.record import Record, Refusal
from spine_etl.store.writer import StoreWriter
from tests.store.tiny import RECIPE, voxels, write_study

UIDS = [f"1.2.{number}" for number in range(3)]
WRITERS = ("a", "b")
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # thousands of flushed writes
Version = tuple[dict[str, int], dict[str, str]]
"""What a version holds: seed of each study's voxels, and code of each refused study."""


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


class Interrupted(LocalLocation):
    """A location that does something else before its write number ``after``."""

    def __init__(self, root: Path, after: int, happens: Callable[[], object]) -> None:
        super().__init__(root)
        self.left, self.happens = after, happens

    def write(self, key: str, content: bytes) -> None:
        self._count()
        super().write(key, content)

    def create(self, key: str, content: bytes) -> None:
        self._count()
        super().create(key, content)

    def _count(self) -> None:
        self.left -= 1
        if self.left == -1:
            self.happens()


def kill() -> None:
    raise Killed


class StoreMachine(RuleBasedStateMachine):
    """Two builds work on one store; ``versions`` is what it has to hold."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="store-", dir=MEMORY))
        self.versions: list[Version] = []
        self.pending: dict[str, dict[str, Record]] = {}
        self.folds: dict[str, int] = {}
        self.checked = 0

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @initialize()
    def found(self) -> None:
        self.writers = {name: self.start(name) for name in WRITERS}

    def start(self, name: str) -> StoreWriter:
        """A new process of a build: it knows nothing but what is stored."""
        self.pending[name] = {}
        return StoreWriter(self.root, RECIPE)

    @rule(name=st.sampled_from(WRITERS), uid=st.sampled_from(UIDS), seed=st.integers(0, 1))
    def build(self, name: str, uid: str, seed: int) -> None:
        self.pending[name][uid] = write_study(self.writers[name], uid, seed)

    @rule(name=st.sampled_from(WRITERS), uid=st.sampled_from(UIDS), transient=st.booleans())
    def refuse(self, name: str, uid: str, transient: bool) -> None:
        code = "WORKER_LOST" if transient else "SLICE_GAP"
        refusal = Refusal(code=code, reason="a reason.", action="an action.", transient=transient)
        record = Record(uid=uid, fingerprint=RECIPE.fingerprint, source_digest="0" * 64, refusal=refusal)
        self.writers[name].write_record(record)
        self.pending[name][uid] = record

    @rule(name=st.sampled_from(WRITERS), uid=st.sampled_from(UIDS), seed=st.integers(0, 1))
    def build_and_commit(self, name: str, uid: str, seed: int) -> None:
        self.build(name, uid, seed)
        self.commit(name)

    @rule(name=st.sampled_from(WRITERS), uid=st.sampled_from(UIDS), transient=st.booleans())
    def refuse_and_commit(self, name: str, uid: str, transient: bool) -> None:
        self.refuse(name, uid, transient)
        self.commit(name)

    @rule(name=st.sampled_from(WRITERS))
    def commit(self, name: str) -> None:
        self.expect(name)
        self.writers[name].commit(list(self.pending[name].values()))
        self.pending[name] = {}

    @rule(name=st.sampled_from(WRITERS), after=st.integers(0, 60))
    def commit_while_the_other_commits(self, name: str, after: int) -> None:
        """The other build commits before this one's write number ``after``, if there are as many."""
        (other,) = set(WRITERS) - {name}
        committed: list[str] = []

        def rival() -> None:
            if self.newest() > len(self.versions):  # the first commit is done, and is being published
                self.expect(name)
                committed.append(name)
            self.commit(other)

        writer = self.writers[name]
        writer.location = Interrupted(self.root, after, rival)
        writer.commit(list(self.pending[name].values()))
        writer.location = LocalLocation(self.root)
        if not committed:
            self.expect(name)
        self.pending[name] = {}

    @rule(name=st.sampled_from(WRITERS), after=st.integers(0, 60))
    def killed_in_commit(self, name: str, after: int) -> None:
        """Readers see the version before or the new one, whole."""
        writer = self.writers[name]
        writer.location = Interrupted(self.root, after, kill)
        with contextlib.suppress(Killed):
            writer.commit(list(self.pending[name].values()))
        if self.newest() > len(self.versions):
            self.expect(name)
        self.writers[name] = self.start(name)

    @rule(
        name=st.sampled_from(WRITERS),
        uid=st.sampled_from(UIDS),
        seed=st.integers(0, 1),
        after=st.integers(0, 4),
    )
    def killed_in_build(self, name: str, uid: str, seed: int, after: int) -> None:
        """A row without its record is nobody's; the next build takes another."""
        writer = self.writers[name]
        writer.location = Interrupted(self.root, after, kill)
        with contextlib.suppress(Killed):
            write_study(writer, uid, seed)
        self.writers[name] = self.start(name)

    def newest(self) -> int:
        try:
            return open_store(self.root).version
        except StoreNotCommitted:
            return 0

    def expect(self, name: str) -> None:
        """Add the version that the pending records make of the newest one, if it differs."""
        base = self.versions[-1] if self.versions else None
        version = self.next_version(name, base)
        if version != base:
            self.versions.append(version)

    def next_version(self, name: str, base: Version | None) -> Version:
        studies, refused = (dict(part) for part in base) if base else ({}, {})
        before = set(studies)
        for uid, record in self.pending[name].items():
            if record.refusal is None:
                studies[uid] = int(record.source_digest, 16)  # `write_study` writes the seed there
                refused.pop(uid, None)
            elif not (record.refusal.transient and uid in before):
                studies.pop(uid, None)
                refused[uid] = record.refusal.code
        return studies, refused

    @precondition(lambda self: self.versions)
    @rule(number=st.integers(1, 100))
    def an_older_version_is_as_it_was(self, number: int) -> None:
        self.same(1 + number % len(self.versions))

    @invariant()
    def the_newest_version_is_the_last_commit(self) -> None:
        assert self.newest() == len(self.versions)
        if self.versions and self.checked != len(self.versions):
            self.same(len(self.versions))
            self.checked = len(self.versions)

    def same(self, number: int) -> None:
        store = open_store(self.root, number)
        studies, refused = self.versions[number - 1]
        assert store.study_uids == sorted(studies)
        assert {entry["uid"]: entry["code"] for entry in store.refused} == refused
        rows = store.table["row"].tolist()
        assert len(set(rows)) == len(rows)
        for index, uid in enumerate(store.study_uids):
            expected = voxels(studies[uid])
            np.testing.assert_array_equal(store.image(index), expected["image"])
            np.testing.assert_array_equal(store.mask(index), expected["mask"])
            assert self.folds.setdefault(uid, int(store.table["fold"][index])) == store.table["fold"][index]
        assert list(check_store(store)) == []


StoreMachine.TestCase.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStore = StoreMachine.TestCase


@pytest.mark.soak
class TestStoreForLong(StoreMachine.TestCase):
    settings = settings(
        max_examples=500, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
    )
