"""Batches: contents, order, resume, buffers, waiting, unreadable studies, threads."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.data.dataset import StudyDataset
from model.data.loader import Batch, Batches, _default_threads
from spine_etl.errors import CheckpointInvalid, ChunkCorrupt, ChunkMissing, DeviceUnavailable, FoldInvalid
from spine_etl.store import Store

Build = Callable[..., Store]
TENSORS = [field.name for field in fields(Batch) if field.name not in ("epoch", "position")]


def copied(batch: Batch) -> dict[str, Any]:
    """A copy of a batch, which outlives its buffers."""
    return {field.name: getattr(batch, field.name) for field in fields(Batch)} | {
        name: getattr(batch, name).clone() for name in TENSORS
    }


def assert_same(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> None:
    for left, right in zip(a, b, strict=True):
        assert (left["epoch"], left["position"]) == (right["epoch"], right["position"])
        for name in TENSORS:
            torch.testing.assert_close(left[name], right[name], rtol=0, atol=0)


def chunk(store: Store, study: int, name: str = "image") -> Path:
    return Path(str(store.location)) / store.arrays[name].key(int(store.table["row"][study]))


# --- contents and order


def test_each_epoch_has_every_study_once_in_a_new_order(tiny_store: Store) -> None:
    with Batches(tiny_store, range(1, 12), batch_size=4, seed=3) as batches:
        epochs = [[study for batch in batches for study in batch.study.tolist()] for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(1, 12))
    assert epochs[0] != epochs[1]
    assert len(batches) == 3


def test_batches_do_not_depend_on_threads_and_prefetch(tiny_store: Store) -> None:
    def run(threads: int, prefetch: int) -> list[dict[str, Any]]:
        with Batches(
            tiny_store, range(12), batch_size=5, seed=1, threads=threads, prefetch=prefetch
        ) as batches:
            return [copied(batch) for _ in range(2) for batch in batches]

    reference = run(1, 0)
    for batch in reference:
        for sample, study in enumerate(batch["study"].tolist()):
            np.testing.assert_array_equal(batch["image"][sample].numpy(), tiny_store.image(study))
            np.testing.assert_array_equal(batch["mask"][sample].numpy(), tiny_store.mask(study))
    assert_same(run(4, 3), reference)
    assert_same(run(2, 9), reference)


def test_too_few_studies_for_a_batch(tiny_store: Store) -> None:
    with pytest.raises(FoldInvalid, match="0 studies are too few"):
        Batches(tiny_store, [], batch_size=1)
    with pytest.raises(FoldInvalid, match="5 studies are too few for a batch of 3 on each of 2 ranks"):
        Batches(tiny_store, range(5), batch_size=3, world_size=2, drop_last=True)


# --- resume


@pytest.mark.parametrize("returned", [0, 2, 3, 4])
def test_resume_in_mid_epoch(tiny_store: Store, returned: int) -> None:
    settings: dict[str, Any] = {"batch_size": 5, "seed": 2}
    with Batches(tiny_store, range(12), **settings) as uninterrupted:
        expected = [copied(batch) for _ in range(3) for batch in uninterrupted]
    with Batches(tiny_store, range(12), **settings) as first:
        stream = (batch for _ in range(3) for batch in first)
        before = [copied(next(stream)) for _ in range(returned)]
        state = first.state_dict()
    with Batches(tiny_store, range(12), **settings) as second:
        next(iter(second))  # batches read ahead are discarded
        second.load_state_dict(state)
        after = [copied(batch) for _ in range(second.epoch, 3) for batch in second]
    assert_same(before + after, expected)


def test_state_of_another_loader_is_refused(tiny_store: Store) -> None:
    with Batches(tiny_store, range(12), batch_size=5, seed=2) as batches:
        for name, value in (("seed", 3), ("studies", 11), ("world", 2)):
            with pytest.raises(CheckpointInvalid, match=f"{name} {value}"):
                batches.load_state_dict({**batches.state_dict(), name: value})


# --- buffers, waiting, errors, threads


def test_batch_is_unchanged_until_the_next_request(tiny_store: Store) -> None:
    with Batches(tiny_store, range(12), batch_size=2, prefetch=1, threads=3) as batches:
        for _ in range(3):
            for batch in batches:
                before = copied(batch)
                time.sleep(0.005)  # the readers keep reading
                assert_same([copied(batch)], [before])


def test_buffers_are_allocated_once(tiny_store: Store) -> None:
    with Batches(tiny_store, range(12), batch_size=2, prefetch=2) as batches:
        addresses = {batch.image.data_ptr() for _ in range(4) for batch in batches}
    assert len(addresses) == 3


class _SlowLocation:
    """A store location that delays every read."""

    def __init__(self, location: Any, seconds: float) -> None:
        self.location, self.seconds = location, seconds

    def read(self, key: str) -> bytes:
        time.sleep(self.seconds)
        return bytes(self.location.read(key))

    def read_parts(self, *args: Any) -> Iterator[bytes]:
        time.sleep(self.seconds)
        yield from self.location.read_parts(*args)


def test_waiting_time_is_measured(tmp_path: Path, build_store: Build) -> None:
    store = build_store(tmp_path, 4)
    store.location = _SlowLocation(store.location, 0.05)  # type: ignore[assignment]
    with Batches(store, range(4), batch_size=1, threads=1, prefetch=1) as batches:
        for _ in batches:
            pass
        assert batches.wait_seconds > 0.35  # image and mask of four studies, read in sequence
        assert batches.wait_share() > 0.8
        time.sleep(0.5)  # two studies of the next epoch are read ahead
        next(iter(batches))
        assert batches.wait_seconds < 0.05


@pytest.mark.parametrize("damage", ["missing", "corrupt"])
@pytest.mark.parametrize("name", ["image", "mask"])
def test_unreadable_study_raises_in_the_consumer(
    tmp_path: Path, build_store: Build, damage: str, name: str
) -> None:
    store = build_store(tmp_path, 6)
    path = chunk(store, 4, name)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"\0\0")
    with Batches(store, range(6), batch_size=2, shuffle=False) as batches:
        iterator = iter(batches)
        assert [next(iterator).study.tolist() for _ in range(2)] == [[0, 1], [2, 3]]
        for stream in (iterator, iter(batches)):  # the next request does not skip it
            with pytest.raises(ChunkMissing if damage == "missing" else ChunkCorrupt) as caught:
                next(stream)
            assert caught.value.study == "1.004"
    with pytest.raises((ChunkMissing, ChunkCorrupt)):
        StudyDataset(store, [4])[0]


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_threads_end_on_close_and_on_collection(tiny_store: Store) -> None:
    with Batches(tiny_store, range(12), batch_size=2) as batches:
        next(iter(batches))
        assert readers()
    assert not readers()
    with pytest.raises(RuntimeError, match="shutdown"):
        list(batches)
    collected = Batches(tiny_store, range(12), batch_size=2)
    next(iter(collected))
    del collected
    gc.collect()
    for thread in readers():
        thread.join(5)
    assert not readers()


def test_inference_mode_of_the_consumer_does_not_break_the_readers(
    tiny_store: Store, copying_transfer: Callable[[], None]
) -> None:
    with Batches(tiny_store, range(12), batch_size=5, seed=1) as batches:
        expected = [copied(batch) for batch in batches]
    copying_transfer()
    with torch.inference_mode(), Batches(tiny_store, range(12), batch_size=5, seed=1) as batches:
        assert_same([copied(batch) for batch in batches], expected)


@pytest.mark.parametrize(
    ("cores", "ranks", "threads"), [(1, 1, 2), (2, 1, 2), (6, 1, 6), (16, 4, 4), (64, 2, 8)]
)
def test_default_threads_follow_the_processors(
    monkeypatch: pytest.MonkeyPatch, cores: int, ranks: int, threads: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert _default_threads() == threads


def test_absent_device_is_refused(tiny_store: Store) -> None:
    with pytest.raises(DeviceUnavailable, match="cuda:99"):
        Batches(tiny_store, range(12), batch_size=2, device="cuda:99")
    with pytest.raises(DeviceUnavailable, match="meta"):
        Batches(tiny_store, range(12), batch_size=2, device="meta")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_batches_equal_cpu_batches_under_load(tiny_store: Store) -> None:
    with Batches(tiny_store, range(12), batch_size=5, seed=1) as batches:
        expected = [copied(batch) for _ in range(20) for batch in batches]
    sums, load = [], torch.randn(2048, 2048, device="cuda")
    with Batches(tiny_store, range(12), batch_size=5, seed=1, device="cuda", threads=4) as batches:
        for _ in range(20):
            for batch in batches:
                load = (load @ load).clamp(-1, 1)  # keeps the device behind the host and the copies
                sums.append((batch.image.double().sum((1, 2, 3, 4)), batch.labels.clone()))
        assert 0 <= batches.wait_share() <= 1
    for (total, labels), reference in zip(sums, expected, strict=True):
        torch.testing.assert_close(total.cpu(), reference["image"].double().sum((1, 2, 3, 4)))
        torch.testing.assert_close(labels.cpu(), reference["labels"])
