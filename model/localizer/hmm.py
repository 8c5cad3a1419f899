"""The vertebrae's order along the neck: a hidden Markov model that mends the names of a coarse label map.

A network that names each voxel by itself swaps neighbouring vertebrae, names half of one for the next, or
finds one twice. Three things speak against it, and a hidden Markov model along z weighs them (Rabiner 1989,
"A Tutorial on Hidden Markov Models and Selected Applications in Speech Recognition", Proc. IEEE 77(2)): from
head to foot the names can only follow each other, each level has its height, and between two vertebrae
there is less bone than within one.

Volumes are (z, y, x): z to Superior, so that index 0 is the foot end, y to Posterior, x to Left. The chain
runs the other way, from head to foot: its arrays are (time, state), and a slice's time is counted from the
head. States are 0 above the neck, 1..K the levels (C1..C7), K + 1 below (T1 and lower); S = K + 2. The
network's classes have the same numbers, with 0 the background.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spine_etl.errors import CheckpointInvalid

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SKIP = 1e-4
"""Probability of passing over a level that cannot be seen, where another level ends."""
OWN, NEIGHBOUR = 0.90, 0.04
"""How often the network names a vertebra right, and how often for the one above or for the one below. What
is left is spread over all other names."""
MISSED, INVENTED = 0.2, 0.02
"""How often it says nothing where there is a vertebra, and names one above the neck. A missed vertebra must
cost less than the one above it, invented."""
NOTHING = 3.0
"""Voxels of 'nothing' that every slice is taken to hold: fewer vertebra voxels than this say little."""
SLICE_WEIGHT = 0.25
"""What a slice's names count. The slices of one vertebra are named wrong together: four are one look."""
SEAM_WEIGHT = 4.0
"""Log odds that a slice is a vertebra's first, for each unit of `seams`: about 2 where discs are."""
HEIGHT_SPREAD, ODD = 0.2, 0.05
"""Standard deviation of the logarithm of a level's height, and the share of heights that have nothing to do
with the mean one: collapsed, fused or half hidden vertebrae."""
CUT = 0.25
"""A component is cut where this share of it, which is also this share of what a state's slices show, lies in
another state than its own: it is then two vertebrae under one name, not one whose ends are blurred."""
SMALLEST_MM3, FRAGMENT_MM3 = 500.0, 1500.0
"""Components below the first are noise. Those below the second are fragments, which may well lie beside the
next vertebra, as the tip of a spinous process does: they keep their name. A vertebra has 5000 and more."""
NEAR_MM = 10.0
"""Pieces of one vertebra lie no further from its largest piece, surface to surface."""
MENDED = 0.5
"""What the network's certainty counts in voxels whose name was changed."""


def viterbi(
    log_initial: npt.ArrayLike, log_transition: npt.ArrayLike, log_emission: npt.ArrayLike
) -> tuple[IntArray, float]:
    """The most probable path of states (Rabiner 1989, III.B), in log space.

    Parameters
    ----------
    log_initial
        (state,): log probability of each state at time 0.
    log_transition
        (state, state): from the row's state to the column's. -inf where there is no way.
    log_emission
        (time, state): log likelihood of what was seen.

    Returns
    -------
    tuple
        int64 (time,) and the log of the path's joint probability with what was seen. Of equal paths the
        one that ends, and before that goes, in lower states.

    Raises
    ------
    ValueError
        Shapes do not fit, a value is NaN or +inf, or no path is possible.
    """
    initial, transition, emission = _chain(log_initial, log_transition, log_emission)
    best = initial + emission[0]
    came_from = np.zeros(emission.shape, dtype=np.int64)
    for t in range(1, len(emission)):
        ways = best[:, None] + transition
        came_from[t] = ways.argmax(axis=0)
        best = ways.max(axis=0) + emission[t]
    _require_possible(best.max())
    path = np.empty(len(emission), dtype=np.int64)
    path[-1] = best.argmax()
    for t in range(len(emission) - 1, 0, -1):
        path[t - 1] = came_from[t, path[t]]
    return path, float(best.max())


def forward_backward(
    log_initial: npt.ArrayLike, log_transition: npt.ArrayLike, log_emission: npt.ArrayLike
) -> tuple[FloatArray, float]:
    """The probability of each state at each time given all that was seen (Rabiner 1989, III.A and III.B).

    Parameters and refusals are those of `viterbi`.

    Returns
    -------
    tuple
        float64 (time, state), each row with the sum 1, and the log likelihood of what was seen.
    """
    initial, transition, emission = _chain(log_initial, log_transition, log_emission)
    forward, backward = np.empty_like(emission), np.zeros_like(emission)
    forward[0] = initial + emission[0]
    for t in range(1, len(emission)):
        forward[t] = emission[t] + np.logaddexp.reduce(forward[t - 1][:, None] + transition, axis=0)
    for t in range(len(emission) - 1, 0, -1):
        backward[t - 1] = np.logaddexp.reduce(transition + emission[t] + backward[t], axis=1)
    likelihood = float(np.logaddexp.reduce(forward[-1]))
    _require_possible(likelihood)
    posterior = np.exp(forward + backward - likelihood)
    return posterior / posterior.sum(axis=1, keepdims=True), likelihood


@dataclass(frozen=True, eq=False)
class LevelOrder:
    """What is known of the levels' order before a study is seen.

    Parameters
    ----------
    log_initial
        float64 (S,): log probability that a field of view begins, at its head end, in each state.
    log_transition
        float64 (S, S): from a slice's state to that of the next slice towards the foot; -inf where there
        is no way. The diagonal says how high a level is: 1 / (1 - stay) slices in the mean, so it holds
        for the slice thickness that it was learnt with.
    log_confusion
        float64 (S, K + 2), finite: in a slice of each state, what the network says: nothing, level 1..K,
        below.
    """

    log_initial: FloatArray
    log_transition: FloatArray
    log_confusion: FloatArray

    @property
    def levels(self) -> int:
        """K."""
        return len(self.log_initial) - 2

    @classmethod
    def fit(cls, label_maps: Iterable[npt.NDArray[np.integer[Any]]], levels: int = 7) -> LevelOrder:
        """Starts and moves are counted in label maps; the confusion is fixed: `OWN` to `INVENTED`.

        Each map is read as `state_sequence` does. Starts are smoothed by one each. Of the moves only those
        to the same and to the next state are counted, smoothed by one each; the two share what `SKIP`
        leaves. ``below`` only stays.

        Parameters
        ----------
        label_maps
            Integer (z, y, x), all of one slice thickness: 0 background, 1..``levels``, ``levels`` + 1
            below. Maps without any label say nothing and are passed over.

        Raises
        ------
        ValueError
            There is no map with a label, or one is not 3D or holds other values.
        """
        states = levels + 2
        starts, moves = np.zeros(states), np.zeros((states, states))
        for labels in label_maps:
            sequence = state_sequence(labels, levels)
            if len(sequence):
                starts[sequence[0]] += 1
                np.add.at(moves, (sequence[:-1], sequence[1:]), 1)
        if not starts.any():
            raise ValueError("No label map with a label to learn the order from.")
        return cls(_log((starts + 1) / (starts + 1).sum()), _log(_moves(moves)), np.log(_confusion(states)))

    def to_dict(self) -> dict[str, list[Any]]:
        """As plain lists for JSON, which has no infinity: None stands for -inf."""
        return {name: _plain(getattr(self, name)) for name in _FIELDS}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> LevelOrder:
        """What `to_dict` wrote, bit for bit.

        Raises
        ------
        CheckpointInvalid
            A field is missing or no table of numbers, the shapes do not fit each other, or a row is no
            distribution.
        """
        try:
            initial, transition, confusion = (_unplain(content[name]) for name in _FIELDS)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointInvalid(f"The order of the levels cannot be read: {error!r}.") from error
        states = initial.size
        if states < 3 or initial.ndim != 1 or {transition.shape, confusion.shape} != {(states, states)}:
            raise CheckpointInvalid(
                f"The order of the levels has shapes that do not fit each other: {initial.shape}, "
                f"{transition.shape}, {confusion.shape}."
            )
        rows = np.concatenate([initial[None], transition, confusion])
        # NaN fails the comparison too.
        if not (np.abs(np.exp(rows).sum(axis=1) - 1) < 1e-6).all() or not np.isfinite(confusion).all():
            raise CheckpointInvalid("The order of the levels has a row that is no distribution.")
        return cls(initial, transition, confusion)


_FIELDS = ("log_initial", "log_transition", "log_confusion")


@dataclass(frozen=True, eq=False)
class Relabelled:
    """A label map in which each level comes once and in its order.

    Parameters
    ----------
    labels
        uint8 (z, y, x): 0 background, 1..K, K + 1 below.
    confidence
        float64 (K,) in [0, 1], 0 where the level is not there: the product of two numbers. The first is
        the network's: over the level's voxels the mean probability of the class that the network named
        there, halved (`MENDED`) where that is not this level. The second is the order's: the posterior of
        the level's state in the middle one of the level's slices in which no state is more probable; 0
        where there is none. A level that the network was sure of and that the order agrees with has
        nearly 1; one that was renamed has no more than `MENDED`.
    path
        int64 (z,): the most probable states, in the order of z (foot first).
    posterior
        float64 (z, S): the states' probabilities, in the order of z.
    """

    labels: npt.NDArray[np.uint8]
    confidence: FloatArray
    path: IntArray
    posterior: FloatArray


def state_sequence(labels: npt.NDArray[np.integer[Any]], levels: int = 7) -> IntArray:
    """The states of a label map's slices, from head to foot: int64 (time,).

    A slice's state is the label with the most voxels in it. Slices before the first label are above; one
    without a label within or after them has the state of the slice before, or below once level K was seen
    and no label follows. Where the labels end at a higher level, nobody knows what the rest shows: it is
    left out. Empty where there is no label at all.

    Raises
    ------
    ValueError
        Not an integer (z, y, x) array, or values outside 0 .. ``levels`` + 1.
    """
    _require_labels(labels, levels)
    counts = _by_slice(labels, levels + 2)[1:, ::-1]
    labelled = np.flatnonzero(counts.any(axis=0))
    if not len(labelled):
        return np.empty(0, dtype=np.int64)
    # The last labelled slice at or before each one; -1 before the first.
    source = np.searchsorted(labelled, np.arange(counts.shape[1]), side="right") - 1
    sequence = np.where(source < 0, 0, counts.argmax(axis=0)[labelled[source]] + 1).astype(np.int64)
    end = int(labelled[-1]) + 1
    if sequence[end - 1] < levels:
        return sequence[:end]
    sequence[end:] = levels + 1
    return sequence


def slice_profile(probabilities: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """What the network says of each slice: float64 (z, K + 2), each row with the sum 1.

    ``probabilities`` is (class, z, y, x). Columns are 'nothing', level 1..K and below: the classes' sums
    over the slice as shares, against `NOTHING` voxels in column 0. The background takes no part.
    """
    mass = probabilities.sum(axis=(2, 3), dtype=np.float64).T
    mass[:, 0] = NOTHING
    profile: FloatArray = mass / mass.sum(axis=1, keepdims=True)
    return profile


def log_emission(profile: FloatArray, order: LevelOrder) -> FloatArray:
    """Log likelihood of each state, float64 (time, S), of a `slice_profile` in head to foot order.

    The log confusion of what the network says, averaged over the profile's shares, times `SLICE_WEIGHT`.
    """
    emission: FloatArray = SLICE_WEIGHT * (profile @ order.log_confusion.T)
    return emission


def seams(foreground: npt.NDArray[np.bool_]) -> FloatArray:
    """How much each slice looks like the first of a new vertebra: float64 (z,), about -0.5 to 0.7.

    The share of the larger of two neighbouring slices' foreground that both have is high within a vertebra
    and low where one ends. Here it is its mean over the volume less the share between the slice and the one
    before it in the array; 0 in the first slice and where neither slice shows anything. Names take no part,
    so that a wrong name draws no seam.
    """
    area = foreground.sum(axis=(1, 2))
    common = (foreground[1:] & foreground[:-1]).sum(axis=(1, 2))
    larger = np.maximum(area[1:], area[:-1])
    result = np.zeros(len(foreground))
    shown = np.flatnonzero(larger)
    if len(shown):
        share = common[shown] / larger[shown]
        result[shown + 1] = share.mean() - share
    return result


def decode(profile: FloatArray, seam: FloatArray, order: LevelOrder) -> tuple[IntArray, FloatArray]:
    """The most probable path, int64 (time,), and the posterior, float64 (time, S).

    ``profile`` (time, K + 2) is `slice_profile` and ``seam`` (time,) is `seams`, both from head to foot, as
    are the results.

    A stay probability alone makes the shortest levels the likeliest, so that a wrongly named vertebra is
    best explained by squeezing its true level into one slice. Each level is therefore a row of states, one
    for each age in slices, and ends at an age by its height's distribution (Ferguson 1980, "Variable
    duration models for speech"; Rabiner 1989, IV.D): log-normal about the mean height that the stay
    probability says, with `HEIGHT_SPREAD` and `ODD`. A seam speaks for the states of age one. A field of
    view may begin at any age and end at any.
    """
    initial, transition, state, first = _ages(order)
    emission = log_emission(profile, order)[:, state]
    emission[:, first[1:]] += SEAM_WEIGHT * seam[:, None]
    path, _ = viterbi(initial, transition, emission)
    posterior, _ = forward_backward(initial, transition, emission)
    return state[path], np.add.reduceat(posterior, first, axis=1)


def relabel(
    labels: npt.NDArray[np.integer[Any]],
    probabilities: npt.NDArray[np.floating[Any]],
    order: LevelOrder,
    spacing_mm: float,
) -> Relabelled:
    """Mend the names of a label map by the levels' order.

    1. Connected components of each class (26 neighbours) of less than `SMALLEST_MM3` are removed.
    2. The slice profile and the seams of what is left are decoded.
    3. Each component gets the state that the posterior favours in its slices, each slice weighted by the
       component's voxels in it and by their share of all that the slice shows: a state names what most of
       its slice is. A network confuses neighbours, not C2 with C6: a component that would change by more
       than one is dropped. Fragments (`FRAGMENT_MM3`) keep their name. A component that holds much of two
       neighbouring states (`CUT`) is cut where the path goes from one to the other.
    4. Of the pieces of one level the largest stays, with those within `NEAR_MM` of it.
    5. Where a level's centroid is not above the next one's, the less confident of the two is dropped.

    A vertebra that touches another of the same class is parted from it by slices alone: where they overlap
    along z, the tip of one goes with the other.

    Parameters
    ----------
    labels
        Integer (z, y, x): 0 background, 1..K, K + 1 below; what the network says of each voxel.
    probabilities
        (K + 2, z, y, x): the network's probabilities of background, 1..K and below.
    order
        Learnt with slices of the same thickness.
    spacing_mm
        Edge of a voxel.

    Raises
    ------
    ValueError
        ``labels`` is not an integer volume with at least one slice, or holds other values; shapes do not
        fit; or a probability is not finite.
    """
    _require_labels(labels, order.levels)
    if probabilities.shape != (order.levels + 2, *labels.shape):
        raise ValueError(f"Probabilities {probabilities.shape} do not fit labels {labels.shape}.")
    if not np.isfinite(probabilities).all():
        raise ValueError("A probability is NaN or infinite.")
    voxel_mm3 = spacing_mm**3
    components, classes = _components(labels, order.levels, SMALLEST_MM3 / voxel_mm3)
    foreground = components > 0
    profile = slice_profile(probabilities * foreground)
    path, posterior = decode(profile[::-1], seams(foreground[::-1]), order)
    path, posterior = path[::-1], posterior[::-1]
    by_slice = _by_slice(components, len(classes))
    fragment = by_slice.sum(axis=1) < FRAGMENT_MM3 / voxel_mm3
    pieces, names = _pieces(components, _names(by_slice, classes, fragment, path, posterior))
    _keep_one_each(names, pieces, order.levels, spacing_mm)
    mended = names[pieces]
    sure = np.take_along_axis(probabilities, labels[None].astype(np.int64), axis=0)[0]
    sure = np.where(mended == labels, sure, MENDED * sure)
    confidence = np.array([_confidence(mended == k, sure, posterior, k) for k in range(1, order.levels + 1)])
    _drop_disordered(mended, confidence)
    return Relabelled(mended.astype(np.uint8), confidence, path, posterior)


def _chain(
    log_initial: npt.ArrayLike, log_transition: npt.ArrayLike, log_emission: npt.ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray]:
    initial, transition, emission = (
        np.asarray(values, dtype=np.float64) for values in (log_initial, log_transition, log_emission)
    )
    states = initial.size
    fits = initial.shape == (states,) and transition.shape == (states, states)
    if not fits or not states or emission.shape[1:] != (states,) or not len(emission):
        raise ValueError(f"Shapes do not fit: {initial.shape}, {transition.shape}, {emission.shape}.")
    if not all((values < np.inf).all() for values in (initial, transition, emission)):
        raise ValueError("A log probability is NaN or +inf.")
    return initial, transition, emission


def _require_possible(log_probability: float) -> None:
    if log_probability == -np.inf:
        raise ValueError("No path of states can have made this sequence.")


def _require_labels(labels: npt.NDArray[np.integer[Any]], levels: int) -> None:
    if labels.ndim != 3 or not np.issubdtype(labels.dtype, np.integer) or not labels.size:
        raise ValueError(f"Labels are an integer (z, y, x) volume, not {labels.dtype} {labels.shape}.")
    if labels.min() < 0 or labels.max() > levels + 1:
        raise ValueError(f"Labels are 0 .. {levels + 1}, not {labels.min()} .. {labels.max()}.")


def _log(values: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore"):
        result: FloatArray = np.log(values)
    return result


def _moves(counts: FloatArray) -> FloatArray:
    states = len(counts)
    moves = np.zeros_like(counts)
    for state in range(states - 1):
        skip = SKIP if state + 2 < states else 0.0
        kept = counts[state, state : state + 2] + 1
        moves[state, state : state + 2] = (1 - skip) * kept / kept.sum()
        if skip:
            moves[state, state + 2] = skip
    moves[-1, -1] = 1
    return moves


def _confusion(states: int) -> FloatArray:
    apart = np.abs(np.subtract.outer(np.arange(states), np.arange(1, states)))
    others = np.maximum(1, (apart > 1).sum(axis=1, keepdims=True))
    named = np.where(apart > 1, (1 - OWN - 2 * NEIGHBOUR) / others, np.where(apart, NEIGHBOUR, OWN))
    named[0] = 1
    nothing = np.full((states, 1), MISSED)
    nothing[0] = 1 - INVENTED
    return np.hstack([nothing, (1 - nothing) * named / named.sum(axis=1, keepdims=True)])


def _plain(values: FloatArray) -> list[Any]:
    if values.ndim > 1:
        return [_plain(row) for row in values]
    return [None if value == -np.inf else value for value in values.tolist()]


def _unplain(rows: Any) -> FloatArray:
    values = np.array(rows, dtype=object)
    return np.where(values == None, -np.inf, values).astype(np.float64)  # noqa: E711


def _ages(order: LevelOrder) -> tuple[FloatArray, FloatArray, IntArray, IntArray]:
    """The chain of ages: log initial, log transition, each one's state (ascending), each state's first."""
    away = np.exp(order.log_transition)
    np.fill_diagonal(away, 0)
    leave = away.sum(axis=1)
    away /= np.maximum(leave, 1e-12)[:, None]
    hazards = [leave[:1], *map(_hazard, leave[1:-1]), np.zeros(2)]
    hazard = np.concatenate(hazards)
    state = np.repeat(np.arange(len(leave)), [len(ages) for ages in hazards])
    first = np.searchsorted(state, np.arange(len(leave)))
    last = np.append(first[1:], len(state)) - 1
    transition = np.zeros((len(state), len(state)))
    transition[:, first] = hazard[:, None] * away[state]
    older = np.flatnonzero(np.diff(state) == 0)
    transition[older, older + 1] += 1 - hazard[older]
    transition[last, last] += 1 - hazard[last]
    # The field of view cuts a level anywhere: an age is as probable there as the level is to reach it.
    reached = np.concatenate([np.cumprod(np.append(1, 1 - ages[:-1])) for ages in hazards])
    initial = order.log_initial[state] + _log(reached / np.add.reduceat(reached, first)[state])
    return initial, _log(transition), state, first


def _hazard(leave: float) -> FloatArray:
    """(age,): the probability that a level which has reached an age ends with it, by its mean height."""
    height = 1 / max(leave, 0.01)
    ages = np.arange(1, np.ceil(2.5 * height) + 1)
    usual = np.exp(-0.5 * (np.log(ages / height) / HEIGHT_SPREAD) ** 2)
    density = (1 - ODD) * usual / usual.sum() + ODD * leave * (1 - leave) ** (ages - 1)
    reached = 1 - np.append(0, np.cumsum(density[:-1]))
    hazard: FloatArray = np.minimum(1, density / np.maximum(reached, 1e-12))
    # The last age stands for all from there on.
    hazard[-1] = leave
    return hazard


def _by_slice(values: npt.NDArray[np.integer[Any]], count: int) -> IntArray:
    """int64 (value, z): how many voxels of each value 0 .. count - 1 each slice holds."""
    depth = values.shape[0]
    cells = values.astype(np.int64) * depth + np.arange(depth)[:, None, None]
    return np.bincount(cells.ravel(), minlength=count * depth).reshape(count, depth)


def _components(
    labels: npt.NDArray[np.integer[Any]], levels: int, smallest: float
) -> tuple[IntArray, IntArray]:
    """Components (z, y, x) numbered from 1, 0 elsewhere, and the class of each number (0 for 0)."""
    components, classes = np.zeros(labels.shape, dtype=np.int64), [0]
    for value in range(1, levels + 2):
        found, count = ndimage.label(labels == value, np.ones((3, 3, 3)))
        large = np.bincount(found.ravel(), minlength=count + 1) >= smallest
        large[0] = False
        numbers = np.where(large, np.cumsum(large) + len(classes) - 1, 0)
        components += numbers[found]
        classes += [value] * int(large.sum())
    return components, np.array(classes, dtype=np.int64)


def _names(
    by_slice: IntArray,
    classes: IntArray,
    fragment: npt.NDArray[np.bool_],
    path: IntArray,
    posterior: FloatArray,
) -> IntArray:
    """(component, z): the state that each component has in each slice; 0 where it is dropped."""
    voxels = by_slice.astype(np.float64)
    voxels[0] = 0
    votes = (voxels**2 / np.maximum(1, voxels.sum(axis=0))) @ posterior
    favourite = votes.argmax(axis=1)
    dropped = (np.abs(favourite - classes) > 1) | ((favourite == 0) & ~fragment)
    held = _held(votes, classes, fragment)
    held[np.arange(len(classes)), np.where(fragment, classes, favourite)] = True
    lowest, highest = held.argmax(axis=1), held.shape[1] - 1 - held[:, ::-1].argmax(axis=1)
    names = np.clip(path, lowest[:, None], highest[:, None])
    return np.where(dropped[:, None], 0, names)


def _held(votes: FloatArray, classes: IntArray, fragment: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(component, state): where a component holds so much of a state that it may be cut for it: `CUT`."""
    size = votes.sum(axis=1)
    below = votes.shape[1] - 1
    levels = (classes > 0) & (classes < below) & ~fragment
    if levels.any():
        # All below is one component: a level hidden in it is measured as if in a pair of vertebrae.
        pair = 2 * np.median(size[levels])
        size = np.where(classes == below, np.minimum(size, pair), size)
    held: npt.NDArray[np.bool_] = (votes >= CUT * size[:, None]) & (votes >= CUT * votes.sum(axis=0))
    held &= np.abs(np.arange(votes.shape[1]) - classes[:, None]) <= 1
    held[fragment] = False
    held[:, 0] = False
    return held


def _pieces(components: IntArray, names: IntArray) -> tuple[IntArray, IntArray]:
    """Components as they are cut by their names (component, z): (z, y, x) numbers, and the name of each."""
    states = int(names.max()) + 1
    found, numbers = np.unique(np.arange(len(names))[:, None] * states + names, return_inverse=True)
    z = np.arange(len(components))[:, None, None]
    return numbers.reshape(names.shape)[components, z], found % states


def _keep_one_each(names: IntArray, pieces: IntArray, levels: int, spacing_mm: float) -> None:
    """Sets to 0, in ``names``, the components that are not the vertebra which has their name."""
    sizes = np.bincount(pieces.ravel(), minlength=len(names))
    for level in range(1, levels + 1):
        rivals = np.flatnonzero(names == level)
        if len(rivals) < 2:
            continue
        largest = rivals[sizes[rivals].argmax()]
        distance = ndimage.distance_transform_edt(pieces != largest, sampling=spacing_mm)
        names[rivals[ndimage.minimum(distance, pieces, rivals) > NEAR_MM]] = 0


def _confidence(
    level: npt.NDArray[np.bool_], sure: npt.NDArray[np.floating[Any]], posterior: FloatArray, state: int
) -> float:
    """The confidence of `Relabelled`; ``sure`` (z, y, x) is what each voxel counts."""
    slices = np.flatnonzero(level.any(axis=(1, 2)) & (posterior.argmax(axis=1) == state))
    if not len(slices):
        return 0.0
    agreed = posterior[slices[len(slices) // 2], state]
    return float(np.clip(sure[level].mean(dtype=np.float64) * agreed, 0, 1))


def _drop_disordered(labels: IntArray, confidence: FloatArray) -> None:
    """Clears levels, in both arrays, until each one's centroid is above the next one's."""
    voxels = _by_slice(labels, len(confidence) + 2)
    heights = voxels @ np.arange(len(labels)) / np.maximum(1, voxels.sum(axis=1))
    present = [k for k in range(1, len(confidence) + 1) if voxels[k].any()]
    while wrong := [pair for pair in pairwise(present) if heights[pair[0]] <= heights[pair[1]]]:
        dropped = min(wrong[0], key=lambda k: confidence[k - 1])
        labels[labels == dropped] = 0
        confidence[dropped - 1] = 0
        present.remove(dropped)
