"""The order of studies: the same on any number of ranks, and a seed for each sample."""

from __future__ import annotations

import numpy as np
import pytest

from model.data.order import Order


def order(studies: int, batch_size: int, rank: int = 0, world_size: int = 1, **flags: bool) -> Order:
    settings = {"shuffle": True, "drop_last": False, **flags}
    return Order(np.arange(studies), batch_size, 5, rank=rank, world_size=world_size, **settings)


@pytest.mark.parametrize("studies", [12, 13])
@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_divide_one_permutation(studies: int, drop_last: bool) -> None:
    ranks = [order(studies, 2, rank, 3, drop_last=drop_last).epoch_studies(7) for rank in range(3)]
    assert len({len(rank) for rank in ranks}) == 1
    together = np.stack(ranks, axis=1).ravel()
    single = order(studies, 6, drop_last=drop_last).epoch_studies(7)
    np.testing.assert_array_equal(together[: len(single)], single)
    # The studies that make all ranks equally long come from the beginning.
    np.testing.assert_array_equal(together[len(single) :], single[: len(together) - len(single)])


def test_sample_seeds_depend_on_study_and_epoch_only() -> None:
    def seeds(batch_size: int, epochs: int = 2, **ranks: int) -> dict[tuple[int, int], int]:
        by_sample = {}
        for batch in order(12, batch_size, **ranks).batches_from(0, 0):
            if batch.epoch == epochs:
                return by_sample
            sample_seeds = order(12, 1).sample_seeds(batch).tolist()
            for study, seed in zip(batch.studies.tolist(), sample_seeds, strict=True):
                by_sample[batch.epoch, study] = seed
        raise AssertionError

    reference = seeds(1)
    assert len(set(reference.values())) == 24
    assert seeds(5) == reference
    assert seeds(2, rank=0, world_size=2).items() < reference.items()
