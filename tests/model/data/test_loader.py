"""From a store to batches: splits, targets, order, resume, buffers, and what happens to a damaged object."""

from __future__ import annotations

import gc
import multiprocessing
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from model.data.loader import Batch, Batches, Order, StudyDataset, Targets, _readers, split, with_crops
from model.data.targets import NO_BOX
from spine_etl.errors import CheckpointInvalid, ChunkCorrupt, ChunkMissing, DeviceUnavailable, FoldInvalid
from spine_etl.store import Store
from spine_etl.store.record import BoxRecord, LevelRecord

Build = Callable[..., Store]
TENSORS = [field.name for field in fields(Batch) if field.name not in ("epoch", "position")]
ABSENT = LevelRecord(status="absent")
LOCATED = LevelRecord(status="located", origin_mm=(0.0, 0.0, 0.0))


def box(level: str | None, **in_crops: tuple[float, float]) -> BoxRecord:
    """A box of that level; ``C1=(z0, z1)`` is its extent along z in that crop."""
    corners = {name: (z0, 1.0, 1.0, z1, 3.0, 3.0) for name, (z0, z1) in in_crops.items()}
    return BoxRecord(x=1, y=1, width=2, height=2, slice_number=1, level=level, in_crops=corners)


def kept(batch: Batch) -> dict[str, Any]:
    """A batch that outlives its buffers."""
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


# --- splits and targets


def test_a_split_is_by_the_folds_of_the_store(tiny_store: Store) -> None:
    for fold in range(3):
        train, held_out = split(tiny_store, fold)
        assert sorted([*train, *held_out]) == list(range(12))
        assert set(tiny_store.table["fold"][held_out]) == {fold}
        assert fold not in tiny_store.table["fold"][train]


def test_only_what_has_crops_and_labels_is_split(tmp_path: Path, build_store: Build) -> None:
    unlabelled = {"fracture": {}}
    without = {"levels": {"C1": ABSENT, "C2": ABSENT}}
    store = build_store(tmp_path, 12, {2: unlabelled, 3: without})
    assert with_crops(store).tolist() == [0, 1, 2, *range(4, 12)]
    assert sorted(np.concatenate(split(store, 0))) == [0, 1, *range(4, 12)]


def test_folds_that_cannot_be_used(tmp_path: Path, build_store: Build) -> None:
    store = build_store(tmp_path, 6)  # three fractured studies, one in each fold
    with pytest.raises(FoldInvalid, match="folds 0 to 2"):
        split(store, 3)
    negative = {"fracture": {"C1": 0, "C2": 0, "patient_overall": 0}}
    alone = build_store(tmp_path / "alone", 6, {3: negative, 5: negative})
    home = int(alone.table["fold"][1])
    with pytest.raises(FoldInvalid, match=f"training set beside fold {home}"):
        split(alone, home)
    with pytest.raises(FoldInvalid, match=f"fold {(home + 1) % 3} holds no fractured study among"):
        split(alone, (home + 1) % 3)


def test_labels_of_levels_then_of_the_patient(tmp_path: Path, build_store: Build) -> None:
    store = build_store(
        tmp_path,
        3,
        {
            0: {"fracture": {"C1": 0, "C2": 1, "patient_overall": 1}},
            1: {"fracture": {"C2": 1}},
            2: {"levels": {"C1": LOCATED, "C2": ABSENT}},
        },
    )
    targets = Targets(store)
    assert targets.labels.tolist() == [[0, 1, 1], [0, 1, 0], [0, 0, 0]]
    assert targets.known.tolist() == [[True] * 3, [False, True, False], [True] * 3]
    assert targets.located.tolist() == [[True, True], [True, True], [True, False]]


def test_slices_that_a_box_crosses(tmp_path: Path, build_store: Build) -> None:
    both = {"C1": 1, "C2": 1, "patient_overall": 1}
    only_first = {"C1": 1, "C2": 0, "patient_overall": 1}
    store = build_store(
        tmp_path,
        7,
        {
            # From the face between slices 1 and 2 to the middle of 3; C2 has no box of its own.
            0: {"fracture": both, "boxes": (box("C1", C1=(1.5, 3.0), C2=(-2.0, 0.4)),)},
            # The label says that C2 is whole, whatever reaches into its crop or is said to be its box.
            1: {
                "fracture": only_first,
                "boxes": (box("C1", C1=(4.9, 9.0), C2=(0.0, 1.0)), box("C2", C2=(2, 3))),
            },
            2: {"fracture": both},  # no boxes at all
            3: {"fracture": only_first, "boxes": (box("C1", C1=(0.6, 1.4)), box(None, C1=(1.0, 2.0)))},
            4: {"fracture": {}, "boxes": (box("C1", C1=(0.6, 1.4)),)},
            5: {
                "levels": {"C1": LOCATED, "C2": ABSENT},
                "fracture": only_first,
                "boxes": (box("C1", C1=(0, 1)),),
            },
        },
    )
    assert Targets(store).slice_fracture.tolist() == [
        [[0, 0, 1, 1, 0, 0], [-1] * 6],
        [[0, 0, 0, 0, 0, 1], [0] * 6],
        [[-1] * 6, [-1] * 6],
        [[0, 1, -1, 0, 0, 0], [0] * 6],
        [[-1] * 6, [-1] * 6],
        [[1, 1, 0, 0, 0, 0], [-1] * 6],
        [[0] * 6, [0] * 6],
    ]


def test_where_in_a_slice_the_boxes_are(tmp_path: Path, build_store: Build) -> None:
    def at(z0: float, y0: float, x0: float, z1: float, y1: float, x1: float) -> BoxRecord:
        corners = {"C1": (z0, y0, x0, z1, y1, x1), "C2": (z0, y0, x0, z1, y1, x1)}
        return BoxRecord(x=0, y=0, width=1, height=1, slice_number=1, level="C1", in_crops=corners)

    only_first = {"C1": 1, "C2": 0, "patient_overall": 1}
    boxes = (at(0.6, 1, 2, 2.4, 3, 4), at(1.6, 2, 1, 3.4, 5, 3))
    store = build_store(tmp_path, 3, {0: {"fracture": only_first, "boxes": boxes}})
    first, second, both = (1, 2, 3, 4), (2, 1, 5, 3), (1, 1, 5, 4)
    found = Targets(store).slice_box
    assert found[0, 0].tolist() == [list(b) for b in (NO_BOX, first, both, second, NO_BOX, NO_BOX)]
    assert (found[0, 1] == NO_BOX).all()
    assert (found[1:] == NO_BOX).all()


# --- the map-style dataset


def test_an_item_is_what_the_store_holds(tiny_store: Store) -> None:
    item = StudyDataset(tiny_store, [4, 7])[1]
    np.testing.assert_array_equal(item["image"].numpy(), tiny_store.image(7))
    np.testing.assert_array_equal(item["mask"].numpy(), tiny_store.mask(7))
    assert (int(item["study"]), item["labels"].tolist()) == (7, [1, 0, 1])


def test_a_torch_data_loader_takes_it(tiny_store: Store) -> None:
    dataset = StudyDataset(tiny_store, range(12))
    context = multiprocessing.get_context("forkserver")  # pickles the dataset, as spawn does
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=6, num_workers=1, multiprocessing_context=context
    )
    for batch, mine in zip(loader, Batches(tiny_store, range(12), batch_size=6, shuffle=False), strict=True):
        for name, values in batch.items():
            torch.testing.assert_close(getattr(mine, name), values, rtol=0, atol=0)


# --- order


def order(studies: int, batch_size: int, rank: int = 0, world: int = 1, **flags: bool) -> Order:
    settings = {"shuffle": True, "drop_last": False, **flags}
    return Order(np.arange(studies), batch_size, 5, rank=rank, world=world, **settings)


def test_every_study_once_an_epoch_in_another_order(tiny_store: Store) -> None:
    with Batches(tiny_store, range(1, 12), batch_size=4, seed=3) as batches:
        epochs = [[study for batch in batches for study in batch.study.tolist()] for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(1, 12))
    assert epochs[0] != epochs[1]
    assert len(batches) == 3


def test_threads_and_reading_ahead_change_nothing(tiny_store: Store) -> None:
    def run(threads: int, prefetch: int) -> list[dict[str, Any]]:
        with Batches(
            tiny_store, range(12), batch_size=5, seed=1, threads=threads, prefetch=prefetch
        ) as batches:
            return [kept(batch) for _ in range(2) for batch in batches]

    reference = run(1, 0)
    for batch in reference:
        for place, study in enumerate(batch["study"].tolist()):
            np.testing.assert_array_equal(batch["image"][place].numpy(), tiny_store.image(study))
            np.testing.assert_array_equal(batch["mask"][place].numpy(), tiny_store.mask(study))
    assert_same(run(4, 3), reference)
    assert_same(run(2, 9), reference)


@pytest.mark.parametrize("studies", [12, 13])
@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_share_one_permutation(studies: int, drop_last: bool) -> None:
    ranks = [order(studies, 2, rank, 3, drop_last=drop_last).epoch(7) for rank in range(3)]
    assert len({len(rank) for rank in ranks}) == 1
    together = np.stack(ranks, axis=1).ravel()
    alone = order(studies, 6, drop_last=drop_last).epoch(7)
    np.testing.assert_array_equal(together[: len(alone)], alone)
    # What is filled up to the same number on each rank comes from the beginning.
    np.testing.assert_array_equal(together[len(alone) :], alone[: len(together) - len(alone)])


def test_seeds_are_of_the_study_and_the_epoch_alone() -> None:
    def seeds(batch_size: int, epochs: int = 2, **ranks: int) -> dict[tuple[int, int], int]:
        found, shares = {}, order(12, batch_size, **ranks).shares(0, 0)
        for share in shares:
            if share.epoch == epochs:
                return found
            for study, seed in zip(share.studies.tolist(), order(12, 1).seeds(share).tolist(), strict=True):
                found[share.epoch, study] = seed
        raise AssertionError

    reference = seeds(1)
    assert len(set(reference.values())) == 24
    assert seeds(5) == reference
    assert seeds(2, rank=0, world=2).items() < reference.items()


def test_too_few_studies_for_a_batch(tiny_store: Store) -> None:
    with pytest.raises(FoldInvalid, match="0 studies"):
        Batches(tiny_store, [], batch_size=1)
    with pytest.raises(FoldInvalid, match="5 studies make no batch of 3 on each of 2"):
        Batches(tiny_store, range(5), batch_size=3, world=2, drop_last=True)


# --- resume


@pytest.mark.parametrize("handed", [0, 2, 3, 4])
def test_resumed_in_mid_epoch(tiny_store: Store, handed: int) -> None:
    settings: dict[str, Any] = {"batch_size": 5, "seed": 2}
    with Batches(tiny_store, range(12), **settings) as whole:
        undisturbed = [kept(batch) for _ in range(3) for batch in whole]
    with Batches(tiny_store, range(12), **settings) as first:
        stream = (batch for _ in range(3) for batch in first)
        seen = [kept(next(stream)) for _ in range(handed)]
        state = first.state_dict()
    with Batches(tiny_store, range(12), **settings) as second:
        next(iter(second))  # what was read ahead before is forgotten
        second.load_state_dict(state)
        rest = [kept(batch) for _ in range(second.epoch, 3) for batch in second]
    assert_same(seen + rest, undisturbed)


def test_a_state_of_another_loader_is_refused(tiny_store: Store) -> None:
    with Batches(tiny_store, range(12), batch_size=5, seed=2) as batches:
        for name, value in (("seed", 3), ("studies", 11), ("world", 2)):
            with pytest.raises(CheckpointInvalid, match=f"{name} {value}"):
                batches.load_state_dict({**batches.state_dict(), name: value})


# --- buffers, waiting, ends


def test_a_batch_is_not_touched_until_the_next_is_asked_for(tiny_store: Store) -> None:
    with Batches(tiny_store, range(12), batch_size=2, prefetch=1, threads=3) as batches:
        for _ in range(3):
            for batch in batches:
                before = kept(batch)
                time.sleep(0.005)  # the readers go on meanwhile
                assert_same([kept(batch)], [before])


def test_buffers_are_allocated_once(tiny_store: Store) -> None:
    with Batches(tiny_store, range(12), batch_size=2, prefetch=2) as batches:
        places = {batch.image.data_ptr() for _ in range(4) for batch in batches}
    assert len(places) == 3


class _Slow:
    """A location whose every read takes a while."""

    def __init__(self, location: Any, seconds: float) -> None:
        self.location, self.seconds = location, seconds

    def read(self, key: str) -> bytes:
        time.sleep(self.seconds)
        return bytes(self.location.read(key))


def test_waiting_is_measured(tmp_path: Path, build_store: Build) -> None:
    store = build_store(tmp_path, 4)
    store.location = _Slow(store.location, 0.05)  # type: ignore[assignment]
    with Batches(store, range(4), batch_size=1, threads=1, prefetch=1) as batches:
        for _ in batches:
            pass
        assert batches.wait_seconds > 0.35  # image and mask of four studies, one after the other
        assert batches.wait_share() > 0.8
        time.sleep(0.5)  # two studies of the next epoch are read ahead
        next(iter(batches))
        assert batches.wait_seconds < 0.05


@pytest.mark.parametrize("damage", ["missing", "corrupt"])
@pytest.mark.parametrize("name", ["image", "mask"])
def test_a_study_that_cannot_be_read_stops_the_consumer(
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
        for stream in (iterator, iter(batches)):  # and asking again does not step over it
            with pytest.raises(ChunkMissing if damage == "missing" else ChunkCorrupt) as caught:
                next(stream)
            assert caught.value.study == "1.004"
    with pytest.raises((ChunkMissing, ChunkCorrupt)):
        StudyDataset(store, [4])[0]


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_threads_end(tiny_store: Store) -> None:
    with Batches(tiny_store, range(12), batch_size=2) as batches:
        next(iter(batches))
        assert readers()
    assert not readers()
    with pytest.raises(RuntimeError, match="shutdown"):
        list(batches)
    forgotten = Batches(tiny_store, range(12), batch_size=2)
    next(iter(forgotten))
    del forgotten
    gc.collect()
    for thread in readers():
        thread.join(5)
    assert not readers()


def test_the_consumers_inference_mode_is_not_the_readers(
    tiny_store: Store, other_memory: Callable[[], None]
) -> None:
    with Batches(tiny_store, range(12), batch_size=5, seed=1) as batches:
        expected = [kept(batch) for batch in batches]
    other_memory()
    with torch.inference_mode(), Batches(tiny_store, range(12), batch_size=5, seed=1) as batches:
        assert_same([kept(batch) for batch in batches], expected)


@pytest.mark.parametrize(
    ("cores", "ranks", "threads"), [(1, 1, 2), (2, 1, 2), (6, 1, 6), (16, 4, 4), (64, 2, 8)]
)
def test_as_many_readers_as_there_are_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, ranks: int, threads: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert _readers() == threads


def test_a_device_that_is_not_there(tiny_store: Store) -> None:
    with pytest.raises(DeviceUnavailable, match="cuda:99"):
        Batches(tiny_store, range(12), batch_size=2, device="cuda:99")
    with pytest.raises(DeviceUnavailable, match="meta"):
        Batches(tiny_store, range(12), batch_size=2, device="meta")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_cuda_the_same_batches_while_it_computes(tiny_store: Store) -> None:
    with Batches(tiny_store, range(12), batch_size=5, seed=1) as batches:
        expected = [kept(batch) for _ in range(20) for batch in batches]
    sums, busy = [], torch.randn(2048, 2048, device="cuda")
    with Batches(tiny_store, range(12), batch_size=5, seed=1, device="cuda", threads=4) as batches:
        for _ in range(20):
            for batch in batches:
                busy = (busy @ busy).clamp(-1, 1)  # the device lags behind the host and the copies
                sums.append((batch.image.double().sum((1, 2, 3, 4)), batch.labels.clone()))
        assert 0 <= batches.wait_share() <= 1
    for (total, labels), reference in zip(sums, expected, strict=True):
        torch.testing.assert_close(total.cpu(), reference["image"].double().sum((1, 2, 3, 4)))
        torch.testing.assert_close(labels.cpu(), reference["labels"])
