"""The order of studies: the same on any number of ranks, and a seed for each sample."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.order import Order


def order(studies: int, batch_size: int, rank: int = 0, world_size: int = 1, **flags: bool) -> Order:
    chosen = {"shuffle": True, "drop_last": False, **flags}
    return Order(np.arange(studies), batch_size, 5, rank=rank, world_size=world_size, **chosen)


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


@given(
    studies=st.integers(1, 40),
    batch_size=st.integers(1, 5),
    world_size=st.integers(1, 5),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_ranks_together_take_each_study_once_in_numpys_order(
    studies: int, batch_size: int, world_size: int, seed: int, epoch: int
) -> None:
    """Any number of ranks takes numpy's permutation; only the few that make ranks even come twice."""
    indices = 100 + 3 * np.arange(studies)
    permutation = np.random.default_rng([seed, epoch]).permutation(indices).tolist()
    ranks = []
    for rank in range(world_size):
        one = Order(indices, batch_size, seed, True, False, rank, world_size)
        batches = list(itertools.takewhile(lambda batch: batch.epoch == epoch, one.batches_from(epoch, 0)))
        assert [len(batch.studies) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
        assert [batch.position for batch in batches] == list(range(0, len(one), batch_size))
        ranks.append(np.concatenate([batch.studies for batch in batches]).tolist())
    together = [study for turn in zip(*ranks, strict=True) for study in turn]
    assert together[:studies] == permutation
    assert len(together) - studies == -studies % world_size
    assert sorted(permutation) == indices.tolist()


def test_order_changes_with_the_epoch_and_the_seed() -> None:
    def taken(seed: int, epoch: int) -> tuple[int, ...]:
        return tuple(Order(np.arange(30), 4, seed, True, False, 0, 1).epoch_studies(epoch).tolist())

    assert len({taken(seed, epoch) for seed in range(3) for epoch in range(4)}) == 12
    assert taken(1, 2) == taken(1, 2)
