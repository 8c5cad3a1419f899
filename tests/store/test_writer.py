"""Rows, records, versions and commits."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from spine_etl.errors import CommitConflict, StoreFingerprintDiffers, StoreNotFound
from spine_etl.store import Store, open_store
from spine_etl.store.arrays import RowArray
from spine_etl.store.check import check_store
from spine_etl.store.location import LocalLocation
from spine_etl.store.writer import StoreWriter
from tests.store.tiny import RECIPE, refused_record, voxels, write_study


def image_rows(store: Store) -> int:
    return zarr.open_array(Path(str(store.location)) / "image", mode="r").shape[0]


def test_each_row_is_written_once(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, RECIPE)
    first, _ = writer.write_row(0, voxels(1))
    second, _ = writer.write_row(0, voxels(2))
    assert (first, second) == (0, 1)


def test_rows_are_not_encoded_on_the_main_thread(tmp_path: Path) -> None:
    """There blosc would use threads of its own, which place a chunk's blocks in any order."""
    threads: list[threading.Thread] = []

    class Recorded(RowArray):
        def encode(self, voxels: np.ndarray) -> tuple[bytes, tuple[int, ...]]:
            threads.append(threading.current_thread())
            return super().encode(voxels)

    writer = StoreWriter(tmp_path, RECIPE)
    writer.arrays = {name: Recorded(**vars(array)) for name, array in writer.arrays.items()}
    writer.write_row(0, voxels(1))
    assert len(threads) == 4
    assert threading.main_thread() not in threads


def test_earlier_versions_never_change(store: Store) -> None:
    writer = StoreWriter(str(store.location), RECIPE)
    newer = writer.commit([write_study(writer, "1.1", 5), write_study(writer, "1.0", 6)])
    assert newer.version == 2
    assert newer.study_uids == ["1.0", "1.1", "1.2"]
    np.testing.assert_array_equal(newer.image(newer.index("1.1")), voxels(5)["image"])
    old = open_store(str(store.location), version=1)
    assert old.root_digest == store.root_digest
    np.testing.assert_array_equal(old.image(old.index("1.1")), voxels(1)["image"])


def test_commit_without_changes_makes_no_version(store: Store) -> None:
    writer = StoreWriter(str(store.location), RECIPE)
    records = [record for uid in ("1.1", "1.2") if (record := writer.record(uid))]
    assert len(records) == 2
    assert writer.commit([*records, refused_record("1.3")]).version == 1


def test_root_digest_does_not_depend_on_rows(tmp_path: Path, store: Store) -> None:
    writer = StoreWriter(tmp_path / "other", RECIPE)
    records = [
        write_study(writer, "1.1", 1, first=9),
        refused_record("1.3"),
        write_study(writer, "1.2", 2, positive=1, first=4),
    ]
    other = writer.commit(records)
    assert other.root_digest == store.root_digest
    assert other.table["row"].tolist() == [9, 4]


def test_refused_study_leaves_the_table(store: Store) -> None:
    writer = StoreWriter(str(store.location), RECIPE)
    newer = writer.commit([refused_record("1.2")])
    assert newer.study_uids == ["1.1"]
    assert [entry["uid"] for entry in newer.refused] == ["1.2", "1.3"]
    assert len(newer.table["box_study"]) == 0


def test_transient_refusal_removes_no_study(store: Store) -> None:
    writer = StoreWriter(str(store.location), RECIPE)
    newer = writer.commit([refused_record("1.2", transient=True), refused_record("1.7", transient=True)])
    assert newer.study_uids == store.study_uids
    np.testing.assert_array_equal(newer.image(1), store.image(1))
    assert [entry["uid"] for entry in newer.refused] == ["1.3", "1.7"]  # 1.7 was never in the store


def test_version_without_studies_can_be_extended(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "store", RECIPE)
    empty = writer.commit([refused_record("1.1")])
    assert (empty.version, len(empty)) == (1, 0)
    assert writer.commit([refused_record("1.1")]).version == 1
    later = writer.commit([write_study(writer, "1.1", 0)])
    assert (later.version, later.study_uids, later.refused) == (2, ["1.1"], [])


def test_folds_are_balanced_and_never_change(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, RECIPE)
    first = writer.commit([write_study(writer, f"1.{i}", i, positive=i % 2) for i in range(20)])
    overall, folds = first.table["patient_overall"], first.table["fold"]
    assert np.bincount(folds[overall == 1]).tolist() == [2] * 5
    assert np.bincount(folds[overall == 0]).tolist() == [2] * 5
    assigned = dict(zip(first.study_uids, folds.tolist(), strict=True))
    # One study is refused for a while, all get another label, and ten are added: no fold changes.
    writer.commit([refused_record("1.3")])
    later = writer.commit([write_study(writer, f"1.{i}", 50 + i, positive=1 - i % 2) for i in range(30)])
    later_folds = dict(zip(later.study_uids, later.table["fold"].tolist(), strict=True))
    assert {uid: later_folds[uid] for uid in assigned} == assigned


def folds_by_uid(store: Store) -> dict[str, int]:
    return dict(zip(store.study_uids, store.table["fold"].tolist(), strict=True))


def test_given_folds_make_a_version_of_the_same_rows(store: Store) -> None:
    writer = StoreWriter(str(store.location), RECIPE)
    given = {"1.1": 2, "1.2": 0, "1.3": 1, "9.9": 0}
    newer = writer.commit([], given)
    assert (newer.version, newer.fingerprint) == (2, store.fingerprint)
    assert newer.root_digest != store.root_digest
    assert (newer.recipe.folds, newer.folds.count) == (3, 3)
    assert folds_by_uid(newer) == {"1.1": 2, "1.2": 0}
    assert [(entry["uid"], entry["fold"]) for entry in newer.refused] == [("1.3", 1)]
    assert newer.table["row"].tolist() == store.table["row"].tolist()
    assert folds_by_uid(open_store(str(store.location), 1)) == folds_by_uid(store)
    assert writer.commit([], given).version == 2  # nothing differs
    assert writer.commit([]).version == 2  # later builds keep the folds without the table
    later = writer.commit([write_study(writer, "1.3", 3), write_study(writer, "1.9", 9)])
    assert folds_by_uid(later) == {"1.1": 2, "1.2": 0, "1.3": 1, "1.9": 0}
    assert (later.version, later.folds) == (3, newer.folds)


def test_another_number_of_folds_divides_all_studies_again(tmp_path: Path) -> None:
    five = StoreWriter(tmp_path, RECIPE)
    first = five.commit([write_study(five, f"1.{i}", i, positive=i % 2) for i in range(12)])
    assert sorted(set(folds_by_uid(first).values())) == [0, 1, 2, 3, 4]
    three = StoreWriter(tmp_path, RECIPE.model_copy(update={"folds": 3}))
    second = three.commit([])
    assert (second.version, second.recipe.folds) == (2, 3)
    assert np.bincount(second.table["fold"]).tolist() == [4, 4, 4]
    assert second.table["row"].tolist() == first.table["row"].tolist()
    assert three.commit([]).version == 2
    at_once = StoreWriter(tmp_path / "other", RECIPE.model_copy(update={"folds": 3}))
    built = at_once.commit([write_study(at_once, f"1.{i}", i, positive=i % 2) for i in range(12)])
    assert built.root_digest == second.root_digest


def test_studies_that_are_not_in_the_table_of_folds_get_one(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, RECIPE)
    store = writer.commit(
        [write_study(writer, f"1.{i}", i) for i in range(4)], {"1.0": 0, "1.1": 0, "1.2": 1}
    )
    assert folds_by_uid(store) == {"1.0": 0, "1.1": 0, "1.2": 1, "1.3": 1}


def test_store_of_another_recipe_is_refused(store: Store) -> None:
    other = RECIPE.model_copy(update={"other_labels": {"T1": 8}})
    with pytest.raises(StoreFingerprintDiffers):
        StoreWriter(str(store.location), other)


def test_foreign_zarr_group_is_refused(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "foreign")
    with pytest.raises(StoreNotFound):
        StoreWriter(tmp_path / "foreign", RECIPE)


def test_unpublished_commit_is_read_and_published_later(store: Store) -> None:
    root = Path(str(store.location)) / "zarr.json"
    before = root.read_bytes(), (root.parent / "image/zarr.json").read_bytes()
    writer = StoreWriter(str(store.location), RECIPE)
    writer.commit([write_study(writer, "1.9", 9, first=5)])
    root.write_bytes(before[0])  # as if the process had been killed right after the commit
    (root.parent / "image/zarr.json").write_bytes(before[1])
    assert open_store(str(store.location)).version == 2
    StoreWriter(str(store.location), RECIPE)
    assert json.loads(root.read_text())["attributes"]["spine_etl"]["latest"]["version"] == 2
    assert image_rows(store) == 6


def test_arrays_keep_the_rows_of_older_versions(store: Store) -> None:
    rows = store.table.rows
    writer = StoreWriter(str(store.location), RECIPE)
    smaller = writer.commit([refused_record(store.study_uids[int(np.argmax(store.table["row"]))])])
    assert smaller.table.rows < rows == smaller.rows
    assert image_rows(store) == rows


class OvertakenOnCommit(LocalLocation):
    """Another build commits first, this many times."""

    def __init__(self, root: Path, rivals: int) -> None:
        super().__init__(root)
        self.rivals = rivals

    def create(self, key: str, content: bytes) -> None:
        if key.startswith("versions/") and self.rivals:
            self.rivals -= 1
            raise FileExistsError
        super().create(key, content)


def test_twentieth_try_of_a_commit_is_the_last(store: Store) -> None:
    root = Path(str(store.location))
    writer = StoreWriter(root, RECIPE)
    records = [write_study(writer, "1.9", 9)]
    writer.location = OvertakenOnCommit(root, 20)
    with pytest.raises(CommitConflict, match="was committed by another build"):
        writer.commit(records)
    assert open_store(root).study_uids == store.study_uids
    writer.location = OvertakenOnCommit(root, 19)
    assert writer.commit(records).study_uids == ["1.1", "1.2", "1.9"]
    assert open_store(root).version == 2


class OvertakenLocation(LocalLocation):
    """Runs another commit just before the first object of a version's table is written."""

    def __init__(self, root: Path, other_commit: Callable[[], object]) -> None:
        super().__init__(root)
        self.other_commit: Callable[[], object] | None = other_commit
        self.lock = threading.Lock()

    def write(self, key: str, content: bytes) -> None:
        with self.lock:  # several threads write a table
            if key.startswith("versions/") and self.other_commit:
                self.other_commit, commit = None, self.other_commit
                commit()
        super().write(key, content)


def test_concurrent_commits_of_the_same_studies_leave_a_readable_version(tmp_path: Path) -> None:
    """The rows of the two builds differ, but their root digests do not."""
    one, two = StoreWriter(tmp_path / "store", RECIPE), StoreWriter(tmp_path / "store", RECIPE)
    records_of_one, records_of_two = (
        [write_study(writer, f"1.{i}", i) for i in range(3)] for writer in (one, two)
    )
    assert {record.row for record in records_of_one}.isdisjoint({record.row for record in records_of_two})
    one.location = OvertakenLocation(tmp_path / "store", lambda: two.commit(records_of_two))
    committed = one.commit(records_of_one)
    store = open_store(tmp_path / "store")
    assert (store.version, store.root_digest) == (1, committed.root_digest)
    assert list(check_store(store)) == []
    for i in range(3):
        np.testing.assert_array_equal(store.image(i), voxels(i)["image"])
