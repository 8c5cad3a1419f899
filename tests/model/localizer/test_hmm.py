"""Hidden Markov models against enumeration of all paths, and durations against their closed form."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest

from model.localizer import hmm
from model.localizer.hmm import forward_backward, viterbi, with_explicit_durations


def random_chain(seed: int, states: int = 3, times: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log probabilities; a third of the transitions, one initial state and one emission are impossible."""
    random = np.random.default_rng(seed)
    initial, transition, emission = (
        random.normal(size=shape) for shape in [states, (states, states), (times, states)]
    )
    transition[random.random(transition.shape) < 0.33] = -np.inf
    transition[np.arange(states), np.arange(states)] = random.normal(size=states)
    initial[random.integers(states)] = -np.inf
    emission[random.integers(times), random.integers(states)] = -np.inf
    return initial, transition, emission


def every_path(
    initial: np.ndarray, transition: np.ndarray, emission: np.ndarray
) -> dict[tuple[int, ...], float]:
    """The log probability of each path, one by one."""
    result = {}
    for path in product(range(len(initial)), repeat=len(emission)):
        transitions = sum(transition[a, b] for a, b in pairwise(path))
        result[path] = initial[path[0]] + transitions + sum(emission[t, s] for t, s in enumerate(path))
    return result


@pytest.mark.parametrize("seed", range(12))
def test_viterbi_finds_the_best_of_all_paths(seed: int) -> None:
    chain = random_chain(seed)
    paths = every_path(*chain)
    best = max(paths, key=lambda path: paths[path])
    path, log_probability = viterbi(*chain)
    assert tuple(path) == best
    assert log_probability == pytest.approx(paths[best], abs=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_forward_backward_sums_over_all_paths(seed: int) -> None:
    chain = random_chain(seed)
    expected = np.zeros_like(chain[2])
    for path, log_probability in every_path(*chain).items():
        expected[np.arange(len(path)), path] += np.exp(log_probability)
    posterior, log_likelihood = forward_backward(*chain)
    assert log_likelihood == pytest.approx(np.log(expected[0].sum()), abs=1e-12)
    np.testing.assert_allclose(posterior, expected / expected[0].sum(), atol=1e-12)


@pytest.mark.parametrize("algorithm", [viterbi, forward_backward])
def test_long_sequences_do_not_underflow(algorithm: Any) -> None:
    uniform = np.log(np.full((2, 2), 0.5))
    _, log_probability = algorithm(uniform[0], uniform, np.full((5000, 2), -50.0))
    expected = 5000 * (-50 - (np.log(2) if algorithm is viterbi else 0))
    assert log_probability == pytest.approx(expected)


@pytest.mark.parametrize("algorithm", [viterbi, forward_backward])
def test_impossible_sequence_raises(algorithm: Any) -> None:
    stay = np.log([[1.0, 1e-300], [1e-300, 1.0]])
    stay[~np.eye(2, dtype=bool)] = -np.inf
    emission = np.array([[0.0, -np.inf], [-np.inf, 0.0]])
    with pytest.raises(ValueError, match="no path is possible"):
        algorithm(np.zeros(2), stay, emission)


@pytest.mark.parametrize("algorithm", [viterbi, forward_backward])
@pytest.mark.parametrize(
    ("initial", "transition", "emission"),
    [
        (np.zeros(2), np.zeros((3, 3)), np.zeros((4, 2))),
        (np.zeros(2), np.zeros((2, 2)), np.zeros((4, 3))),
        (np.zeros(2), np.zeros((2, 2)), np.zeros((0, 2))),
        (np.zeros(2), np.zeros((2, 2)), np.full((4, 2), np.nan)),
        (np.full(2, np.inf), np.zeros((2, 2)), np.zeros((4, 2))),
    ],
)
def test_invalid_chain_raises(algorithm: Any, initial: Any, transition: Any, emission: Any) -> None:
    with pytest.raises(ValueError, match=r"match|NaN"):
        algorithm(initial, transition, emission)


def three_states(stay: float) -> tuple[np.ndarray, np.ndarray]:
    """Log initial and log transition: a start, a state with this stay probability, an end."""
    with np.errstate(divide="ignore"):
        return np.log([0.5, 0.3, 0.2]), np.log([[0.6, 0.4, 0.0], [0.0, stay, 1 - stay], [0.0, 0.0, 1.0]])


def test_durations_are_log_normal_about_the_mean() -> None:
    chain = with_explicit_durations(*three_states(0.8))
    in_state = chain.base_state == 1
    within = np.exp(chain.log_transition)[np.ix_(in_state, in_state)]
    leave = np.exp(chain.log_transition)[in_state][:, chain.base_state == 2].sum(axis=1)
    occupied = np.eye(in_state.sum())[0]  # enters at age 1
    probability = []
    for _ in range(in_state.sum() - 1):
        probability.append(occupied @ leave)
        occupied = occupied @ within
    d = np.arange(1, 14)  # 1 / (1 - 0.8) = 5 steps on average; ages up to 2.5 times that, rounded up
    log_normal = np.exp(-0.5 * (np.log(d / 5) / hmm.DURATION_SPREAD) ** 2)
    geometric = 0.2 * 0.8 ** (d - 1)
    share = hmm.OUTLIER_SHARE
    expected = (1 - share) * log_normal / log_normal.sum() + share * geometric
    np.testing.assert_allclose(probability, expected[:-1], rtol=1e-9)


def test_explicit_durations_preserve_distributions() -> None:
    log_initial, log_transition = three_states(0.8)
    chain = with_explicit_durations(log_initial, log_transition)
    np.testing.assert_allclose(np.exp(chain.log_transition).sum(axis=1), 1)
    by_state = np.add.reduceat(np.exp(chain.log_initial), chain.first_age)
    np.testing.assert_allclose(by_state, np.exp(log_initial))
    assert np.bincount(chain.base_state).tolist() == [1, 13, 2]
    assert chain.first_age.tolist() == [0, 1, 14]
