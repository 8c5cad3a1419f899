"""Hidden Markov models in log space: the best path, posteriors, and chains with explicit durations.

The notation is that of Rabiner 1989, "A Tutorial on Hidden Markov Models and Selected Applications in Speech
Recognition", Proc. IEEE 77(2). Arrays are indexed (time, state). Nothing here depends on vertebrae: see
`level_order` for the model of the spine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

DURATION_SPREAD = 0.2
"""Standard deviation of the logarithm of a state's duration."""
OUTLIER_SHARE = 0.05
"""Share of durations that are unrelated to the mean duration: they follow a geometric distribution."""


def viterbi(
    log_initial: npt.ArrayLike, log_transition: npt.ArrayLike, log_emission: npt.ArrayLike
) -> tuple[IntArray, float]:
    """The most probable path of states (Rabiner 1989, III.B), in log space.

    Parameters
    ----------
    log_initial
        (state,): log probability of each state at time 0.
    log_transition
        (state, state): from the row's state to the column's. -inf where the transition is impossible.
    log_emission
        (time, state): log likelihood of each observation in each state.

    Returns
    -------
    tuple
        int64 (time,), and the log of the joint probability of path and observations. Ties go to the path
        with the lower state at the latest time at which the paths differ.

    Raises
    ------
    ValueError
        If the shapes do not match, a value is NaN or +inf, or no path is possible.
    """
    initial, transition, emission = _validated(log_initial, log_transition, log_emission)
    best = initial + emission[0]
    predecessor = np.zeros(emission.shape, dtype=np.int64)
    for t in range(1, len(emission)):
        candidates = best[:, None] + transition
        predecessor[t] = candidates.argmax(axis=0)
        best = candidates.max(axis=0) + emission[t]
    _require_possible(best.max())
    path = np.empty(len(emission), dtype=np.int64)
    path[-1] = best.argmax()
    for t in range(len(emission) - 1, 0, -1):
        path[t - 1] = predecessor[t, path[t]]
    return path, float(best.max())


def forward_backward(
    log_initial: npt.ArrayLike, log_transition: npt.ArrayLike, log_emission: npt.ArrayLike
) -> tuple[FloatArray, float]:
    """The posterior probability of each state at each time (Rabiner 1989, III.A and III.B).

    Parameters and errors are those of `viterbi`.

    Returns
    -------
    tuple
        float64 (time, state), each row summing to 1, and the log likelihood of the observations.
    """
    initial, transition, emission = _validated(log_initial, log_transition, log_emission)
    forward, backward = np.empty_like(emission), np.zeros_like(emission)
    forward[0] = initial + emission[0]
    for t in range(1, len(emission)):
        forward[t] = emission[t] + np.logaddexp.reduce(forward[t - 1][:, None] + transition, axis=0)
    for t in range(len(emission) - 1, 0, -1):
        backward[t - 1] = np.logaddexp.reduce(transition + emission[t] + backward[t], axis=1)
    log_likelihood = float(np.logaddexp.reduce(forward[-1]))
    _require_possible(log_likelihood)
    posterior = np.exp(forward + backward - log_likelihood)
    return posterior / posterior.sum(axis=1, keepdims=True), log_likelihood


@dataclass(frozen=True, eq=False)
class DurationChain:
    """A Markov chain whose states are pairs of a base state and the time spent in it (its age).

    Parameters
    ----------
    log_initial
        float64 (A,): log probability of each pair at time 0.
    log_transition
        float64 (A, A): from the row's pair to the column's.
    base_state
        int64 (A,), ascending: the base state of each pair.
    first_age
        int64 (S,): for each base state, the index of its pair with age 1.
    """

    log_initial: FloatArray
    log_transition: FloatArray
    base_state: IntArray
    first_age: IntArray

    def decode(self, log_emission: FloatArray) -> tuple[IntArray, FloatArray]:
        """The best path and the posteriors in base states: int64 (time,) and float64 (time, S).

        ``log_emission`` (time, A) is the log likelihood of each observation in each pair.

        Raises
        ------
        ValueError
            As `viterbi`.
        """
        path, _ = viterbi(self.log_initial, self.log_transition, log_emission)
        posterior, _ = forward_backward(self.log_initial, self.log_transition, log_emission)
        return self.base_state[path], np.add.reduceat(posterior, self.first_age, axis=1)


def with_explicit_durations(log_initial: FloatArray, log_transition: FloatArray) -> DurationChain:
    """Replace the geometric durations of a left-to-right chain by log-normal ones with the same mean.

    In a plain chain the most probable duration is always one step, whatever the mean. Here each inner state
    becomes a row of states, one for each age, and ends at an age by the distribution of its duration
    (Ferguson 1980, "Variable duration models for speech"; Rabiner 1989, IV.D): log-normal about the mean
    duration that the diagonal of ``log_transition`` implies, with `DURATION_SPREAD` and `OUTLIER_SHARE`.
    The first state stays geometric. The last state is never left; its first step is a state of its own. A
    sequence may start at any age and end at any.

    Parameters
    ----------
    log_initial
        float64 (S,): log probability that a sequence starts in each state.
    log_transition
        float64 (S, S): no transition leads to a lower state.
    """
    exit_to = np.exp(log_transition)
    np.fill_diagonal(exit_to, 0)
    leave = exit_to.sum(axis=1)
    exit_to /= np.maximum(leave, 1e-12)[:, None]
    hazards = [leave[:1], *map(_hazard, leave[1:-1]), np.zeros(2)]
    hazard = np.concatenate(hazards)
    base_state = np.repeat(np.arange(len(leave)), [len(ages) for ages in hazards])
    first_age = np.searchsorted(base_state, np.arange(len(leave)))
    last_age = np.append(first_age[1:], len(base_state)) - 1
    transition = np.zeros((len(base_state), len(base_state)))
    transition[:, first_age] = hazard[:, None] * exit_to[base_state]
    has_older = np.flatnonzero(np.diff(base_state) == 0)
    transition[has_older, has_older + 1] += 1 - hazard[has_older]
    transition[last_age, last_age] += 1 - hazard[last_age]
    # The start of the sequence cuts a state at any age: each age is as probable as reaching it.
    survival = np.concatenate([np.cumprod(np.append(1, 1 - ages[:-1])) for ages in hazards])
    share = survival / np.add.reduceat(survival, first_age)[base_state]
    initial = log_initial[base_state] + log_or_minus_infinity(share)
    return DurationChain(initial, log_or_minus_infinity(transition), base_state, first_age)


def log_or_minus_infinity(values: FloatArray) -> FloatArray:
    """The natural logarithm, -inf for 0, without a warning."""
    with np.errstate(divide="ignore"):
        result: FloatArray = np.log(values)
    return result


def _hazard(leave: float) -> FloatArray:
    """(age,): the probability that a state which has reached an age ends with it.

    ``leave`` is the probability of leaving at any step, so that 1 / ``leave`` is the mean duration.
    """
    mean = 1 / max(leave, 0.01)
    ages = np.arange(1, np.ceil(2.5 * mean) + 1)
    log_normal = np.exp(-0.5 * (np.log(ages / mean) / DURATION_SPREAD) ** 2)
    outliers = OUTLIER_SHARE * leave * (1 - leave) ** (ages - 1)
    density = (1 - OUTLIER_SHARE) * log_normal / log_normal.sum() + outliers
    survival = 1 - np.append(0, np.cumsum(density[:-1]))
    hazard: FloatArray = np.minimum(1, density / np.maximum(survival, 1e-12))
    # The last age also represents every later one.
    hazard[-1] = leave
    return hazard


def _validated(
    log_initial: npt.ArrayLike, log_transition: npt.ArrayLike, log_emission: npt.ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray]:
    initial, transition, emission = (
        np.asarray(values, dtype=np.float64) for values in (log_initial, log_transition, log_emission)
    )
    states = initial.size
    matching = initial.shape == (states,) and transition.shape == (states, states)
    if not matching or not states or emission.shape[1:] != (states,) or not len(emission):
        raise ValueError(f"Shapes do not match: {initial.shape}, {transition.shape}, {emission.shape}.")
    if not all((values < np.inf).all() for values in (initial, transition, emission)):
        raise ValueError("A log probability is NaN or +inf.")
    return initial, transition, emission


def _require_possible(log_probability: float) -> None:
    if log_probability == -np.inf:
        raise ValueError("The sequence has probability 0 under the model: no path is possible.")
