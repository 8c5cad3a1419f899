"""Which studies of a phantom a build processes, and which it leaves for the next.

`tests.flows.building.test_plan_outcomes` has every outcome, and the limit of the settling time.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from flows.building.commit import commit
from flows.building.plan import Plan, plan_build
from flows.building.request import BuildRequest
from flows.building.summary import Summary
from spine_etl.errors import SourceUnreachable
from spine_etl.phantom import write_phantom
from spine_etl.pipeline import process_study
from spine_etl.recipe import load_recipe
from spine_etl.store import open_store
from spine_etl.store.writer import StoreWriter
from spine_etl.study_record import refusal_record

RECIPE = load_recipe("quick")
HOUR_S = 3600.0


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("phantom")
    write_phantom(source, 3, 3, size=96, slices=40)
    return source


@pytest.fixture
def source(phantom: Path, tmp_path: Path) -> Path:
    """A copy with the original modification times, as ``cp -p`` and rsync make it."""
    return Path(shutil.copytree(phantom, tmp_path / "source"))


def plan_of(source: Path, tmp_path: Path, settle_s: float = 0) -> Plan:
    return plan_build(
        BuildRequest(str(source), str(tmp_path / "store"), RECIPE, workers=2, settle_s=settle_s)
    )


def build(source: Path, tmp_path: Path, settle_s: float = 0) -> Summary:
    plan = plan_of(source, tmp_path, settle_s)
    return commit(plan, [process_study(study, plan.writer) for study in plan.pending])


def uids(source: Path) -> list[str]:
    return sorted(path.name for path in (source / "train_images").iterdir())


def slices(source: Path, study: int) -> list[Path]:
    return sorted((source / "train_images" / uids(source)[study]).iterdir())


def test_studies_copied_just_now_are_left(source: Path, tmp_path: Path) -> None:
    for path in source.rglob("*"):
        os.utime(path, (0, 0))  # old modification times, but the copy is new
    plan = plan_of(source, tmp_path, HOUR_S)
    assert sorted(plan.unsettled) == uids(source)
    assert all(0 <= seconds < 60 for seconds in plan.unsettled.values())
    assert plan.pending == []
    summary = commit(plan, [])
    assert (summary.version, summary.processed, summary.refused) == (0, 0, 0)
    assert summary.line()["left"] == 3
    assert StoreWriter(tmp_path / "store", RECIPE).latest() is None


def test_no_study_waits_if_settle_is_zero(source: Path, tmp_path: Path) -> None:
    assert len(plan_of(source, tmp_path).pending) == 3


def test_a_changing_study_is_left_and_committed_studies_stay(source: Path, tmp_path: Path) -> None:
    assert build(source, tmp_path).processed == 3
    before = open_store(tmp_path / "store")
    changed, content = slices(source, 0)[5], bytearray(slices(source, 0)[5].read_bytes())
    content[-3] ^= 1
    changed.write_bytes(content)
    slices(source, 1)[0].touch()  # a new modification time, but the same bytes: no reason to wait
    shutil.copytree(slices(source, 2)[0].parent, source / "train_images/1.2.3.4")
    (source / "train_images/1.2.3.4/9.dcm").unlink()
    first = build(source, tmp_path, HOUR_S)
    assert sorted(first.left) == sorted([changed.parent.name, "1.2.3.4"])
    assert (first.processed, first.unchanged, first.refused, first.version) == (0, 2, 0, 1)
    assert open_store(tmp_path / "store").root_digest == before.root_digest == first.root_digest
    second = build(source, tmp_path)
    assert (second.processed, second.unchanged, second.refused, second.left) == (1, 2, 1, {})
    assert second.refusals[0]["uid"] == "1.2.3.4"


def test_all_new_studies_wait_for_the_tables(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path)
    labels = (source / "train.csv").read_text().splitlines(keepends=True)
    (source / "train.csv").write_text("".join(labels[:2]))  # partly copied
    assert len(plan_of(source, tmp_path, HOUR_S).unsettled) == 2
    (source / "train.csv").write_text("".join(labels))
    plan = plan_of(source, tmp_path, HOUR_S)
    assert (plan.committed, plan.unsettled, plan.pending) == (3, {}, [])


def test_refused_studies_are_built_once_the_table_is_fixed(source: Path, tmp_path: Path) -> None:
    table = source / "train.csv"
    valid = table.read_text()
    header, *rows = valid.splitlines()
    table.write_text("\n".join([header, *(row.replace(",", ",x", 1) for row in rows)]) + "\n")
    first = build(source, tmp_path)
    assert (first.version, first.processed, first.refused) == (1, 0, 3)
    table.write_text(valid)
    second = build(source, tmp_path)
    assert (second.version, second.processed, second.refused) == (2, 3, 0)


def test_a_killed_build_of_changed_studies_is_resumed(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path)
    table = source / "train.csv"
    header, *rows = table.read_text().splitlines()
    flipped = [",".join([row.split(",")[0], *["1"] * 8]) for row in rows]
    table.write_text("\n".join([header, *flipped]) + "\n")
    plan = plan_of(source, tmp_path)
    assert len(plan.pending) == 3
    for row, study in enumerate(plan.pending[:2], plan.first_row):
        process_study(study, plan.writer, row)  # no commit: the build is killed here
    resumed = plan_of(source, tmp_path)
    assert (len(resumed.pending), len(resumed.finished), resumed.first_row) == (1, 2, 5)
    summary = build(source, tmp_path)
    assert (summary.version, summary.processed, summary.refused) == (2, 1, 0)
    assert open_store(tmp_path / "store").table["fracture"].all()


def test_a_file_name_that_is_not_utf8_is_accepted(source: Path, tmp_path: Path) -> None:
    first = slices(source, 0)[0]
    first.rename(first.with_name(os.fsdecode(b"Sch\xe4del.dcm")))
    summary = build(source, tmp_path)
    assert (summary.processed, summary.refused) == (3, 0)
    assert build(source, tmp_path).unchanged == 3


def test_studies_in_an_archive_never_wait(phantom: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "source.zip", "w") as archive:
        for path in phantom.rglob("*"):
            archive.write(path, path.relative_to(phantom))
    assert len(plan_of(tmp_path / "source.zip", tmp_path, HOUR_S).pending) == 3
    assert build(tmp_path / "source.zip", tmp_path).processed == 3
    # Another archive of the same files contains nothing new.
    with zipfile.ZipFile(tmp_path / "source.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(phantom.rglob("*")):
            archive.write(path, path.relative_to(phantom))
    assert plan_of(tmp_path / "source.zip", tmp_path).committed == 3


def test_only_transient_refusals_are_retried(source: Path, tmp_path: Path) -> None:
    plan = plan_of(source, tmp_path)
    error = SourceUnreachable("status 503 after 10 tries")
    plan.writer.write_record(refusal_record(plan.pending[0], RECIPE, error, transient=True))
    plan.writer.write_record(refusal_record(plan.pending[1], RECIPE, error))
    retried = plan_of(source, tmp_path)
    assert [study.uid for study in retried.pending] == [uids(source)[0], uids(source)[2]]
    assert replace(retried.pending[0]) == plan.pending[0]
