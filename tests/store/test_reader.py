"""Opening a version and reading its studies; refusal of damaged and foreign stores."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import zarr

from spine_etl.errors import (
    ChunkCorrupt,
    ChunkMissing,
    SpineError,
    StoreNotCommitted,
    StoreNotFound,
    StoreSchemaUnsupported,
    StudyNotInStore,
)
from spine_etl.store import Store, dataset_in, open_store
from spine_etl.store.check import check_store
from spine_etl.store.writer import StoreWriter
from tests.store.tiny import RECIPE, voxels, write_study


def root_path(store: Store) -> Path:
    return Path(str(store.location)) / "zarr.json"


def object_path(store: Store, uid: str, name: str = "image") -> Path:
    row = int(store.table["row"][store.index(uid)])
    return Path(str(store.location)) / store.arrays[name].key(row)


def test_version_has_the_arrays_and_the_table_that_were_written(store: Store) -> None:
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


def test_image_is_decoded_into_a_given_array(store: Store) -> None:
    out = np.empty((2, 4, 6, 8), np.int16)
    assert store.image(0, out) is out
    np.testing.assert_array_equal(out, voxels(1)["image"])


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("name", ["image", "mask"])
def test_one_crop_is_read_alone(store: Store, tmp_path: Path, name: str, cached: bool) -> None:
    store = open_store(str(store.location), cache=tmp_path / "cache" if cached else None)
    for level in (0, 1):
        np.testing.assert_array_equal(store.read_crop(name, 1, level), voxels(2)[name][level])
    object_path(store, "1.1", name).unlink()
    with pytest.raises(ChunkMissing, match=r"1\.1"):
        store.read_crop(name, 0, 0)


def test_damaged_crop_is_refused_and_the_others_are_read(store: Store) -> None:
    path = object_path(store, "1.2")
    content = bytearray(path.read_bytes())
    content[30] ^= 1  # in the first chunk
    path.write_bytes(content)
    with pytest.raises(ChunkCorrupt, match=r"1\.2"):
        store.read_crop("image", 1, 0)
    np.testing.assert_array_equal(store.read_crop("image", 1, 1), voxels(2)["image"][1])
    path.write_bytes(content[:40])
    with pytest.raises(ChunkCorrupt, match="index"):
        store.read_crop("image", 1, 1)


@pytest.mark.parametrize("name", ["image", "mask", "overview/image", "overview/mask"])
def test_exchanged_objects_are_detected_on_every_read(store: Store, name: str) -> None:
    """Each is intact, with a correct checksum of its own."""
    first, second = object_path(store, "1.1", name), object_path(store, "1.2", name)
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    for study, uid in enumerate(("1.1", "1.2")):
        with pytest.raises(ChunkCorrupt, match="it is not the object that was committed") as caught:
            store.read(name, study)
        assert caught.value.study == uid
        if "/" not in name:
            with pytest.raises(ChunkCorrupt, match="it is not the object that was committed"):
                store.read_crop(name, study, 0)


def test_table_has_the_sha256_of_each_object(store: Store) -> None:
    expected = hashlib.sha256(object_path(store, "1.1").read_bytes()).digest()
    assert store.table["sha256"][0, 0].tobytes() == expected


@pytest.mark.parametrize("name", ["image", "mask", "overview/image", "overview/mask"])
def test_every_flipped_bit_is_detected(store: Store, name: str) -> None:
    path = object_path(store, "1.2", name)
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


def test_missing_object_is_an_error_not_fill_values(store: Store) -> None:
    object_path(store, "1.1").unlink()
    with pytest.raises(ChunkMissing, match=r"1\.1"):
        store.image(0)
    assert [error.code for error in check_store(store)] == ["CHUNK_MISSING"]


def test_missing_or_damaged_table_is_an_error_not_fill_values(store: Store) -> None:
    commit = json.loads((root_path(store).parent / "versions/1/zarr.json").read_text())
    column = root_path(store).parent / commit["attributes"]["path"] / "fracture/c/0/0"
    content = column.read_bytes()
    column.unlink()
    with pytest.raises(SpineError) as caught:
        open_store(str(store.location))
    assert caught.value.code in {"CHUNK_CORRUPT", "CHUNK_MISSING"}
    column.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ChunkCorrupt):
        open_store(str(store.location))


@pytest.mark.parametrize("content", ["", "{}", "[]", "null"])
def test_damaged_commit_is_refused(store: Store, content: str) -> None:
    (root_path(store).parent / "versions/1/zarr.json").write_text(content)
    with pytest.raises(ChunkCorrupt, match="versions/1"):
        open_store(str(store.location))


def test_missing_commit_is_an_error_not_an_empty_store(store: Store) -> None:
    """The root names it. A build that began with nothing would drop all studies it does not process."""
    (root_path(store).parent / "versions/1/zarr.json").unlink()
    with pytest.raises(ChunkMissing, match=r"versions/1/zarr\.json is missing"):
        open_store(str(store.location))
    with pytest.raises(ChunkMissing, match=r"versions/1/zarr\.json is missing"):
        StoreWriter(str(store.location), RECIPE)


def test_damaged_root_is_refused(store: Store) -> None:
    content = json.loads(root_path(store).read_text())
    del content["attributes"]["spine_etl"]["fingerprint"]
    root_path(store).write_text(json.dumps(content))
    with pytest.raises(ChunkCorrupt, match=r"zarr\.json"):
        open_store(str(store.location))


def test_missing_store_version_or_study_is_refused(tmp_path: Path, store: Store) -> None:
    with pytest.raises(StoreNotFound):
        open_store(tmp_path / "nothing")
    zarr.create_group(tmp_path / "foreign")
    with pytest.raises(StoreNotFound):
        open_store(tmp_path / "foreign")
    StoreWriter(tmp_path / "empty", RECIPE)
    with pytest.raises(StoreNotCommitted):
        open_store(tmp_path / "empty")
    with pytest.raises(StoreNotCommitted):
        open_store(str(store.location), version=7)
    with pytest.raises(StudyNotInStore):
        store.index("9.9")


@pytest.mark.parametrize(
    ("version", "action"),
    [
        (2, "Build it again into a new store: python -m flows.build_dataset .* --recipe tiny"),
        (99, "Install a newer release"),
    ],
)
def test_other_schema_version_is_refused_with_what_to_do(store: Store, version: int, action: str) -> None:
    content = json.loads(root_path(store).read_text())
    content["attributes"]["spine_etl"]["schema_version"] = version
    root_path(store).write_text(json.dumps(content))
    for use in (open_store, lambda address: StoreWriter(address, RECIPE)):
        with pytest.raises(StoreSchemaUnsupported, match=f"schema version {version}; this .* 3") as caught:
            use(str(store.location))
        assert re.search(action, caught.value.action)


def test_open_store_finds_the_store_of_a_recipe_under_a_root(tmp_path: Path) -> None:
    writer = StoreWriter(dataset_in(tmp_path, RECIPE), RECIPE)
    writer.commit([write_study(writer, "1.1", 1)])
    assert open_store(tmp_path, recipe=RECIPE).study_uids == ["1.1"]
    assert open_store(f"{tmp_path}/", recipe=RECIPE).recipe == RECIPE
    renamed = RECIPE.model_copy(update={"name": "other"})
    assert open_store(tmp_path, recipe=renamed).study_uids == ["1.1"]
    with pytest.raises(StoreNotFound):
        open_store(tmp_path, recipe=RECIPE.model_copy(update={"other_labels": {"T1": 8}}))
