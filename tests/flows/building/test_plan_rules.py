"""Plans and summaries against a dict: sources change, builds refuse studies, and some are killed."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from flows.building.commit import commit
from flows.building.plan import plan_build
from flows.building.request import BuildRequest
from spine_etl.store import open_store
from tests.flows.building.tiny_source import (
    MEMORY,
    Content,
    refused,
    stored,
    transiently_refused,
    write_source,
)
from tests.store.tiny import RECIPE

UIDS = ["1.2.1", "1.2.2", "1.2.3", "1.2.10"]
TEXTS = st.sampled_from(["a", "b"])
CHANGES = st.one_of(
    st.fixed_dictionaries({"slices": st.lists(TEXTS, min_size=1, max_size=2).map(tuple)}),
    st.fixed_dictionaries({"mask": st.one_of(st.none(), TEXTS)}),
    st.fixed_dictionaries({"labels": st.sampled_from([None, "0,0,0", "1,0,1", "1,x,0"])}),
    st.fixed_dictionaries({"box": st.sampled_from([None, "1,2,3,4,5", "1,2,3,4,6"])}),
)
ENDS = st.sampled_from(["stored", "refused", "transient"])


@dataclass(frozen=True)
class Entry:
    """What a build did with a study: its end, the content that it read, and the row it wrote."""

    end: str
    content: Content
    row: int | None


class Plans(RuleBasedStateMachine):
    """The dicts: ``source`` by UID, ``records`` of all builds, and the studies of the newest version."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY))
        self.source: dict[str, Content] = {UIDS[0]: Content()}
        self.records: dict[str, Entry] = {}
        self.newest: dict[str, Content] = {}
        self.committed_rows = 0
        self.has_version = False

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(uid=st.sampled_from(UIDS))
    def add_study(self, uid: str) -> None:
        self.source.setdefault(uid, Content())

    @rule(uid=st.sampled_from(UIDS), change=CHANGES)
    def change_study(self, uid: str, change: dict[str, Any]) -> None:
        if uid in self.source:
            self.source[uid] = replace(self.source[uid], **change)

    @precondition(lambda self: len(self.source) > 1)
    @rule(index=st.integers(0, 3))
    def remove_study(self, index: int) -> None:
        del self.source[sorted(self.source)[index % len(self.source)]]

    @rule(
        ends=st.lists(ENDS, min_size=4, max_size=4),
        killed_after=st.one_of(st.none(), st.none(), st.integers(0, 3)),
        settled=st.sampled_from([True, True, True, False]),
    )
    def build(self, ends: list[str], killed_after: int | None, settled: bool) -> None:
        absent = {uid: "0,0,0" for uid in UIDS if uid not in self.source}
        write_source(self.folder / "source", self.source, absent)
        request = BuildRequest(
            str(self.folder / "source"), str(self.folder / "store"), RECIPE, workers=2,
            settle_s=0 if settled else 3600,
        )  # fmt: skip
        plan = plan_build(request)
        unchanged, finished, todo = self.expected_plan()
        assert plan.committed == len(unchanged)
        assert [record.uid for record in plan.finished] == finished
        assert [study.uid for study in plan.pending] == (todo if settled else [])
        assert sorted(plan.unsettled) == ([] if settled else todo)
        assert plan.without_images == sorted(absent)
        assert plan.first_row == self.expected_first_row(finished)
        processed = []
        for index, study in enumerate(plan.pending[:killed_after]):
            row = plan.first_row + index
            make = {"stored": lambda s, row=row: stored(s, row), "refused": refused}
            record = make.get(ends[index], transiently_refused)(study)
            plan.writer.write_record(record)
            entry = Entry(ends[index], self.source[study.uid], record.row)
            self.records[study.uid] = entry
            processed.append(record)
        if killed_after is None:
            summary = commit(plan, processed)
            self.check_summary(summary, unchanged, finished, ends[: len(processed)], len(plan.unsettled))
            self.commit_expected([*finished, *(record.uid for record in processed)])
            self.check_version()
            # A version without studies means that all are refused, never that all are being copied.
            self.has_version = self.has_version or bool(finished or processed)
            assert (summary.version > 0) == self.has_version

    def expected_plan(self) -> tuple[list[str], list[str], list[str]]:
        """UIDs: unchanged in the newest version, with a valid record, and to be built."""
        unchanged, finished, todo = [], [], []
        for uid in sorted(self.source):
            content, record = self.source[uid], self.records.get(uid)
            if self.newest.get(uid) == content:
                unchanged.append(uid)
            elif record and record.content == content and record.end != "transient":
                finished.append(uid)
            else:
                todo.append(uid)
        return unchanged, finished, todo

    def expected_first_row(self, finished: list[str]) -> int:
        rows = [self.records[uid].row for uid in finished]
        return max([self.committed_rows, *(row + 1 for row in rows if row is not None)])

    def check_summary(
        self, summary: Any, unchanged: list[str], finished: list[str], ends: list[str], left: int
    ) -> None:
        refused_before = [uid for uid in finished if self.records[uid].end == "refused"]
        assert summary.processed == ends.count("stored")
        assert summary.unchanged == len(unchanged) + len(finished) - len(refused_before)
        assert (
            summary.refused == len(summary.refusals) == len(refused_before) + len(ends) - ends.count("stored")
        )
        assert len(summary.left) == left
        counts = (summary.processed, summary.unchanged, summary.refused, len(summary.left))
        assert sum(counts) == len(self.source)

    def commit_expected(self, uids: list[str]) -> None:
        for uid in uids:
            entry = self.records[uid]
            if entry.end == "stored":
                assert entry.row is not None
                self.newest[uid] = entry.content
                self.committed_rows = max(self.committed_rows, entry.row + 1)
            elif entry.end == "refused":
                self.newest.pop(uid, None)

    def check_version(self) -> None:
        if (self.folder / "store/versions/1/zarr.json").exists():
            version = open_store(self.folder / "store")
            assert version.study_uids == sorted(self.newest)
            assert version.rows == self.committed_rows
        else:
            assert self.newest == {}


Plans.TestCase.settings = settings(
    max_examples=40, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
test_plans_and_summaries_follow_the_dict = Plans.TestCase


@pytest.mark.soak
class TestLonger(Plans.TestCase):
    settings = settings(
        max_examples=200, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
    )
