"""Relabelling of a predicted label map, so that each level occurs once and in anatomical order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from model.localizer.hmm import FloatArray, IntArray
from model.localizer.level_order import (
    LevelOrder,
    boundary_scores,
    check_labels,
    decode,
    slice_profile,
    voxels_per_slice,
)

MIN_COMPONENT_MM3 = 500.0
"""Smaller components are noise. A vertebra has 5000 and more."""
MAX_FRAGMENT_MM3 = 1500.0
"""Smaller components are fragments, which may well be beside the next vertebra, as the tip of a spinous
process is: they keep their level."""
CUT_SHARE = 0.25
"""A component is cut where at least this share of it, and of all that a neighbouring state's slices show,
belongs to that neighbouring state: it is then two vertebrae with one label, not one with blurred ends."""
MAX_GAP_MM = 10.0
"""Greatest distance, surface to surface, of a piece of a vertebra from that vertebra's largest piece."""
RELABELLED_WEIGHT = 0.5
"""Factor on the network's certainty in voxels whose level was changed."""


@dataclass(frozen=True, eq=False)
class Relabelled:
    """A label map in which each level occurs once and in anatomical order.

    Parameters
    ----------
    labels
        uint8 (z, y, x): 0 background, 1..K, K + 1 below.
    confidence
        float64 (K,) in [0, 1], 0 where the level is absent: the product of two numbers. The first is the
        network's certainty: the mean over the level's voxels of the probability of the class that the network
        predicted there, halved (`RELABELLED_WEIGHT`) where that class is another level. The second is the
        posterior of the level's state, in the middle one of those slices of the level in which that state is
        the most probable; 0 if there is no such slice. A level about which the network is certain and the
        order agrees has nearly 1; one that was relabelled has at most `RELABELLED_WEIGHT`.
    path
        int64 (z,): the most probable states, in the order of z (foot first).
    posterior
        float64 (z, S): the states' probabilities, in the order of z.
    """

    labels: npt.NDArray[np.uint8]
    confidence: FloatArray
    path: IntArray
    posterior: FloatArray


def relabel(
    labels: npt.NDArray[np.integer[Any]],
    probabilities: npt.NDArray[np.floating[Any]],
    order: LevelOrder,
    spacing_mm: float,
) -> Relabelled:
    """Correct the levels in a label map by the order of the vertebrae.

    1. Remove connected components of each class (26 neighbours) smaller than `MIN_COMPONENT_MM3`.
    2. Decode the slice profile and the boundary scores of the rest.
    3. Assign to each component the state with the highest posterior in its slices. Each slice is weighted by
       the component's voxels in it and by their share of all that the slice shows, because a state describes
       most of its slice. The network confuses neighbours, not C2 with C6: a component that would change by
       more than one level is dropped. Fragments (`MAX_FRAGMENT_MM3`) keep their level. A component that
       contains much of two neighbouring states (`CUT_SHARE`) is cut where the path changes from one to the
       other.
    4. Of the pieces of one level, keep the largest and those within `MAX_GAP_MM` of it.
    5. Where a level's centroid is not above the next one's, drop the less confident of the two.

    Two touching vertebrae of the same class are separated between slices only: where they overlap along z,
    the tip of one gets the level of the other.

    Parameters
    ----------
    labels
        Integer (z, y, x): 0 background, 1..K, K + 1 below; the network's class of each voxel.
    probabilities
        (K + 2, z, y, x): the network's probabilities of background, 1..K and below.
    order
        Fitted with slices of the same thickness.
    spacing_mm
        Edge of a voxel.

    Raises
    ------
    ValueError
        If ``labels`` is not an integer volume with at least one slice, or holds other values; the shapes do
        not match; or a probability is not finite.
    """
    check_labels(labels, order.level_count)
    if probabilities.shape != (order.level_count + 2, *labels.shape):
        raise ValueError(f"Probabilities {probabilities.shape} do not match labels {labels.shape}.")
    if not np.isfinite(probabilities).all():
        raise ValueError("A probability is NaN or infinite.")
    voxel_mm3 = spacing_mm**3
    components, classes = _components(labels, order.level_count, MIN_COMPONENT_MM3 / voxel_mm3)
    foreground = components > 0
    profile = slice_profile(probabilities * foreground)
    path, posterior = decode(profile[::-1], boundary_scores(foreground[::-1]), order)
    path, posterior = path[::-1], posterior[::-1]
    counts = voxels_per_slice(components, len(classes))
    is_fragment = counts.sum(axis=1) < MAX_FRAGMENT_MM3 / voxel_mm3
    states = _states_of_components(counts, classes, is_fragment, path, posterior)
    pieces, state_of_piece = _cut_into_pieces(components, states)
    _keep_one_vertebra_per_level(state_of_piece, pieces, order.level_count, spacing_mm)
    corrected = state_of_piece[pieces]
    certainty = np.take_along_axis(probabilities, labels[None].astype(np.int64), axis=0)[0]
    certainty = np.where(corrected == labels, certainty, RELABELLED_WEIGHT * certainty)
    confidence = np.array(
        [
            _confidence(corrected == level, certainty, posterior, level)
            for level in range(1, order.level_count + 1)
        ]
    )
    _drop_levels_out_of_order(corrected, confidence)
    return Relabelled(corrected.astype(np.uint8), confidence, path, posterior)


def _components(
    labels: npt.NDArray[np.integer[Any]], level_count: int, min_voxels: float
) -> tuple[IntArray, IntArray]:
    """Component numbers (z, y, x), from 1 and 0 elsewhere, and the class of each number (0 for 0)."""
    components, classes = np.zeros(labels.shape, dtype=np.int64), [0]
    for value in range(1, level_count + 2):
        of_class, count = ndimage.label(labels == value, np.ones((3, 3, 3)))
        is_large = np.bincount(of_class.ravel(), minlength=count + 1) >= min_voxels
        is_large[0] = False
        numbers = np.where(is_large, np.cumsum(is_large) + len(classes) - 1, 0)
        components += numbers[of_class]
        classes += [value] * int(is_large.sum())
    return components, np.array(classes, dtype=np.int64)


def _states_of_components(
    counts: IntArray,
    classes: IntArray,
    is_fragment: npt.NDArray[np.bool_],
    path: IntArray,
    posterior: FloatArray,
) -> IntArray:
    """(component, z): the state of each component in each slice; 0 where it is dropped.

    ``counts`` (component, z) are the voxels of each component in each slice.
    """
    voxels = counts.astype(np.float64)
    voxels[0] = 0
    votes = (voxels**2 / np.maximum(1, voxels.sum(axis=0))) @ posterior
    favourite = votes.argmax(axis=1)
    is_dropped = (np.abs(favourite - classes) > 1) | ((favourite == 0) & ~is_fragment)
    allowed = _states_worth_a_cut(votes, classes, is_fragment)
    allowed[np.arange(len(classes)), np.where(is_fragment, classes, favourite)] = True
    lowest, highest = allowed.argmax(axis=1), allowed.shape[1] - 1 - allowed[:, ::-1].argmax(axis=1)
    states = np.clip(path, lowest[:, None], highest[:, None])
    return np.where(is_dropped[:, None], 0, states)


def _states_worth_a_cut(
    votes: FloatArray, classes: IntArray, is_fragment: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """(component, state): whether a component contains enough of a state to be cut (`CUT_SHARE`)."""
    total = votes.sum(axis=1)
    below = votes.shape[1] - 1
    is_level = (classes > 0) & (classes < below) & ~is_fragment
    if is_level.any():
        # Everything below is one component: measure a level hidden in it as if in a pair of vertebrae.
        pair = 2 * np.median(total[is_level])
        total = np.where(classes == below, np.minimum(total, pair), total)
    result: npt.NDArray[np.bool_] = votes >= CUT_SHARE * total[:, None]
    result &= votes >= CUT_SHARE * votes.sum(axis=0)
    result &= np.abs(np.arange(votes.shape[1]) - classes[:, None]) <= 1
    result[is_fragment] = False
    result[:, 0] = False
    return result


def _cut_into_pieces(components: IntArray, states: IntArray) -> tuple[IntArray, IntArray]:
    """Components cut by their states (component, z): piece numbers (z, y, x), and the state of each piece."""
    count = int(states.max()) + 1
    unique, numbers = np.unique(np.arange(len(states))[:, None] * count + states, return_inverse=True)
    z = np.arange(len(components))[:, None, None]
    return numbers.reshape(states.shape)[components, z], unique % count


def _keep_one_vertebra_per_level(
    state_of_piece: IntArray, pieces: IntArray, level_count: int, spacing_mm: float
) -> None:
    """Set ``state_of_piece`` to 0, in place, for pieces too far from the largest piece of their level."""
    sizes = np.bincount(pieces.ravel(), minlength=len(state_of_piece))
    for level in range(1, level_count + 1):
        of_level = np.flatnonzero(state_of_piece == level)
        if len(of_level) < 2:
            continue
        largest = of_level[sizes[of_level].argmax()]
        distance = ndimage.distance_transform_edt(pieces != largest, sampling=spacing_mm)
        state_of_piece[of_level[ndimage.minimum(distance, pieces, of_level) > MAX_GAP_MM]] = 0


def _confidence(
    in_level: npt.NDArray[np.bool_],
    certainty: npt.NDArray[np.floating[Any]],
    posterior: FloatArray,
    level: int,
) -> float:
    """The confidence of `Relabelled`; ``in_level`` and ``certainty`` are (z, y, x)."""
    slices = np.flatnonzero(in_level.any(axis=(1, 2)) & (posterior.argmax(axis=1) == level))
    if not len(slices):
        return 0.0
    at_middle = posterior[slices[len(slices) // 2], level]
    return float(np.clip(certainty[in_level].mean(dtype=np.float64) * at_middle, 0, 1))


def _drop_levels_out_of_order(labels: IntArray, confidence: FloatArray) -> None:
    """Clear levels in both arrays, in place, until each centroid is above the next one's."""
    voxels = voxels_per_slice(labels, len(confidence) + 2)
    heights = voxels @ np.arange(len(labels)) / np.maximum(1, voxels.sum(axis=1))
    present = [level for level in range(1, len(confidence) + 1) if voxels[level].any()]
    while wrong := [pair for pair in pairwise(present) if heights[pair[0]] <= heights[pair[1]]]:
        dropped = min(wrong[0], key=lambda level: confidence[level - 1])
        labels[labels == dropped] = 0
        confidence[dropped - 1] = 0
        present.remove(dropped)
