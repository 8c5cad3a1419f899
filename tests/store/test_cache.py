"""The local cache of a remote store's objects."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest

from spine_etl.errors import ChunkCorrupt, ChunkMissing, StoreWriteFailed
from spine_etl.store import open_store
from spine_etl.store.check import check_store
from spine_etl.store.writer import StoreWriter
from tests.store.tiny import RECIPE, voxels, write_study


@pytest.fixture
def address(tmp_path: Path) -> Path:
    writer = StoreWriter(tmp_path / "store", RECIPE)
    writer.commit([write_study(writer, "1.1", 1), write_study(writer, "1.2", 2)])
    return tmp_path / "store"


def cached_files(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def test_object_is_fetched_only_once(address: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    store = open_store(address, cache=cache)
    first = store.image(0)
    assert len(cached_files(cache)) == 1
    (address / store.arrays["image"].key(0)).unlink()
    np.testing.assert_array_equal(store.image(0), first)
    np.testing.assert_array_equal(open_store(address, cache=cache).image(0), voxels(1)["image"])
    with pytest.raises(ChunkMissing):
        open_store(address).image(0)


def test_object_that_was_not_committed_is_neither_returned_nor_cached(address: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    store = open_store(address, cache=cache)
    first, second = (address / store.arrays["image"].key(row) for row in (0, 1))
    first.write_bytes(second.read_bytes())  # complete, with a correct checksum, but of another study
    with pytest.raises(ChunkCorrupt, match=r"1\.1.*not the object that was committed"):
        store.image(0)
    assert cached_files(cache) == []


def test_cache_of_a_replaced_store_is_not_used(address: Path, tmp_path: Path) -> None:
    """The new store has the same address and the same keys."""
    cache = tmp_path / "cache"
    open_store(address, cache=cache).image(0)
    address.rename(tmp_path / "old")
    writer = StoreWriter(address, RECIPE)
    writer.commit([write_study(writer, "1.1", 7)])
    np.testing.assert_array_equal(open_store(address, cache=cache).image(0), voxels(7)["image"])


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda entry: b"",
    "only the name": lambda entry: entry[:32],
    "truncated": lambda entry: entry[:-5],
    "first bit": lambda entry: bytes([entry[0] ^ 1]) + entry[1:],
    "last bit": lambda entry: entry[:-1] + bytes([entry[-1] ^ 0x80]),
    "zeros": lambda entry: bytes(len(entry)),  # a file whose size was written before a power loss
    "zeros after the name": lambda entry: entry[:32] + bytes(len(entry) - 32),
    "appended": lambda entry: entry + b"\0",
    "of an earlier release": lambda entry: entry[32:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_cache_entry_is_fetched_again(
    address: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    cache = tmp_path / "cache"
    store = open_store(address, cache=cache)
    store.image(0)
    (entry,) = cached_files(cache)
    content = entry.read_bytes()
    entry.write_bytes(damage(content))
    np.testing.assert_array_equal(store.image(0), voxels(1)["image"])
    assert entry.read_bytes() == content


def test_swapped_cache_entries_are_fetched_again(address: Path, tmp_path: Path) -> None:
    """Both entries are complete, with correct checksums of their own, but under each other's name."""
    cache = tmp_path / "cache"
    store = open_store(address, cache=cache)
    for study in (0, 1):
        store.image(study)
    first, second = cached_files(cache)
    content = {first: first.read_bytes(), second: second.read_bytes()}
    first.write_bytes(content[second])
    second.write_bytes(content[first])
    for study, seed in ((0, 1), (1, 2)):
        np.testing.assert_array_equal(store.image(study), voxels(seed)["image"])
    assert {path: path.read_bytes() for path in content} == content


def test_entry_is_found_by_the_sha256_of_the_object(address: Path, tmp_path: Path) -> None:
    store = open_store(address, cache=tmp_path / "cache")
    store.image(0)
    digest = hashlib.sha256((address / "image/c/0/0/0/0/0").read_bytes()).hexdigest()
    assert cached_files(tmp_path / "cache") == [tmp_path / "cache" / digest[:2] / digest[2:]]


def read_all(address: Path, cache: Path, barrier: Barrier) -> None:
    store = open_store(address, cache=cache)
    barrier.wait(60)
    for number in range(20):
        for study, seed in ((0, 1), (1, 2)):
            for name, expected in voxels(seed).items():
                np.testing.assert_array_equal(store.read(name, study), expected)
        for entry in cached_files(cache)[::3]:  # the other process meets missing and damaged entries
            with suppress(FileNotFoundError):
                entry.unlink() if number % 2 else os.truncate(entry, 40)


def test_two_processes_fill_and_damage_one_cache_at_once(address: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    cache = tmp_path / "cache"
    readers = [context.Process(target=read_all, args=(address, cache, barrier)) for _ in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert [reader.exitcode for reader in readers] == [0, 0]
    store = open_store(address, cache=cache)
    assert list(check_store(store)) == []
    assert len(cached_files(cache)) == 8  # two studies of four objects; nothing temporary is left


def test_damaged_object_is_not_cached(address: Path, tmp_path: Path) -> None:
    store = open_store(address, cache=tmp_path / "cache")
    chunk = address / store.arrays["image"].key(0)
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(ChunkCorrupt, match=r"1\.1"):
        store.image(0)
    assert cached_files(tmp_path / "cache") == []


def test_unwritable_cache_entries_are_skipped(address: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    store = open_store(address, cache=cache)
    for name in ("00", "ff", *(f"{n:02x}" for n in range(1, 255))):
        (cache / name).write_bytes(b"")  # blocks the creation of the cache's folders
    np.testing.assert_array_equal(store.image(0), voxels(1)["image"])
    assert list(check_store(store)) == []


def test_unusable_cache_folder_is_refused(address: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreWriteFailed, match="cache"):
        open_store(address, cache=tmp_path / "file")
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(StoreWriteFailed, match="cache"):
            open_store(address, cache=tmp_path / "locked")
