"""Order of the studies in training: shuffled by seed and epoch, divided among the ranks, cut into batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from model.data.targets import Indices


@dataclass(frozen=True, eq=False)
class RankBatch:
    """The studies of one batch on one rank.

    Attributes
    ----------
    epoch
        The epoch that the batch belongs to.
    position
        Number of samples that precede it in this rank's part of the epoch.
    studies
        int64 (b,): indices in the store.
    """

    epoch: int
    position: int
    studies: Indices


@dataclass(frozen=True, eq=False)
class Order:
    """The order of the samples, which depends only on the seed and the epoch.

    Each rank takes every ``world_size``-th study of one permutation, so the ranks' batches j together are
    batch j of a single process whose batch size is ``world_size`` times as large. If the studies do not
    divide evenly, the first studies of the permutation are repeated at its end, so that all ranks take the
    same number of steps. With ``drop_last``, studies that do not fill a batch on every rank are left out of
    that epoch instead.
    """

    studies: Indices
    batch_size: int
    seed: int
    shuffle: bool
    drop_last: bool
    rank: int
    world_size: int

    def epoch_studies(self, epoch: int) -> Indices:
        """This rank's studies in an epoch, in order."""
        order = self.studies
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(order)
        return np.resize(order, len(self) * self.world_size)[self.rank :: self.world_size]

    def __len__(self) -> int:
        """Samples in an epoch on each rank."""
        if self.drop_last:
            return len(self.studies) // (self.batch_size * self.world_size) * self.batch_size
        return -(-len(self.studies) // self.world_size)

    def batches_from(self, epoch: int, position: int) -> Iterator[RankBatch]:
        """Yield the batches from that position on, without end: the next epochs follow."""
        while True:
            studies = self.epoch_studies(epoch)
            for start in range(position, len(studies), self.batch_size):
                yield RankBatch(epoch, start, studies[start : start + self.batch_size])
            epoch, position = epoch + 1, 0

    def sample_seeds(self, batch: RankBatch) -> torch.Tensor:
        """int64 (b,): a seed for each sample, independent of batch size, rank and thread."""
        states = [
            np.random.SeedSequence([self.seed, batch.epoch, study]).generate_state(1, np.uint64)[0] >> 1
            for study in batch.studies.tolist()
        ]
        return torch.tensor(np.array(states, np.int64))
