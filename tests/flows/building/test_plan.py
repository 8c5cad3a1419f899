"""Which studies a build takes on, and which it leaves because somebody may still be copying them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from flows.building.plan import Plan, plan_build
from flows.building.summary import finish
from spine_etl.errors import SourceUnreachable
from spine_etl.phantom import write_phantom
from spine_etl.pipeline import process_study, refuse
from spine_etl.recipe import load_recipe
from spine_etl.store import open_store
from spine_etl.store.writer import StoreWriter

RECIPE = load_recipe("quick")
HOUR = 3600.0


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("phantom")
    write_phantom(source, 3, 3, size=96, slices=40)
    return source


@pytest.fixture
def source(phantom: Path, tmp_path: Path) -> Path:
    """A copy that keeps the dates of the files, as ``cp -p`` and rsync make it."""
    return Path(shutil.copytree(phantom, tmp_path / "source"))


def planned(source: Path | str, tmp_path: Path, settle_s: float = 0) -> Plan:
    return plan_build(source, tmp_path / "store", RECIPE, threads=2, settle_s=settle_s)


def build(source: Path, tmp_path: Path, settle_s: float = 0):
    plan = planned(source, tmp_path, settle_s)
    return finish(plan, [process_study(study, plan.writer) for study in plan.pending], time.monotonic())


def uids(source: Path) -> list[str]:
    return sorted(path.name for path in (source / "train_images").iterdir())


def slices(source: Path, study: int) -> list[Path]:
    return sorted((source / "train_images" / uids(source)[study]).iterdir())


def test_what_was_just_copied_is_left(source: Path, tmp_path: Path) -> None:
    for path in source.rglob("*"):
        os.utime(path, (0, 0))
    plan = planned(source, tmp_path, HOUR)
    assert sorted(plan.unsettled) == uids(source)
    assert all(0 <= seconds < 60 for seconds in plan.unsettled.values())
    assert plan.pending == []
    summary = finish(plan, [], time.monotonic())
    assert (summary.version, summary.processed, summary.refused) == (0, 0, 0)
    assert summary.line()["left"] == 3
    assert StoreWriter(tmp_path / "store", RECIPE).latest() is None


def test_what_was_left_in_peace_is_taken(source: Path, tmp_path: Path) -> None:
    time.sleep(0.6)
    plan = planned(source, tmp_path, 0.5)
    assert [study.uid for study in plan.pending] == uids(source)
    assert plan.unsettled == {}


def test_without_settling_nothing_waits(source: Path, tmp_path: Path) -> None:
    assert len(planned(source, tmp_path).pending) == 3


def test_a_study_that_grows_is_left_and_what_is_committed_stays(source: Path, tmp_path: Path) -> None:
    assert build(source, tmp_path).processed == 3
    before = open_store(tmp_path / "store")
    changed, content = slices(source, 0)[5], bytearray(slices(source, 0)[5].read_bytes())
    content[-3] ^= 1
    changed.write_bytes(content)
    slices(source, 1)[0].touch()  # another date, the same bytes: nothing to wait for
    shutil.copytree(slices(source, 2)[0].parent, source / "train_images/1.2.3.4")
    (source / "train_images/1.2.3.4/9.dcm").unlink()
    left = build(source, tmp_path, HOUR)
    assert sorted(left.left) == sorted([changed.parent.name, "1.2.3.4"])
    assert (left.processed, left.unchanged, left.refused, left.version) == (0, 2, 0, 1)
    assert open_store(tmp_path / "store").root_digest == before.root_digest == left.root_digest
    taken = build(source, tmp_path)
    assert (taken.processed, taken.unchanged, taken.refused, taken.left) == (1, 2, 1, {})
    assert taken.refusals[0]["uid"] == "1.2.3.4"


def test_a_segmentation_that_is_copied_last_is_waited_for(source: Path, tmp_path: Path) -> None:
    time.sleep(0.6)
    mask = sorted((source / "segmentations").iterdir())[0]
    mask.write_bytes(mask.read_bytes())
    assert list(planned(source, tmp_path, 0.5).unsettled) == [mask.name.removesuffix(".nii")]


def test_all_new_ones_wait_for_the_tables(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path)
    time.sleep(0.6)
    labels = (source / "train.csv").read_text().splitlines(keepends=True)
    (source / "train.csv").write_text("".join(labels[:2]))  # half of it has come
    assert len(planned(source, tmp_path, 0.5).unsettled) == 2
    (source / "train.csv").write_text("".join(labels))
    plan = planned(source, tmp_path, 0.5)
    assert (plan.committed, plan.unsettled, plan.pending) == (3, {}, [])


def test_a_source_of_which_all_was_refused_is_built_once_it_is_mended(source: Path, tmp_path: Path) -> None:
    table = source / "train.csv"
    sound = table.read_text()
    header, *rows = sound.splitlines()
    table.write_text("\n".join([header, *(row.replace(",", ",x", 1) for row in rows)]) + "\n")
    first = build(source, tmp_path)
    assert (first.version, first.processed, first.refused) == (1, 0, 3)
    table.write_text(sound)
    second = build(source, tmp_path)
    assert (second.version, second.processed, second.refused) == (2, 3, 0)


def test_a_killed_build_of_changed_studies_is_gone_on_with(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path)
    table = source / "train.csv"
    header, *rows = table.read_text().splitlines()
    flipped = [",".join([row.split(",")[0], *["1"] * 8]) for row in rows]
    table.write_text("\n".join([header, *flipped]) + "\n")
    plan = planned(source, tmp_path)
    assert len(plan.pending) == 3
    for row, study in enumerate(plan.pending[:2], plan.first_row):
        process_study(study, plan.writer, row)  # and then it was killed
    again = planned(source, tmp_path)
    assert (len(again.pending), len(again.finished), again.first_row) == (1, 2, 5)
    store = build(source, tmp_path)
    assert (store.version, store.processed, store.refused) == (2, 1, 0)
    assert open_store(tmp_path / "store").table["fracture"].all()


def test_a_file_with_a_name_of_another_encoding_costs_nothing(source: Path, tmp_path: Path) -> None:
    first = slices(source, 0)[0]
    first.rename(first.with_name(os.fsdecode(b"Sch\xe4del.dcm")))
    summary = build(source, tmp_path)
    assert (summary.processed, summary.refused) == (3, 0)
    assert build(source, tmp_path).unchanged == 3


def test_an_archive_has_no_dates_to_wait_for(phantom: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "source.zip", "w") as archive:
        for path in phantom.rglob("*"):
            archive.write(path, path.relative_to(phantom))
    assert len(planned(tmp_path / "source.zip", tmp_path, HOUR).pending) == 3
    assert build(tmp_path / "source.zip", tmp_path).processed == 3
    # Another archive of the same bytes holds nothing new.
    with zipfile.ZipFile(tmp_path / "source.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(phantom.rglob("*")):
            archive.write(path, path.relative_to(phantom))
    assert planned(tmp_path / "source.zip", tmp_path).committed == 3


def test_what_could_not_be_reached_is_tried_again(source: Path, tmp_path: Path) -> None:
    plan = planned(source, tmp_path)
    fault = SourceUnreachable("status 503 after 10 tries")
    plan.writer.write_record(refuse(plan.pending[0], RECIPE, fault, transient=True))
    plan.writer.write_record(refuse(plan.pending[1], RECIPE, fault))
    again = planned(source, tmp_path)
    assert [study.uid for study in again.pending] == [uids(source)[0], uids(source)[2]]
    assert replace(again.pending[0]) == plan.pending[0]


@pytest.mark.integration
def test_the_command_tells_what_it_left(source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows.build_dataset", "--source", str(source), "--recipe", "quick"]
    asked = [*command, "--store", str(tmp_path / "store"), "--settle", "30", "--json"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert (line["processed"], line["left"], line["version"]) == (0, 3, 0)
    for uid in uids(source):
        assert f"{uid} is still being copied (last change " in done.stderr
    assert "the next build takes it." in done.stderr
    wrong = subprocess.run([*command, "--store", "x", "--settle", "soon"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "a number of minutes" in wrong.stderr
