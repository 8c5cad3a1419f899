"""The decoding of slices against an enumeration of all sequences of levels, each with its durations.

A semi-Markov model: in an inner state the number of slices is drawn from a distribution, and the first state
is entered at an age that is as probable as reaching it. All constants are written out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.localizer.level_order import LevelOrder, boundary_scores, decode, slice_profile
from tests.model.localizer.necks import column

Path = tuple[int, ...]


def durations(stay: float) -> np.ndarray:
    """Probability of 1, 2 ... slices: 95 % log-normal about the mean, up to 2.5 times as long, 5 % geometric.

    From the longest duration on it is geometric.
    """
    mean = 1 / (1 - stay)
    longest = math.ceil(2.5 * mean)
    log_normal = [math.exp(-((math.log(d / mean) / 0.2) ** 2) / 2) for d in range(1, longest + 1)]
    shares = [
        0.95 * density / sum(log_normal) + 0.05 * (1 - stay) * stay**d for d, density in enumerate(log_normal)
    ]
    before = 1 - sum(shares[:-1])
    return np.array([*shares[:-1], *(before * (1 - stay) * stay**d for d in range(60))])


class ByHand:
    """All sequences of states, and the age in the first state, with their probabilities."""

    def __init__(self, order: LevelOrder, profile: np.ndarray, boundary: np.ndarray) -> None:
        self.initial = np.exp(order.log_initial)
        self.transition = np.exp(order.log_transition)
        self.confusion = order.log_confusion
        self.profile, self.boundary = profile, boundary
        self.last = len(self.initial) - 1
        self.sequences = dict(self._all())

    def _all(self) -> Iterator[tuple[tuple[int, Path], float]]:
        for path in product(range(self.last + 1), repeat=len(self.profile)):
            if all(a <= b for a, b in pairwise(path)):
                for age, share in self._first_ages(path[0]):
                    yield (age, path), self.initial[path[0]] * share * self._probability(age, path)

    def _first_ages(self, state: int) -> list[tuple[int, float]]:
        if state == 0:
            return [(1, 1.0)]
        if state == self.last:
            return [(1, 0.5), (2, 0.5)]  # its first slice, or a later one
        stay = self.transition[state, state]
        reached = durations(stay)[::-1].cumsum()[::-1][: math.ceil(2.5 / (1 - stay))]
        return [(age, share / reached.sum()) for age, share in enumerate(reached, start=1)]

    def _probability(self, age: int, path: Path) -> float:
        result, in_state = 1.0, age
        for t, state in enumerate(path):
            enters = path[t - 1] != state if t else age == 1
            if t and enters:
                left = path[t - 1]
                leaving = self.transition[left].copy()
                leaving[left] = 0
                result *= self._hazard(left, in_state) * leaving[state] / leaving.sum()
                in_state = 1
            elif t:
                result *= 1 - self._hazard(state, in_state)
                in_state += 1
            result *= math.exp(0.25 * float(self.profile[t] @ self.confusion[state]))
            if enters and state > 0:
                result *= math.exp(4.0 * self.boundary[t])
        return result

    def _hazard(self, state: int, age: int) -> float:
        """The probability to leave a state at an age."""
        if state == self.last:
            return 0.0
        stay = self.transition[state, state]
        longest = math.ceil(2.5 / (1 - stay))
        if state == 0 or age >= longest:
            return float(1 - stay)
        shares = durations(stay)
        return float(shares[age - 1] / (1 - shares[: age - 1].sum()))


def random_order(random: np.random.Generator) -> LevelOrder:
    """Two levels of two to five slices."""
    maps = []
    for _ in range(5):
        heights = random.integers(1, 6, 4)
        maps.append(column(np.repeat([0, 1, 2, 3], heights).tolist()))
    return LevelOrder.fit(maps, level_count=2)


def check_decoding(seed: int, slices: int) -> None:
    random = np.random.default_rng(seed)
    order = random_order(random)
    profile = random.dirichlet(np.full(4, 0.3), slices)
    boundary = random.uniform(-0.5, 0.7, slices)
    by_hand = ByHand(order, profile, boundary)
    path, posterior = decode(profile, boundary, order)
    expected = np.zeros((slices, 4))
    for (_, states), probability in by_hand.sequences.items():
        expected[np.arange(slices), states] += probability
    np.testing.assert_allclose(posterior, expected / expected.sum(axis=1, keepdims=True), atol=1e-9)
    best = max(by_hand.sequences.values())
    found = [value for (_, states), value in by_hand.sequences.items() if states == tuple(path)]
    assert max(found) == pytest.approx(best, rel=1e-9)


@given(seed=st.integers(0, 2**32 - 1), slices=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_decoding_is_the_best_and_the_mean_of_all_sequences(seed: int, slices: int) -> None:
    check_decoding(seed, slices)


@pytest.mark.soak
@given(seed=st.integers(0, 2**32 - 1), slices=st.integers(1, 8))
@settings(max_examples=500, deadline=None)
def test_decoding_of_more_slices(seed: int, slices: int) -> None:
    check_decoding(seed, slices)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_profile_and_boundaries_equal_plain_loops(seed: int) -> None:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(4), (5, 2, 3)).transpose(3, 0, 1, 2)
    foreground = random.random((5, 2, 3)) < random.choice([0.2, 0.6])
    for z, row in enumerate(slice_profile(probabilities)):
        sums = [3.0, *(probabilities[c, z].sum() for c in (1, 2, 3))]  # three voxels of background
        np.testing.assert_allclose(row, np.array(sums) / sum(sums))
    overlaps = {}
    for z in range(1, 5):
        here, before = (set(zip(*np.nonzero(foreground[k]), strict=True)) for k in (z, z - 1))
        if here or before:
            overlaps[z] = len(here & before) / max(len(here), len(before))
    mean = sum(overlaps.values()) / max(1, len(overlaps))
    expected = [mean - overlaps[z] if z in overlaps else 0.0 for z in range(5)]
    np.testing.assert_allclose(boundary_scores(foreground), expected, atol=1e-12)
