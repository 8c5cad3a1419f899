"""From a committed store to batches on the device.

`StudyDataset` is a map-style torch dataset that any trainer can use as it is. `Batches` is the fast path:
threads decode whole rows straight into buffers that are allocated once, and on CUDA the next batch is
copied on a side stream while the device computes the last one. Decoding leaves Python's lock, so threads
do what worker processes do elsewhere, without sending voxels between processes.

Images are int16 HU, (level, z, y, x); labels are ordered as the recipe's levels, then patient_overall.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from model.data.targets import Indices, Targets, split, with_crops
from model.data.transfer import Lane, lane
from spine_etl.errors import CheckpointInvalid, FoldInvalid
from spine_etl.store import Store

__all__ = ["Batch", "Batches", "Order", "StudyDataset", "Targets", "split", "with_crops"]

_TARGETS = ("labels", "known", "located", "slice_fracture", "slice_box")


class StudyDataset(Dataset[dict[str, torch.Tensor]]):
    """Studies of a store as a map-style dataset; its items collate with torch's default.

    An item holds ``image`` int16 HU and ``mask`` uint8 source labels, both (level, z, y, x); ``labels``,
    ``known``, ``located``, ``slice_fracture`` and ``slice_box`` as in `Targets`; and ``study``, the index in
    the store. It can be pickled, and is safe in a `DataLoader` with any number of workers
    (for a store on S3 with ``multiprocessing_context="forkserver"``).

    Parameters
    ----------
    store
        An open store.
    studies
        Indices of the studies, as `split` gives them.
    """

    def __init__(self, store: Store, studies: Sequence[int] | Indices) -> None:
        self.store = store
        self.studies = np.asarray(studies, np.int64)
        self.targets = Targets(store)

    def __len__(self) -> int:
        return len(self.studies)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Raises ChunkMissing or ChunkCorrupt as `Store.image` does."""
        study = int(self.studies[index])
        fields = {name: torch.from_numpy(np.array(getattr(self.targets, name)[study])) for name in _TARGETS}
        return {
            "image": torch.from_numpy(self.store.image(study)),
            "mask": torch.from_numpy(self.store.mask(study)),
            "study": torch.tensor(study),
            **fields,
        }


@dataclass(frozen=True, eq=False)
class Batch:
    """Studies side by side. Its tensors hold until the next batch is asked for: then they are filled anew.

    Attributes
    ----------
    image, mask
        int16 HU and uint8 source labels (b, level, z, y, x), on the device.
    labels, known, located, slice_fracture, slice_box
        As in `Targets`, (b, ...), on the device.
    study
        int64 (b,) on the host: indices in the store.
    seed
        int64 (b,) on the host, for augmentation: set by the loader's seed, the epoch and the study alone.
    epoch, position
        The epoch, and the number of samples that this rank was handed in it before.
    """

    image: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor
    known: torch.Tensor
    located: torch.Tensor
    slice_fracture: torch.Tensor
    slice_box: torch.Tensor
    study: torch.Tensor
    seed: torch.Tensor
    epoch: int
    position: int


@dataclass(frozen=True, eq=False)
class _Share:
    """Which studies make up one batch of one rank."""

    epoch: int
    position: int
    studies: Indices


@dataclass(frozen=True, eq=False)
class Order:
    """The order of the samples, from the seed and the epoch alone.

    Of one permutation of the studies, each rank takes every ``world``-th: batch j of all ranks together is
    batch j of a single process with a batch ``world`` times as large. Studies that do not divide evenly
    are filled up from the permutation's beginning, so that all ranks take equally many steps; with
    ``drop_last`` those that fill no whole batch on every rank are left out instead (of that epoch).
    """

    studies: Indices
    batch_size: int
    seed: int
    shuffle: bool
    drop_last: bool
    rank: int
    world: int

    def epoch(self, epoch: int) -> Indices:
        """This rank's studies, in order."""
        order = self.studies
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(order)
        return np.resize(order, len(self) * self.world)[self.rank :: self.world]

    def __len__(self) -> int:
        """Samples an epoch, for each rank."""
        if self.drop_last:
            return len(self.studies) // (self.batch_size * self.world) * self.batch_size
        return -(-len(self.studies) // self.world)

    def shares(self, epoch: int, position: int) -> Iterator[_Share]:
        """Batches from there on, over the ends of epochs, for ever."""
        while True:
            studies = self.epoch(epoch)
            for start in range(position, len(studies), self.batch_size):
                yield _Share(epoch, start, studies[start : start + self.batch_size])
            epoch, position = epoch + 1, 0

    def seeds(self, share: _Share) -> torch.Tensor:
        """int64 (b,): a seed for each sample that no batch size, rank or thread has a part in."""
        states = [
            np.random.SeedSequence([self.seed, share.epoch, study]).generate_state(1, np.uint64)[0] >> 1
            for study in share.studies.tolist()
        ]
        return torch.tensor(np.array(states, np.int64))


class Batches:
    """Batches in a deterministic order, read ahead by threads and copied ahead to the device.

    Iterating goes on from where it stands to the end of the epoch; reading ahead goes on beyond it, so no
    epoch starts with empty hands. The order does not depend on ``threads`` or ``prefetch``.

    Parameters
    ----------
    store, studies
        An open store and the indices of the studies.
    batch_size
        Studies a batch, for each rank; the last batch of an epoch may be shorter.
    device
        ``cpu``: a batch is a view of the buffers that the threads fill. ``cuda``: page-locked buffers are
        copied into as many on the device.
    seed, shuffle, drop_last, rank, world
        See `Order`.
    threads
        Readers; by default as many as this process has processors to itself, from two to eight.
    prefetch
        Batches read ahead; one more is in the consumer's hands, so memory is that of ``prefetch + 1``.

    Raises
    ------
    FoldInvalid
        If the studies do not make one batch.
    DeviceUnavailable
        If the device is neither cpu nor a CUDA device that is there.

    Notes
    -----
    Where a study cannot be read, the batch that holds it raises `ChunkMissing` or `ChunkCorrupt`, with the
    study, in the consumer; asking again reads again. Use it as a context manager: that ends the threads.
    """

    def __init__(
        self,
        store: Store,
        studies: Sequence[int] | Indices,
        *,
        batch_size: int,
        device: torch.device | str = "cpu",
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        threads: int | None = None,
        prefetch: int = 2,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.order = Order(np.asarray(studies, np.int64), batch_size, seed, shuffle, drop_last, rank, world)
        if len(self.order) == 0:
            raise FoldInvalid(f"{len(studies)} studies make no batch of {batch_size} on each of {world}.")
        self.epoch = 0
        self.position = 0
        self._reader = _Reader(store, Targets(store))
        way = lane(torch.device(device))
        self._clock = way.clock()
        self._pool = ThreadPoolExecutor(threads or _readers(), thread_name_prefix="batches")
        self._free = [_Slot(self._reader.fields(), batch_size, way) for _ in range(prefetch + 1)]
        self._flying: deque[_Slot] = deque()
        self._handed: _Slot | None = None
        self._shares: Iterator[_Share] | None = None
        # The pool's threads know the slots and the reader but not self, so self can be collected.
        self._finalizer = weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def __len__(self) -> int:
        """Batches an epoch, for each rank."""
        return -(-len(self.order) // self.order.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch
        self._clock.start()
        while self.epoch == epoch:
            yield self._next()

    def _next(self) -> Batch:
        self._clock.ask()
        self._read_ahead()
        slot = self._flying[0]
        try:
            for job in slot.jobs:
                job.result()
        except BaseException:  # a study that cannot be read, or Ctrl-C: what is read ahead is not awaited
            self._rewind()
            raise
        self._flying.popleft()
        self._handed = slot
        slot.passage.receive()
        self._clock.receive()
        share = slot.share
        self.position = share.position + len(share.studies)
        if self.position == len(self.order):
            self.epoch, self.position = share.epoch + 1, 0
        fields = {name: buffer[: len(share.studies)] for name, buffer in slot.passage.device.items()}
        study = torch.from_numpy(share.studies.copy())
        return Batch(
            **fields, study=study, seed=self.order.seeds(share), epoch=share.epoch, position=share.position
        )

    def _read_ahead(self) -> None:
        """Give every free slot, and the one that the consumer is done with, its next batch to read."""
        self._take_back()
        if self._shares is None:
            self._shares = self.order.shares(self.epoch, self.position)
        while self._free:
            slot = self._free.pop()
            slot.begin(next(self._shares), self._pool, self._reader)
            self._flying.append(slot)

    def _take_back(self) -> None:
        if self._handed:
            self._handed.passage.release()
            self._free.append(self._handed)
            self._handed = None

    @property
    def wait_seconds(self) -> float:
        """Seconds lost for want of data since iterating began.

        On the CPU, how long the consumer was blocked. On CUDA, how long the device stood still: the time
        on its stream from the end of the work before to the batch's arrival.
        """
        return self._clock.waited()

    def wait_share(self) -> float:
        """`wait_seconds` as a share of the time since iterating began."""
        return self._clock.waited() / max(self._clock.elapsed(), 1e-9)

    def state_dict(self) -> dict[str, int]:
        """Where it stands, after the batches handed out so far, to be saved with a checkpoint."""
        return {"epoch": self.epoch, "position": self.position, **self._identity()}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from there: the batches that follow equal those of a run that was never stopped.

        Raises
        ------
        CheckpointInvalid
            If the state is of other studies, another seed or another number of ranks.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise CheckpointInvalid(f"its loader had {name} {state.get(name)}, this one has {value}.")
        self._rewind()
        self.epoch, self.position = state["epoch"], state["position"]

    def _identity(self) -> dict[str, int]:
        order = self.order
        return {"seed": order.seed, "studies": len(order.studies), "world": order.world}

    def _rewind(self) -> None:
        """Forget what was read ahead."""
        self._take_back()
        jobs = [job for slot in self._flying for job in slot.jobs]
        wait([job for job in jobs if not job.cancel()])
        self._free.extend(self._flying)
        self._flying.clear()
        self._shares = None

    def close(self) -> None:
        """End the threads; what they are reading is finished, the rest is not begun."""
        self._finalizer.detach()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _readers() -> int:
    """A core decodes some 25 studies of 0.5 mm a second: a fast GPU needs several, and never all of them."""
    share = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(max(share, 2), 8)


class _Reader:
    """Reads one study into its place in a batch's buffers; used by all threads at once."""

    def __init__(self, store: Store, targets: Targets) -> None:
        self.store = store
        self.targets = targets

    def fields(self) -> dict[str, torch.Tensor]:
        """One sample's fields without their values: shape and type, on the meta device."""
        fields = {name: torch.from_numpy(getattr(self.targets, name)[0]) for name in _TARGETS}
        crops = self.store.arrays["image"].row_shape
        image = torch.empty(crops, dtype=torch.int16, device="meta")
        return {"image": image, "mask": torch.empty_like(image, dtype=torch.uint8), **fields}

    def read(self, study: int, place: int, buffers: Mapping[str, npt.NDArray[Any]]) -> None:
        self.store.image(study, out=buffers["image"][place])
        self.store.mask(study, out=buffers["mask"][place])
        for name in _TARGETS:
            buffers[name][place] = getattr(self.targets, name)[study]


class _Slot:
    """The buffers of one batch and the jobs that fill them."""

    share: _Share

    def __init__(self, fields: Mapping[str, torch.Tensor], batch_size: int, lane: Lane) -> None:
        # The caller's inference mode is the caller's alone: the threads that copy into these could not.
        with torch.inference_mode(False):
            host = {
                name: torch.empty((batch_size, *field.shape), dtype=field.dtype, pin_memory=lane.pinned)
                for name, field in fields.items()
            }
            self.passage = lane.passage(host)
        self.arrays = {name: buffer.numpy() for name, buffer in host.items()}
        self.jobs: list[Future[None]] = []
        self._left = 0
        self._lock = threading.Lock()

    def begin(self, share: _Share, pool: ThreadPoolExecutor, reader: _Reader) -> None:
        """Have the pool read these studies, each into its place."""
        self.share = share
        self._left = len(share.studies)
        places = enumerate(share.studies.tolist())
        self.jobs = [pool.submit(self._read, reader, study, place) for place, study in places]

    def _read(self, reader: _Reader, study: int, place: int) -> None:
        self.passage.wait_until_sent()
        reader.read(study, place, self.arrays)
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:  # whichever thread that is, so that the copy starts before anyone asks for the batch
            self.passage.send(len(self.share.studies))
