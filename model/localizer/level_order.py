"""The order of the vertebrae along the neck, as a hidden Markov model over axial slices.

A network that classifies each voxel independently swaps neighbouring vertebrae, gives half of one the name
of the next, or finds one twice. Three facts contradict such errors, and a hidden Markov model along z weighs
them: from head to foot the levels only follow each other in order, each level has a typical height, and
there is less bone between two vertebrae than within one.

Volumes are (z, y, x): z to Superior, so that index 0 is the foot end, y to Posterior, x to Left. The chain
runs the other way, from head to foot: its arrays are (time, state), and time counts slices from the head.
States are 0 above the neck, 1..K the levels (C1..C7), K + 1 below (T1 and lower); S = K + 2. The network's
classes have the same numbers, except that 0 is the background.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.localizer.hmm import FloatArray, IntArray, log_or_minus_infinity, with_explicit_durations
from spine_etl.errors import CheckpointInvalid

P_SKIP = 1e-4
"""Probability, in each slice, of a transition that skips one level because it is not visible."""
P_CORRECT, P_NEIGHBOUR = 0.90, 0.04
"""Probability that the network gives a vertebra its own level, and the level above or the level below (each).
The remainder is shared equally among all other levels."""
P_MISSED, P_INVENTED = 0.2, 0.02
"""Probability that the network finds nothing where there is a vertebra, and that it finds one above the neck.
Missing a vertebra must cost less than inventing the one above it."""
BACKGROUND_VOXELS = 3.0
"""Background voxels assumed in every slice: fewer vertebra voxels than this carry little weight."""
SLICE_WEIGHT = 0.25
"""Weight of one slice's classes. Errors are correlated within a vertebra: four slices count as one."""
BOUNDARY_WEIGHT = 4.0
"""Log odds that a slice is the first of a vertebra, for each unit of `boundary_scores`: about 2 at discs."""


@dataclass(frozen=True, eq=False)
class LevelOrder:
    """The parameters of the hidden Markov model.

    Parameters
    ----------
    log_initial
        float64 (S,): log probability that a field of view starts, at its head end, in each state.
    log_transition
        float64 (S, S): from a slice's state to that of the next slice towards the foot; -inf where the
        transition is impossible. The diagonal gives the height of a level, 1 / (1 - stay) slices on average,
        so it holds only for the slice thickness that it was fitted with.
    log_confusion
        float64 (S, K + 2), finite: in a slice of each state, the class that the network predicts: nothing,
        level 1..K, below.
    """

    log_initial: FloatArray
    log_transition: FloatArray
    log_confusion: FloatArray

    @property
    def level_count(self) -> int:
        """K."""
        return len(self.log_initial) - 2

    @classmethod
    def fit(cls, label_maps: Iterable[npt.NDArray[np.integer[Any]]], level_count: int) -> LevelOrder:
        """Count initial states and transitions in label maps; the confusion is fixed (`P_CORRECT` etc.).

        Each map is converted by `state_sequence`. Add-one smoothing applies to the initial states and to the
        transitions. Only transitions to the same and to the next state are counted; the two share what
        `P_SKIP` leaves. The state below is never left.

        Parameters
        ----------
        label_maps
            Integer (z, y, x), all of one slice thickness: 0 background, 1..``level_count``,
            ``level_count`` + 1 below. Maps without any label are skipped.
        level_count
            K.

        Raises
        ------
        ValueError
            If no map has a label, or one is not 3D or holds other values.
        """
        states = level_count + 2
        initial, transitions = np.zeros(states), np.zeros((states, states))
        for labels in label_maps:
            sequence = state_sequence(labels, level_count)
            if len(sequence):
                initial[sequence[0]] += 1
                np.add.at(transitions, (sequence[:-1], sequence[1:]), 1)
        if not initial.any():
            raise ValueError("Cannot fit the order of the levels: no label map has a label.")
        return cls(
            log_or_minus_infinity((initial + 1) / (initial + 1).sum()),
            log_or_minus_infinity(_transition_probabilities(transitions)),
            np.log(_confusion_probabilities(states)),
        )

    def to_dict(self) -> dict[str, list[Any]]:
        """Plain lists for JSON. None replaces -inf, which JSON lacks."""
        return {name: _to_lists(getattr(self, name)) for name in _FIELDS}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> LevelOrder:
        """The inverse of `to_dict`, bit for bit.

        Raises
        ------
        CheckpointInvalid
            If a field is missing or not a table of numbers, the shapes do not match each other, or a row is
            not a probability distribution.
        """
        try:
            initial, transition, confusion = (_from_lists(content[name]) for name in _FIELDS)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointInvalid(f"The order of the levels cannot be read: {error!r}.") from error
        states = initial.size
        if states < 3 or initial.ndim != 1 or {transition.shape, confusion.shape} != {(states, states)}:
            raise CheckpointInvalid(
                f"The order of the levels has mismatched shapes: {initial.shape}, {transition.shape}, "
                f"{confusion.shape}."
            )
        rows = np.concatenate([initial[None], transition, confusion])
        # Written so that NaN fails the comparison too.
        if not (np.abs(np.exp(rows).sum(axis=1) - 1) < 1e-6).all() or not np.isfinite(confusion).all():
            raise CheckpointInvalid(
                "The order of the levels has a row that is not a probability distribution."
            )
        return cls(initial, transition, confusion)


_FIELDS = ("log_initial", "log_transition", "log_confusion")


def decode(profile: FloatArray, boundary: FloatArray, order: LevelOrder) -> tuple[IntArray, FloatArray]:
    """The most probable path, int64 (time,), and the posterior, float64 (time, S).

    ``profile`` (time, K + 2) is `slice_profile` and ``boundary`` (time,) is `boundary_scores`, both from head
    to foot, as are the results.

    Durations are explicit (`with_explicit_durations`). With geometric ones the shortest levels would be the
    likeliest, and a misnamed vertebra would be best explained by squeezing its true level into one slice. A
    high boundary score favours the first slice of a level.
    """
    chain = with_explicit_durations(order.log_initial, order.log_transition)
    emission = log_emission(profile, order)[:, chain.base_state]
    emission[:, chain.first_age[1:]] += BOUNDARY_WEIGHT * boundary[:, None]
    return chain.decode(emission)


def log_emission(profile: FloatArray, order: LevelOrder) -> FloatArray:
    """Log likelihood of each state, float64 (time, S), given a `slice_profile` from head to foot.

    The log confusion of the predicted classes, averaged over the profile's shares, times `SLICE_WEIGHT`.
    """
    emission: FloatArray = SLICE_WEIGHT * (profile @ order.log_confusion.T)
    return emission


def slice_profile(probabilities: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """The classes that the network predicts in each slice: float64 (z, K + 2), each row summing to 1.

    ``probabilities`` is (class, z, y, x). Columns are nothing, level 1..K and below: each class's sum over
    the slice as a share, with `BACKGROUND_VOXELS` in column 0. The actual background is ignored.
    """
    mass = probabilities.sum(axis=(2, 3), dtype=np.float64).T
    mass[:, 0] = BACKGROUND_VOXELS
    profile: FloatArray = mass / mass.sum(axis=1, keepdims=True)
    return profile


def boundary_scores(foreground: npt.NDArray[np.bool_]) -> FloatArray:
    """How much each slice looks like the first of a new vertebra: float64 (z,), about -0.5 to 0.7.

    The overlap of two neighbouring slices, as a share of the larger one's foreground, is high within a
    vertebra and low at its end. The score is the mean overlap of the volume minus the overlap of the slice
    with the one before it in the array; 0 in the first slice and where both slices are empty. Classes are
    ignored, so that a wrong class creates no boundary.
    """
    area = foreground.sum(axis=(1, 2))
    common = (foreground[1:] & foreground[:-1]).sum(axis=(1, 2))
    larger = np.maximum(area[1:], area[:-1])
    scores = np.zeros(len(foreground))
    occupied = np.flatnonzero(larger)
    if len(occupied):
        overlap = common[occupied] / larger[occupied]
        scores[occupied + 1] = overlap.mean() - overlap
    return scores


def state_sequence(labels: npt.NDArray[np.integer[Any]], level_count: int) -> IntArray:
    """The states of a label map's slices, from head to foot: int64 (time,).

    A slice's state is the label with the most voxels in it. Slices before the first label are above. A slice
    without a label further down has the state of the slice before it, or below if level K came earlier and
    no label follows. Where the labels end at a higher level, the remaining slices are unknown and left out.
    Empty if there is no label at all.

    Raises
    ------
    ValueError
        If ``labels`` is not an integer (z, y, x) array, or holds values outside 0 .. ``level_count`` + 1.
    """
    check_labels(labels, level_count)
    counts = voxels_per_slice(labels, level_count + 2)[1:, ::-1]
    labelled = np.flatnonzero(counts.any(axis=0))
    if not len(labelled):
        return np.empty(0, dtype=np.int64)
    # The last labelled slice at or before each one; -1 before the first.
    source = np.searchsorted(labelled, np.arange(counts.shape[1]), side="right") - 1
    sequence = np.where(source < 0, 0, counts.argmax(axis=0)[labelled[source]] + 1).astype(np.int64)
    end = int(labelled[-1]) + 1
    if sequence[end - 1] < level_count:
        return sequence[:end]
    sequence[end:] = level_count + 1
    return sequence


def voxels_per_slice(values: npt.NDArray[np.integer[Any]], count: int) -> IntArray:
    """int64 (value, z): in each slice of ``values`` (z, y, x), the voxels of each value 0 .. count - 1."""
    depth = values.shape[0]
    cells = values.astype(np.int64) * depth + np.arange(depth)[:, None, None]
    return np.bincount(cells.ravel(), minlength=count * depth).reshape(count, depth)


def check_labels(labels: npt.NDArray[np.integer[Any]], level_count: int) -> None:
    """Raise ValueError unless ``labels`` is an integer (z, y, x) volume of 0 .. ``level_count`` + 1."""
    if labels.ndim != 3 or not np.issubdtype(labels.dtype, np.integer) or not labels.size:
        raise ValueError(f"Labels must be an integer (z, y, x) volume, not {labels.dtype} {labels.shape}.")
    if labels.min() < 0 or labels.max() > level_count + 1:
        raise ValueError(f"Labels must be 0 .. {level_count + 1}, not {labels.min()} .. {labels.max()}.")


def _transition_probabilities(counts: FloatArray) -> FloatArray:
    states = len(counts)
    probabilities = np.zeros_like(counts)
    for state in range(states - 1):
        skip = P_SKIP if state + 2 < states else 0.0
        smoothed = counts[state, state : state + 2] + 1
        probabilities[state, state : state + 2] = (1 - skip) * smoothed / smoothed.sum()
        if skip:
            probabilities[state, state + 2] = skip
    probabilities[-1, -1] = 1
    return probabilities


def _confusion_probabilities(states: int) -> FloatArray:
    distance = np.abs(np.subtract.outer(np.arange(states), np.arange(1, states)))
    others = np.maximum(1, (distance > 1).sum(axis=1, keepdims=True))
    remainder = (1 - P_CORRECT - 2 * P_NEIGHBOUR) / others
    vertebra = np.where(distance > 1, remainder, np.where(distance, P_NEIGHBOUR, P_CORRECT))
    vertebra[0] = 1
    nothing = np.full((states, 1), P_MISSED)
    nothing[0] = 1 - P_INVENTED
    return np.hstack([nothing, (1 - nothing) * vertebra / vertebra.sum(axis=1, keepdims=True)])


def _to_lists(values: FloatArray) -> list[Any]:
    if values.ndim > 1:
        return [_to_lists(row) for row in values]
    return [None if value == -np.inf else value for value in values.tolist()]


def _from_lists(rows: Any) -> FloatArray:
    values = np.array(rows, dtype=object)
    return np.where(values == None, -np.inf, values).astype(np.float64)  # noqa: E711
