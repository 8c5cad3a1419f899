"""The store: rows, records, versions, commits, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import xarray
import zarr

from spine_etl.errors import (
    ChunkCorrupt,
    ChunkMissing,
    SpineError,
    StoreFingerprintDiffers,
    StoreNotCommitted,
    StoreNotFound,
    StoreSchemaUnsupported,
    StoreUnreachable,
    StudyNotInStore,
)
from spine_etl.store import Store, open_store
from spine_etl.store.check import check_store
from spine_etl.store.location import LocalLocation
from spine_etl.store.record import Refusal
from spine_etl.store.writer import StoreWriter
from tests.store.tiny import RECIPE, build_alone, built, refused, voxels


@pytest.fixture
def store(tmp_path: Path) -> Store:
    writer = StoreWriter(tmp_path / "store", RECIPE)
    writer.commit([built(writer, "1.2", 2, positive=1), built(writer, "1.1", 1), refused("1.3")])
    return open_store(tmp_path / "store")


def chunk(store: Store, uid: str, name: str = "image") -> Path:
    row = int(store.table["row"][store.index(uid)])
    return Path(str(store.location)) / store.arrays[name].key(row)


def test_what_was_written_is_read(store: Store) -> None:
    assert store.study_uids == ["1.1", "1.2"]
    for uid, seed in (("1.1", 1), ("1.2", 2)):
        for name, expected in voxels(seed).items():
            np.testing.assert_array_equal(store.read(name, store.index(uid)), expected)
    second = store.index("1.2")
    assert store.table["fracture"][second].tolist() == [1, 0]
    assert store.located()[second].tolist() == [True, False]
    assert store.crop_grid(second, "C1").to_mm((0, 0, 0)).tolist() == [1.0, 2.0, 3.5]
    assert store.overview_grid(second).to_mm((1, 0, 0)).tolist() == [-1.0, -2.0, 1.0]
    assert store.table["box_study"].tolist() == [second]
    assert store.table["box_crop"][0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert np.isnan(store.table["box_crop"][0, 1]).all()
    assert [(entry["uid"], entry["code"]) for entry in store.refused] == [("1.3", "SLICE_GAP")]
    assert list(check_store(store)) == []


def test_into_a_buffer_that_is_there(store: Store) -> None:
    out = np.empty((2, 4, 6, 8), np.int16)
    assert store.image(0, out) is out
    np.testing.assert_array_equal(out, voxels(1)["image"])


@pytest.mark.parametrize("name", ["image", "mask", "overview/image", "overview/mask"])
def test_other_zarr_clients_read_the_same(store: Store, name: str) -> None:
    index = store.index("1.2")
    row, expected = int(store.table["row"][index]), voxels(2)[name]
    path = str(store.location)
    np.testing.assert_array_equal(zarr.open_array(f"{path}/{name}", mode="r")[row], expected)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/{name}/"}}
    np.testing.assert_array_equal(tensorstore.open(spec).result()[row].read().result(), expected)
    group, _, variable = name.rpartition("/")
    dataset = xarray.open_zarr(path, group=group or None, consolidated=False)
    np.testing.assert_array_equal(dataset[variable].isel(row=row).to_numpy(), expected)


def test_other_zarr_clients_find_and_read_the_version(store: Store) -> None:
    root = zarr.open_group(str(store.location), mode="r")
    path = root.attrs["spine_etl"]["latest"]["path"]
    table = xarray.open_zarr(str(store.location), group=path, consolidated=False)
    assert table["fracture"].sizes == {"study": 2, "level": 2}
    kvstore = {"driver": "file", "path": f"{store.location}/{path}/row/"}
    rows = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result().read().result()
    assert rows.tolist() == store.table["row"].tolist()


def test_a_row_is_claimed_by_one(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, RECIPE)
    first, _ = writer.write_row(0, voxels(1))
    second, _ = writer.write_row(0, voxels(2))
    assert (first, second) == (0, 1)


def test_versions_never_change(store: Store) -> None:
    writer = StoreWriter(str(store.location), RECIPE)
    newer = writer.commit([built(writer, "1.1", 5), built(writer, "1.0", 6)])
    assert newer.version == 2
    assert newer.study_uids == ["1.0", "1.1", "1.2"]
    np.testing.assert_array_equal(newer.image(newer.index("1.1")), voxels(5)["image"])
    old = open_store(str(store.location), version=1)
    assert old.root_digest == store.root_digest
    np.testing.assert_array_equal(old.image(old.index("1.1")), voxels(1)["image"])


def test_nothing_new_makes_no_version(store: Store) -> None:
    writer = StoreWriter(str(store.location), RECIPE)
    records = [record for uid in ("1.1", "1.2") if (record := writer.record(uid))]
    assert len(records) == 2
    assert writer.commit([*records, refused("1.3")]).version == 1


def test_the_root_digest_does_not_know_the_rows(tmp_path: Path, store: Store) -> None:
    writer = StoreWriter(tmp_path / "other", RECIPE)
    records = [built(writer, "1.1", 1, first=9), refused("1.3"), built(writer, "1.2", 2, positive=1, first=4)]
    other = writer.commit(records)
    assert other.root_digest == store.root_digest
    assert other.table["row"].tolist() == [9, 4]


def test_folds_spread_and_stay(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, RECIPE)
    first = writer.commit([built(writer, f"1.{i}", i, positive=i % 2) for i in range(20)])
    overall, folds = first.table["patient_overall"], first.table["fold"]
    assert np.bincount(folds[overall == 1]).tolist() == [2] * 5
    assert np.bincount(folds[overall == 0]).tolist() == [2] * 5
    given = dict(zip(first.study_uids, folds.tolist(), strict=True))
    # Every study gets another label, one is refused for a while, new ones come: none of them moves.
    writer.commit([refused("1.3")])
    later = writer.commit([built(writer, f"1.{i}", 50 + i, positive=1 - i % 2) for i in range(30)])
    moved = dict(zip(later.study_uids, later.table["fold"].tolist(), strict=True))
    assert {uid: moved[uid] for uid in given} == given


def test_a_refused_study_leaves_the_table(store: Store) -> None:
    writer = StoreWriter(str(store.location), RECIPE)
    newer = writer.commit([refused("1.2")])
    assert newer.study_uids == ["1.1"]
    assert [entry["uid"] for entry in newer.refused] == ["1.2", "1.3"]
    assert len(newer.table["box_study"]) == 0


def test_a_version_without_a_study_is_built_upon(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "store", RECIPE)
    empty = writer.commit([refused("1.1")])
    assert (empty.version, len(empty)) == (1, 0)
    assert writer.commit([refused("1.1")]).version == 1  # nothing new
    later = writer.commit([built(writer, "1.1", 0)])
    assert (later.version, later.study_uids, later.refused) == (2, ["1.1"], [])


def test_a_refusal_that_passes_takes_no_study_away(store: Store) -> None:
    writer = StoreWriter(str(store.location), RECIPE)
    lost = refused("1.2").model_copy(
        update={"refusal": Refusal(code="WORKER_LOST", reason="a.", action="b.", transient=True)}
    )
    new = writer.commit([lost, lost.model_copy(update={"uid": "1.7"})])
    assert new.study_uids == store.study_uids
    np.testing.assert_array_equal(new.image(1), store.image(1))
    assert [entry["uid"] for entry in new.refused] == ["1.3", "1.7"]  # this one was never here


@pytest.mark.parametrize("name", ["image", "mask", "overview/image", "overview/mask"])
def test_every_flipped_bit_is_found(store: Store, name: str) -> None:
    path = chunk(store, "1.2", name)
    content = bytearray(path.read_bytes())
    for position in np.linspace(0, len(content) - 1, 40).astype(int).tolist():
        content[position] ^= 1 << position % 8
        path.write_bytes(content)
        with pytest.raises(ChunkCorrupt) as caught:
            store.read(name, store.index("1.2"))
        assert caught.value.study == "1.2"
        content[position] ^= 1 << position % 8
    path.write_bytes(content)
    store.read(name, store.index("1.2"))


def test_check_finds_what_a_checksum_cannot(store: Store) -> None:
    # A whole object of another study: its own checksum is right, its place is not.
    chunk(store, "1.1").write_bytes(chunk(store, "1.2").read_bytes())
    assert [(fault.code, fault.study) for fault in check_store(store)] == [("CHUNK_CORRUPT", "1.1")]


def test_a_missing_object_is_no_fill(store: Store) -> None:
    chunk(store, "1.1").unlink()
    with pytest.raises(ChunkMissing, match=r"1\.1"):
        store.image(0)
    assert [fault.code for fault in check_store(store)] == ["CHUNK_MISSING"]


def test_a_lost_or_changed_table_is_no_fill(store: Store) -> None:
    commit = json.loads((Path(str(store.location)) / "versions/1/zarr.json").read_text())
    latest = commit["attributes"]["path"]
    column = Path(str(store.location)) / latest / "fracture/c/0/0"
    kept = column.read_bytes()
    column.unlink()
    with pytest.raises(SpineError) as caught:
        open_store(str(store.location))
    assert caught.value.code in {"CHUNK_CORRUPT", "CHUNK_MISSING"}
    column.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(ChunkCorrupt):
        open_store(str(store.location))


def test_digests_are_those_of_the_files(store: Store) -> None:
    expected = hashlib.sha256(chunk(store, "1.1").read_bytes()).digest()
    assert store.table["digest"][0, 0].tobytes() == expected


def test_what_is_no_store_is_refused(tmp_path: Path, store: Store) -> None:
    with pytest.raises(StoreNotFound):
        open_store(tmp_path / "nothing")
    zarr.create_group(tmp_path / "foreign")
    with pytest.raises(StoreNotFound):
        open_store(tmp_path / "foreign")
    with pytest.raises(StoreNotFound):
        StoreWriter(tmp_path / "foreign", RECIPE)
    StoreWriter(tmp_path / "begun", RECIPE)
    with pytest.raises(StoreNotCommitted):
        open_store(tmp_path / "begun")
    with pytest.raises(StoreNotCommitted):
        open_store(str(store.location), version=7)
    with pytest.raises(StudyNotInStore):
        store.index("9.9")


def test_another_schema_is_refused(store: Store) -> None:
    root = Path(str(store.location)) / "zarr.json"
    content = json.loads(root.read_text())
    content["attributes"]["spine_etl"]["schema_version"] = 99
    root.write_text(json.dumps(content))
    with pytest.raises(StoreSchemaUnsupported, match="99"):
        open_store(str(store.location))


def test_another_recipe_is_refused(store: Store) -> None:
    other = RECIPE.model_copy(update={"folds": 4})
    with pytest.raises(StoreFingerprintDiffers):
        StoreWriter(str(store.location), other)


def test_a_commit_that_was_not_published_counts(store: Store) -> None:
    root = Path(str(store.location)) / "zarr.json"
    before = root.read_bytes(), (root.parent / "image/zarr.json").read_bytes()
    writer = StoreWriter(str(store.location), RECIPE)
    writer.commit([built(writer, "1.9", 9, first=5)])
    root.write_bytes(before[0])  # as if the machine had stopped right after the commit
    (root.parent / "image/zarr.json").write_bytes(before[1])
    assert open_store(str(store.location)).version == 2
    StoreWriter(str(store.location), RECIPE)
    assert json.loads(root.read_text())["attributes"]["spine_etl"]["latest"]["version"] == 2
    assert zarr.open_array(root.parent / "image", mode="r").shape[0] == 6


class Overtaken(LocalLocation):
    """Just before this builder writes a version's table, another one commits."""

    def __init__(self, root: Path, other: Callable[[], object]) -> None:
        super().__init__(root)
        self.other: Callable[[], object] | None = other
        self.waiting = threading.Lock()

    def write(self, key: str, content: bytes) -> None:
        with self.waiting:  # several threads write a table
            if key.startswith("versions/") and self.other:
                self.other, other = None, self.other
                other()
        super().write(key, content)


def test_two_builds_of_the_same_studies_leave_a_version_that_can_be_read(tmp_path: Path) -> None:
    """Their rows differ and their root digests do not."""
    one, two = StoreWriter(tmp_path / "store", RECIPE), StoreWriter(tmp_path / "store", RECIPE)
    ours, theirs = ([built(writer, f"1.{i}", i) for i in range(3)] for writer in (one, two))
    assert {record.row for record in ours}.isdisjoint({record.row for record in theirs})
    one.location = Overtaken(tmp_path / "store", lambda: two.commit(theirs))
    committed = one.commit(ours)
    store = open_store(tmp_path / "store")
    assert (store.version, store.root_digest) == (1, committed.root_digest)
    assert list(check_store(store)) == []
    for i in range(3):
        np.testing.assert_array_equal(store.image(i), voxels(i)["image"])


def test_rows_of_older_versions_stay_within_the_arrays(store: Store) -> None:
    rows = store.table.rows
    writer = StoreWriter(str(store.location), RECIPE)
    fewer = writer.commit([refused(store.study_uids[int(np.argmax(store.table["row"]))])])
    assert fewer.table.rows < rows == fewer.rows
    assert zarr.open_array(Path(str(store.location)) / "image", mode="r").shape[0] == rows


@pytest.mark.parametrize("content", ["", "{}", "[]", "null"])
def test_a_damaged_commit_is_refused(store: Store, content: str) -> None:
    (Path(str(store.location)) / "versions/1/zarr.json").write_text(content)
    with pytest.raises(ChunkCorrupt, match="versions/1"):
        open_store(str(store.location))


def test_what_the_disk_refuses_has_a_code(store: Store) -> None:
    with pytest.raises(StoreUnreachable, match="versions cannot be read: Is a directory"):
        store.location.read("versions")


def test_a_damaged_root_is_refused(store: Store) -> None:
    root = Path(str(store.location)) / "zarr.json"
    content = json.loads(root.read_text())
    del content["attributes"]["spine_etl"]["fingerprint"]
    root.write_text(json.dumps(content))
    with pytest.raises(ChunkCorrupt, match=r"zarr\.json"):
        open_store(str(store.location))


def test_builds_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    builds = [context.Process(target=build_alone, args=(str(tmp_path), name)) for name in range(4)]
    for build in builds:
        build.start()
    for build in builds:
        build.join()
    assert [build.exitcode for build in builds] == [0] * 4
    store = open_store(tmp_path)
    assert len(store) == 12
    assert len(set(store.table["row"].tolist())) == 12
    assert list(check_store(store)) == []
    for index, uid in enumerate(store.study_uids):
        _, name, i = uid.split(".")
        np.testing.assert_array_equal(store.image(index), voxels(10 * int(name) + int(i))["image"])
