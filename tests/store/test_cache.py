"""The cache of objects that were read from far away."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from spine_etl.errors import ChunkCorrupt, ChunkMissing, StoreWriteFailed
from spine_etl.store import open_store
from spine_etl.store.check import check_store
from spine_etl.store.writer import StoreWriter
from tests.store.tiny import RECIPE, built, voxels


@pytest.fixture
def address(tmp_path: Path) -> Path:
    writer = StoreWriter(tmp_path / "store", RECIPE)
    writer.commit([built(writer, "1.1", 1), built(writer, "1.2", 2)])
    return tmp_path / "store"


def kept(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def test_what_was_read_once_is_not_asked_for_again(address: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    store = open_store(address, cache=cache)
    first = store.image(0)
    assert len(kept(cache)) == 1
    (address / store.arrays["image"].key(0)).unlink()
    np.testing.assert_array_equal(store.image(0), first)
    np.testing.assert_array_equal(open_store(address, cache=cache).image(0), voxels(1)["image"])
    with pytest.raises(ChunkMissing):
        open_store(address).image(0)


def test_another_object_under_the_key_is_neither_given_nor_kept(address: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    store = open_store(address, cache=cache)
    first, second = (address / store.arrays["image"].key(row) for row in (0, 1))
    first.write_bytes(second.read_bytes())  # whole, with its own checksum, and another study's
    with pytest.raises(ChunkCorrupt, match=r"1\.1.*not the object that was committed"):
        store.image(0)
    assert kept(cache) == []


def test_a_store_that_was_built_anew_is_read_anew(address: Path, tmp_path: Path) -> None:
    """Another dataset under the same address and the same keys."""
    cache = tmp_path / "cache"
    open_store(address, cache=cache).image(0)
    address.rename(tmp_path / "old")
    writer = StoreWriter(address, RECIPE)
    writer.commit([built(writer, "1.1", 7)])
    np.testing.assert_array_equal(open_store(address, cache=cache).image(0), voxels(7)["image"])


@pytest.mark.parametrize("damage", [lambda c: c[:-5], lambda c: b"", lambda c: bytes([c[0] ^ 1]) + c[1:]])
def test_a_damaged_copy_is_fetched_anew(address: Path, tmp_path: Path, damage) -> None:
    cache = tmp_path / "cache"
    store = open_store(address, cache=cache)
    store.image(0)
    (copy,) = kept(cache)
    whole = copy.read_bytes()
    copy.write_bytes(damage(whole))
    np.testing.assert_array_equal(store.image(0), voxels(1)["image"])
    assert copy.read_bytes() == whole


def test_what_is_damaged_in_the_store_is_not_kept(address: Path, tmp_path: Path) -> None:
    store = open_store(address, cache=tmp_path / "cache")
    chunk = address / store.arrays["image"].key(0)
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(ChunkCorrupt, match=r"1\.1"):
        store.image(0)
    assert kept(tmp_path / "cache") == []


def test_a_full_disk_makes_it_slow_not_wrong(address: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    store = open_store(address, cache=cache)
    for name in ("00", "ff", *(f"{n:02x}" for n in range(1, 255))):
        (cache / name).write_bytes(b"")  # where folders of the cache would be
    np.testing.assert_array_equal(store.image(0), voxels(1)["image"])
    assert list(check_store(store)) == []


def test_a_folder_that_cannot_be_used_is_refused(address: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreWriteFailed, match="cache"):
        open_store(address, cache=tmp_path / "file")
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(StoreWriteFailed, match="cache"):
            open_store(address, cache=tmp_path / "locked")


def test_a_dataset_is_found_by_its_recipe(tmp_path: Path) -> None:
    from spine_etl.errors import StoreNotFound
    from spine_etl.store import dataset_in

    writer = StoreWriter(dataset_in(tmp_path, RECIPE), RECIPE)
    writer.commit([built(writer, "1.1", 1)])
    assert open_store(tmp_path, recipe=RECIPE).study_uids == ["1.1"]
    assert open_store(f"{tmp_path}/", recipe=RECIPE).recipe == RECIPE
    renamed = RECIPE.model_copy(update={"name": "other"})
    assert open_store(tmp_path, recipe=renamed).study_uids == ["1.1"]
    with pytest.raises(StoreNotFound):
        open_store(tmp_path, recipe=RECIPE.model_copy(update={"folds": 4}))
