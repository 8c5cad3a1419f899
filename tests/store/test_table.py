"""A version's table: its order, its digest, and the boxes of its studies."""

from __future__ import annotations

import numpy as np

from spine_etl.errors import StudyWarning
from spine_etl.store.record import Record
from spine_etl.store.table import NO_FOLD, VersionTable, table_from_records
from tests.store.tiny import BOX, RECIPE, no_objects, refused_record

LEVELS = list(RECIPE.levels)
UIDS = ("1.3", "1.1", "1.2")


def record(uid: str, row: int = 0, slice_numbers: tuple[int, ...] = ()) -> Record:
    """A record without crops, with a box and a run of C2 in each of these slices."""
    return Record.model_validate(
        {
            "uid": uid,
            "fingerprint": RECIPE.fingerprint,
            "source_digest": "0" * 64,
            "row": row,
            "objects": no_objects(),
            "levels": {level: {"status": "unlocated"} for level in LEVELS},
            "boxes": [BOX.model_copy(update={"slice_number": number}) for number in slice_numbers],
            "slice_runs": {"C2": [(number, number) for number in slice_numbers]},
        }
    )


def boxes_by_uid(table: VersionTable) -> list[tuple[str, int]]:
    """Each box with its study, which are those of the runs too."""
    assert table["run_study"].tolist() == table["box_study"].tolist()
    assert table["run_slices"].tolist() == [[number, number] for number in table["box_slice_number"].tolist()]
    assert (table["run_label"] == 2).all()
    uids = [table.study_uids[study] for study in table["box_study"].tolist()]
    return list(zip(uids, table["box_slice_number"].tolist(), strict=True))


def test_studies_and_their_boxes_are_sorted_by_uid() -> None:
    table = table_from_records([record("1.3", 5, (7, 3)), record("1.10", 4, (9,)), record("1.2", 3)], RECIPE)
    assert table.study_uids == ["1.10", "1.2", "1.3"]
    assert table["row"].tolist() == [4, 3, 5]
    assert boxes_by_uid(table) == [("1.10", 9), ("1.3", 7), ("1.3", 3)]
    assert table.rows == 6


def test_many_boxes_of_a_study_keep_their_order() -> None:
    """More than sixteen, from where on numpy's default sort is not stable."""
    numbers = {uid: tuple(np.random.default_rng(int(uid[2:])).permutation(300).tolist()) for uid in UIDS}
    table = table_from_records([record(uid, row, numbers[uid]) for row, uid in enumerate(UIDS)], RECIPE)
    newer = table_from_records([record("1.4", 9, (5, 3))], RECIPE)
    for version in (table, table_from_records([], RECIPE).updated(table, {}, 5)):
        assert boxes_by_uid(version) == [(uid, number) for uid in sorted(UIDS) for number in numbers[uid]]
    kept = [(uid, number) for uid in ("1.2", "1.3") for number in numbers[uid]]
    updated = table.without({"1.1"}).updated(newer, {}, 5)
    assert boxes_by_uid(updated) == [*kept, ("1.4", 5), ("1.4", 3)]


def test_values_that_are_unknown() -> None:
    table = table_from_records([record("1.2")], RECIPE)
    assert table["fold"].tolist() == [NO_FOLD]
    assert table["patient_overall"].tolist() == [-1]
    assert table["fracture"].tolist() == [[-1, -1]]
    assert table["level_slices"].tolist() == [[[-1, -1], [-1, -1]]]
    assert np.isnan(table["crop_origin_mm"]).all()


def test_refused_studies_are_left_out() -> None:
    table = table_from_records([refused_record("1.1"), record("1.2")], RECIPE)
    assert table.study_uids == ["1.2"]


def test_table_without_studies() -> None:
    table = table_from_records([], RECIPE)
    assert (len(table), table.rows, table.study_uids) == (0, 0, [])
    assert table["fracture"].shape == (0, 2)


def test_digests_ignore_rows_and_the_order_of_records() -> None:
    def digests(*records: Record) -> dict[str, str]:
        return table_from_records(records, RECIPE).digests()

    expected = digests(record("1.2", 0, (7,)), record("1.3", 1, (8, 9)))
    assert digests(record("1.3", 4, (8, 9)), record("1.2", 6, (7,))) == expected
    other_uid = digests(record("1.2", 0, (7,)), record("1.4", 1, (8, 9)))
    assert {name for name in expected if other_uid[name] != expected[name]} == {"study_uid_ascii"}
    other_box = digests(record("1.2", 0, (7, 8)), record("1.3", 1, (9,)))
    assert {name for name in expected if other_box[name] != expected[name]} == {"box_row", "run_row"}


def test_codes_are_sorted_and_only_those_in_use() -> None:
    def warned(uid: str, *codes: str, mask_name: str = "") -> Record:
        warnings = tuple(StudyWarning(code, "a text.") for code in codes)
        return record(uid).model_copy(update={"warnings": warnings, "mask_name": mask_name})

    old = table_from_records([warned("1.1", "B", "B"), warned("1.2", "C", mask_name="z")], RECIPE)
    assert (old.mask_names, old.warning_codes) == (("", "z"), ("B", "C"))
    assert old["warnings"].tolist() == [[2, 0], [0, 1]]
    new = old.updated(table_from_records([warned("1.2", "A", mask_name="a"), warned("1.3")], RECIPE), {}, 5)
    assert (new.mask_names, new.warning_codes) == (("", "a"), ("A", "B"))
    assert new["warnings"].tolist() == [[0, 2], [1, 0], [0, 0]]
    assert new["mask_name"].tolist() == [0, 1, 0]
    at_once = [warned("1.1", "B", "B"), warned("1.2", "A", mask_name="a"), warned("1.3")]
    expected = table_from_records([], RECIPE).updated(table_from_records(at_once, RECIPE), {}, 5)
    assert new.digests() == expected.digests()


def test_without_removes_studies_and_their_boxes() -> None:
    table = table_from_records(
        [record("1.1", 0, (1,)), record("1.2", 1, (2,)), record("1.3", 2, (3,))], RECIPE
    )
    assert boxes_by_uid(table.without({"1.2", "1.9"})) == [("1.1", 1), ("1.3", 3)]


def test_updated_replaces_studies_and_keeps_folds() -> None:
    old = table_from_records([record(f"1.{n}", n, (n,)) for n in range(4)], RECIPE)
    old = table_from_records([], RECIPE).updated(old, {"1.0": 1}, 2)
    assert old["fold"][0] == 1
    assert np.bincount(old["fold"]).tolist() == [2, 2]
    folds = {**dict(zip(old.study_uids, old["fold"].tolist(), strict=True)), "1.7": 0}
    new = old.updated(table_from_records([record("1.1", 9, (8,)), record("1.7", 8)], RECIPE), folds, 2)
    assert new.study_uids == ["1.0", "1.1", "1.2", "1.3", "1.7"]
    assert new["row"].tolist() == [0, 9, 2, 3, 8]
    assert new["fold"].tolist() == [*old["fold"].tolist(), 0]
    assert boxes_by_uid(new) == [("1.0", 0), ("1.1", 8), ("1.2", 2), ("1.3", 3)]
