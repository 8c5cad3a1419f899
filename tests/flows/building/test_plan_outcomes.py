"""The outcome of a study's comparison: one row for each state of its files and of the store, and the limit of
the settling time by a clock."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from flows.building.plan import Plan, plan_build
from flows.building.request import BuildRequest
from model.localizer.localizer import Localizer
from spine_etl.source.layout import Study, discover_studies
from spine_etl.store.record import Record
from spine_etl.store.writer import StoreWriter
from spine_etl.study_record import refusal_record, source_digest
from tests.flows.building.tiny_source import (
    Content,
    refused,
    stored,
    transiently_refused,
    write_source,
)
from tests.model.localizer.untrained import save_untrained_fold
from tests.store.tiny import RECIPE

UID, OTHER = "1.2.3", "1.2.4"
OLD = Content(slices=("first", "second"), mask="a mask", labels="1,0,1", box="1,2,3,4,5")


@dataclass(frozen=True)
class Store:
    """What the store has of the study: the newest version, or a record of an uncommitted build."""

    committed: bool = False
    record: Callable[[Study], Record] | None = None


NOTHING, COMMITTED = Store(), Store(committed=True)
STORED = Store(record=lambda study: stored(study, 7))
REFUSED, TRANSIENT = Store(record=refused), Store(record=transiently_refused)
OTHER_FINGERPRINT = Store(record=lambda study: stored(study, 7, "f" * 64))


def discovered(source: Path) -> Study:
    return next(study for study in discover_studies(source, list(RECIPE.levels)) if study.uid == UID)


def prepare(tmp_path: Path, store: Store, before: Content = OLD) -> StoreWriter:
    """A source with the study and one that no build has, and a store that has compared the study before."""
    write_source(tmp_path / "source", {UID: before, OTHER: Content()})
    writer = StoreWriter(tmp_path / "store", RECIPE)
    study = discovered(tmp_path / "source")
    if store.committed:
        record = stored(study, 3)
        writer.write_record(record)
        writer.commit([record])
    if store.record:
        writer.write_record(store.record(study))
    return writer


def plan_of(
    tmp_path: Path,
    settle_s: float = 0,
    now: Callable[[], float] | None = None,
    localizer: str | None = None,
) -> Plan:
    request = BuildRequest(
        str(tmp_path / "source"),
        str(tmp_path / "store"),
        RECIPE,
        workers=1,
        settle_s=settle_s,
        localizer=localizer,
    )
    return plan_build(request, now) if now else plan_build(request)


def outcome(plan: Plan, uid: str = UID) -> str:
    """Where the plan has the study; it must be in one place only."""
    places = {
        "finished": [record.uid for record in plan.finished],
        "pending": [study.uid for study in plan.pending],
        "left": list(plan.unsettled),
    }
    found = [name for name, uids in places.items() for found in uids if found == uid]
    assert len(found) <= 1
    return found[0] if found else "committed" if plan.committed else "gone"


@pytest.mark.parametrize(
    ("store", "now", "expected", "first_row"),
    [
        # The study's files are as they were.
        (NOTHING, OLD, "pending", 0),
        (COMMITTED, OLD, "committed", 4),
        (STORED, OLD, "finished", 8),
        (REFUSED, OLD, "finished", 0),
        (TRANSIENT, OLD, "pending", 0),
        (OTHER_FINGERPRINT, OLD, "pending", 0),
        # A committed study stays, whatever a later build has recorded of it.
        (replace(COMMITTED, record=refused), OLD, "committed", 4),
        (replace(COMMITTED, record=transiently_refused), OLD, "committed", 4),
        (replace(COMMITTED, record=OTHER_FINGERPRINT.record), OLD, "committed", 4),
        # One of them has changed.
        *((store, replace(OLD, **change), "pending", row)
          for store, row in ((COMMITTED, 4), (STORED, 0), (REFUSED, 0))
          for change in (
              {"slices": ("first", "changed")}, {"slices": ("second", "first")}, {"slices": ("first",)},
              {"slices": ("first", "second", "third")}, {"mask": "another"}, {"mask": None},
              {"labels": "1,1,1"}, {"labels": None}, {"labels": "1,x,1"},
              {"box": "1,2,3,4,6"}, {"box": None},
          )),
        # It is gone: the version keeps it, and the plan does not mention it.
        (COMMITTED, None, "committed elsewhere", 4),
        (STORED, None, "gone", 0),
        (REFUSED, None, "gone", 0),
    ],
)  # fmt: skip
def test_outcome_of_a_study(
    store: Store, now: Content | None, expected: str, first_row: int, tmp_path: Path
) -> None:
    prepare(tmp_path, store)
    studies = {OTHER: Content()} | ({UID: now} if now else {})
    write_source(tmp_path / "source", studies)
    plan = plan_of(tmp_path)
    assert outcome(plan, OTHER) == "pending"
    if expected == "committed elsewhere":
        assert (plan.committed, plan.finished, len(plan.pending)) == (0, [], 1)
        newest = plan.writer.latest()
        assert newest is not None
        assert newest.study_uids == [UID]
    else:
        assert outcome(plan) == expected
    assert plan.first_row == first_row


@pytest.mark.parametrize("end", ["stored", "refused"])
def test_a_committed_study_that_changed_and_was_processed_by_a_killed_build_is_finished(
    end: str, tmp_path: Path
) -> None:
    writer = prepare(tmp_path, COMMITTED)
    write_source(tmp_path / "source", {UID: replace(OLD, mask="another"), OTHER: Content()})
    study = discovered(tmp_path / "source")
    writer.write_record(stored(study, 9) if end == "stored" else refused(study))
    plan = plan_of(tmp_path)
    assert outcome(plan) == "finished"
    assert plan.first_row == (10 if end == "stored" else 4)


def test_a_change_of_dates_alone_changes_nothing(tmp_path: Path) -> None:
    prepare(tmp_path, COMMITTED)
    for path in (tmp_path / "source").rglob("*"):
        os.utime(path, (1, 1))
    assert outcome(plan_of(tmp_path)) == "committed"


@pytest.mark.parametrize("fault", ["mask", "slice"])
def test_a_study_that_cannot_be_read_is_pending_in_every_build(fault: str, tmp_path: Path) -> None:
    writer = prepare(tmp_path, NOTHING)
    source = tmp_path / "source"
    path = source / ("segmentations/1.2.3.nii" if fault == "mask" else "train_images/1.2.3/1.dcm")
    path.unlink()
    path.symlink_to("nowhere")
    for _ in range(2):
        assert outcome(plan_of(tmp_path)) == "pending"
        writer.write_record(refused(discovered(source)))


def test_only_studies_without_a_mask_depend_on_the_localizer(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("another", 2)):
        save_untrained_fold(tmp_path / name, RECIPE, seed=seed)
    write_source(tmp_path / "source", {UID: replace(OLD, mask=None), OTHER: OLD})
    writer = StoreWriter(tmp_path / "store", RECIPE)
    localizer = Localizer(tmp_path / "one")
    for row, study in enumerate(discover_studies(tmp_path / "source", list(RECIPE.levels))):
        digest = source_digest(study, localizer=localizer)
        writer.write_record(stored(study, row).model_copy(update={"source_digest": digest}))
    for name, expected in (("one", "finished"), ("another", "pending"), (None, "pending")):
        plan = plan_of(tmp_path, localizer=name and str(tmp_path / name))
        assert (outcome(plan), outcome(plan, OTHER)) == (expected, "finished"), name


def test_a_refusal_for_its_name_is_repeated_without_processing(tmp_path: Path) -> None:
    write_source(tmp_path / "source", {"a name": Content(), OTHER: Content()})
    plan = plan_of(tmp_path)
    (study,) = [study for study in plan.pending if study.problem]
    assert study.problem
    plan.writer.write_record(refusal_record(study, RECIPE, study.problem))
    again = plan_of(tmp_path)
    assert [record.uid for record in again.finished] == [study.uid]
    assert [study.uid for study in again.pending] == [OTHER]


def changed_at(source: Path) -> float:
    """The newest change of anything in the source that concerns the study, or of the tables."""
    paths = [source / "train_images" / UID, *(source / "train_images" / UID).iterdir()]
    paths += [source / "segmentations" / f"{UID}.nii", source / "train.csv"]
    paths += [source / "train_bounding_boxes.csv"]
    return max(path.stat().st_ctime for path in paths)


@pytest.mark.parametrize(
    ("settle_s", "age_s", "expected"),
    [
        (600, 0, "left"), (600, 599.9, "left"), (600, 600, "pending"), (600, 600.1, "pending"),
        (600, -3600, "left"),  # a clock that was set back
        (0.5, 0.4, "left"), (0.5, 0.5, "pending"),
        (0, 0, "pending"), (0, -3600, "pending"),
    ],
)  # fmt: skip
def test_a_new_study_settles_after_exactly_this_time(
    settle_s: float, age_s: float, expected: str, tmp_path: Path
) -> None:
    write_source(tmp_path / "source", {UID: OLD})
    began = changed_at(tmp_path / "source")
    plan = plan_of(tmp_path, settle_s, lambda: began + age_s)
    assert outcome(plan) == expected
    if expected == "left":
        assert plan.unsettled[UID] == pytest.approx(max(age_s, 0), abs=1e-3)


@pytest.mark.parametrize("part", ["train_images/1.2.3/2.dcm", "segmentations/1.2.3.nii", "train.csv",
                                  "train_bounding_boxes.csv"])  # fmt: skip
def test_each_file_of_a_study_and_the_tables_must_settle(part: str, tmp_path: Path) -> None:
    write_source(tmp_path / "source", {UID: OLD})
    earlier = changed_at(tmp_path / "source")
    path, later = tmp_path / "source" / part, earlier
    while later <= earlier + 0.02:  # the clock of the file system has steps of some milliseconds
        path.write_text(path.read_text())
        later = path.stat().st_ctime
    assert outcome(plan_of(tmp_path, 600, lambda: earlier + 600.01)) == "left"
    assert outcome(plan_of(tmp_path, 600, lambda: later + 600)) == "pending"


def test_a_change_of_another_study_is_no_reason_to_wait(tmp_path: Path) -> None:
    write_source(tmp_path / "source", {UID: OLD, OTHER: OLD})
    earlier = changed_at(tmp_path / "source")
    path, later = tmp_path / "source/train_images" / OTHER / "1.dcm", earlier
    while later <= earlier + 0.02:
        path.write_text(path.read_text())
        later = path.stat().st_ctime
    plan = plan_of(tmp_path, 600, lambda: earlier + 600)
    assert (outcome(plan), outcome(plan, OTHER)) == ("pending", "left")


@pytest.mark.parametrize("store", [COMMITTED, STORED, REFUSED])
def test_an_unchanged_study_never_waits(store: Store, tmp_path: Path) -> None:
    prepare(tmp_path, store)
    began = changed_at(tmp_path / "source")
    plan = plan_of(tmp_path, 600, lambda: began)
    assert outcome(plan) == ("committed" if store.committed else "finished")
    assert outcome(plan, OTHER) == "left"


def test_without_an_injected_clock_the_machines_own_is_used(tmp_path: Path) -> None:
    write_source(tmp_path / "source", {UID: OLD})
    assert outcome(plan_of(tmp_path, 3600)) == "left"
    assert 0 <= plan_of(tmp_path, 3600).unsettled[UID] < 3600
