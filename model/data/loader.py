"""Batches on the device: threads read ahead into buffers that are allocated once.

Threads decode whole rows straight into the buffers. On CUDA the next batch is copied on a side stream while
the device computes on the current one. Decoding releases the GIL, so threads achieve what worker processes
do elsewhere, without sending voxels between processes.
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

from model.data.order import Order, RankBatch
from model.data.targets import TARGET_FIELDS, Indices, Targets
from model.data.transfer import DeviceTransfer, transfer_to
from spine_etl.errors import CheckpointInvalid, FoldInvalid
from spine_etl.store import Store


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of studies. Its tensors are valid until the next batch is requested, which overwrites them.

    Attributes
    ----------
    image, mask
        int16 HU and uint8 source labels (b, level, z, y, x), on the device.
    labels, known, located, slice_fracture, slice_box
        As in `Targets`, (b, ...), on the device.
    study
        int64 (b,) on the host: indices in the store.
    seed
        int64 (b,) on the host, for augmentation: depends only on the loader's seed, the epoch and the study.
    epoch, position
        The epoch, and the number of samples that this rank has received in it before.
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


class Batches:
    """Batches in a deterministic order, read ahead by threads and copied ahead to the device.

    Iterating continues from the current position to the end of the epoch. Prefetching continues into the
    next epoch, so its first batch is already loaded. The order does not depend on ``threads`` or
    ``prefetch``.

    Parameters
    ----------
    store, studies
        An open store and the indices of the studies.
    batch_size
        Studies in a batch on each rank; the last batch of an epoch may be smaller.
    device
        ``cpu``: a batch is a view of the buffers that the threads fill. ``cuda``: page-locked buffers are
        copied into as many buffers on the device.
    seed, shuffle, drop_last, rank, world_size
        See `Order`.
    threads
        Number of reading threads; by default one for each processor available to this process, but at
        least two and at most eight.
    prefetch
        Batches to read ahead. The consumer uses one more, so ``prefetch + 1`` batches are in memory.

    Raises
    ------
    FoldInvalid
        If the studies do not make one batch.
    DeviceUnavailable
        If the device is neither the CPU nor a CUDA device of this machine.

    Notes
    -----
    If a study cannot be read, the consumer gets `ChunkMissing` or `ChunkCorrupt`, with the study, when it
    requests that batch; the next request reads it again. Use the loader as a context manager to end its
    threads.
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
        world_size: int = 1,
    ) -> None:
        indices = np.asarray(studies, np.int64)
        self.order = Order(
            indices,
            batch_size,
            seed=seed,
            shuffle=shuffle,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
        )
        if len(self.order) == 0:
            raise FoldInvalid(
                f"{len(studies)} studies are too few for a batch of {batch_size} on each of"
                f" {world_size} ranks."
            )
        self.epoch = 0
        self.position = 0
        self._reader = _StudyReader(store, Targets(store))
        transfer = transfer_to(torch.device(device))
        self._clock = transfer.wait_clock()
        self._pool = ThreadPoolExecutor(threads or _default_threads(), thread_name_prefix="batches")
        self._free = [
            _BatchSlot(self._reader.sample_fields(), batch_size, transfer) for _ in range(prefetch + 1)
        ]
        self._prefetched: deque[_BatchSlot] = deque()
        self._current: _BatchSlot | None = None
        self._upcoming: Iterator[RankBatch] | None = None
        # The pool's threads refer to slots and reader but not to self, so self can be garbage-collected.
        self._finalizer = weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def __len__(self) -> int:
        """Batches in an epoch on each rank."""
        return -(-len(self.order) // self.order.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch
        self._clock.start()
        while self.epoch == epoch:
            yield self._next_batch()

    def _next_batch(self) -> Batch:
        self._clock.start_wait()
        self._start_prefetch()
        slot = self._prefetched[0]
        try:
            for job in slot.jobs:
                job.result()
        except BaseException:  # an unreadable study, or Ctrl-C
            self._cancel_prefetch()
            raise
        self._prefetched.popleft()
        self._current = slot
        slot.buffers.acquire()
        self._clock.stop_wait()
        batch = slot.batch
        count = len(batch.studies)
        self.position = batch.position + count
        if self.position == len(self.order):
            self.epoch, self.position = batch.epoch + 1, 0
        fields = {name: buffer[:count] for name, buffer in slot.buffers.device.items()}
        return Batch(
            **fields,
            study=torch.from_numpy(batch.studies.copy()),
            seed=self.order.sample_seeds(batch),
            epoch=batch.epoch,
            position=batch.position,
        )

    def _start_prefetch(self) -> None:
        """Start to read a batch into every free slot, the consumer's last one included."""
        self._release_current()
        if self._upcoming is None:
            self._upcoming = self.order.batches_from(self.epoch, self.position)
        while self._free:
            slot = self._free.pop()
            slot.start(next(self._upcoming), self._pool, self._reader)
            self._prefetched.append(slot)

    def _release_current(self) -> None:
        if self._current:
            self._current.buffers.release()
            self._free.append(self._current)
            self._current = None

    @property
    def wait_seconds(self) -> float:
        """Seconds spent waiting for data since iterating began.

        On the CPU, the time that the consumer was blocked. On CUDA, the time that the device was idle: on
        its stream, from the end of earlier work to the batch's arrival.
        """
        return self._clock.wait_seconds()

    def wait_share(self) -> float:
        """`wait_seconds` divided by the time since iterating began."""
        return self._clock.wait_seconds() / max(self._clock.elapsed_seconds(), 1e-9)

    def state_dict(self) -> dict[str, int]:
        """The position after the batches returned so far, to be saved with a checkpoint."""
        return {"epoch": self.epoch, "position": self.position, **self._identity()}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Resume from ``state``: the following batches equal those of an uninterrupted run.

        Raises
        ------
        CheckpointInvalid
            If the state has another number of studies, another seed or another number of ranks.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise CheckpointInvalid(f"its loader had {name} {state.get(name)}, this one has {value}.")
        self._cancel_prefetch()
        self.epoch, self.position = state["epoch"], state["position"]

    def _identity(self) -> dict[str, int]:
        order = self.order
        return {"seed": order.seed, "studies": len(order.studies), "world": order.world_size}

    def _cancel_prefetch(self) -> None:
        """Discard all batches that were read ahead, and wait for reads in progress."""
        self._release_current()
        jobs = [job for slot in self._prefetched for job in slot.jobs]
        wait([job for job in jobs if not job.cancel()])
        self._free.extend(self._prefetched)
        self._prefetched.clear()
        self._upcoming = None

    def close(self) -> None:
        """End the threads: reads in progress finish, pending ones are cancelled."""
        self._finalizer.detach()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _default_threads() -> int:
    """One thread for each of this process's processors, from 2 to 8.

    A core decodes some 25 studies of 0.5 mm a second: a fast GPU needs several, but not all cores of a host.
    """
    processors = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(max(processors, 2), 8)


class _StudyReader:
    """Reads one study into a batch's buffers; all threads share it."""

    def __init__(self, store: Store, targets: Targets) -> None:
        self.store = store
        self.targets = targets

    def sample_fields(self) -> dict[str, torch.Tensor]:
        """A tensor of each field's shape and type in one sample, without values (on the meta device)."""
        fields = {name: torch.from_numpy(getattr(self.targets, name)[0]) for name in TARGET_FIELDS}
        crops = self.store.arrays["image"].row_shape
        image = torch.empty(crops, dtype=torch.int16, device="meta")
        return {"image": image, "mask": torch.empty_like(image, dtype=torch.uint8), **fields}

    def read(self, study: int, sample: int, buffers: Mapping[str, npt.NDArray[Any]]) -> None:
        """Fill one sample of the buffers."""
        self.store.image(study, out=buffers["image"][sample])
        self.store.mask(study, out=buffers["mask"][sample])
        for name in TARGET_FIELDS:
            buffers[name][sample] = getattr(self.targets, name)[study]


class _BatchSlot:
    """The buffers of one batch and the jobs that fill them."""

    batch: RankBatch

    def __init__(self, fields: Mapping[str, torch.Tensor], batch_size: int, transfer: DeviceTransfer) -> None:
        # Inference mode is local to a thread: tensors made in the caller's could not be written by others.
        with torch.inference_mode(False):
            host = {
                name: torch.empty(
                    (batch_size, *field.shape), dtype=field.dtype, pin_memory=transfer.pin_memory
                )
                for name, field in fields.items()
            }
            self.buffers = transfer.batch_buffers(host)
        self.arrays = {name: buffer.numpy() for name, buffer in host.items()}
        self.jobs: list[Future[None]] = []
        self._unread = 0
        self._lock = threading.Lock()

    def start(self, batch: RankBatch, pool: ThreadPoolExecutor, reader: _StudyReader) -> None:
        """Submit one job for each study of the batch."""
        self.batch = batch
        self._unread = len(batch.studies)
        samples = enumerate(batch.studies.tolist())
        self.jobs = [pool.submit(self._read, reader, study, sample) for sample, study in samples]

    def _read(self, reader: _StudyReader, study: int, sample: int) -> None:
        self.buffers.wait_until_copied()
        reader.read(study, sample, self.arrays)
        with self._lock:
            self._unread -= 1
            last = self._unread == 0
        if last:  # start the copy at once, before the consumer requests the batch
            self.buffers.start_copy(len(self.batch.studies))
