"""How well labels cover bone: their HU compared by rank with the HU of the shell around them.

The measure is the AUC: the probability that a voxel under a label is brighter than a voxel of the shell. It
needs no threshold for bone, so it holds with metal, contrast medium, a low dose and a low bone density. A
segmentation is compared with itself elsewhere: the right one fits nowhere better than where it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from spine_etl.geometry import Grid
from spine_etl.jit import compiled
from spine_etl.volume import LabelMap, Volume

Bytes = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Array = npt.NDArray[np.float64]

_T = TypeVar("_T", bound=np.generic)

_REACH_MM = 30.0
_NEAR_MM = 9.0  # about half the distance from a cervical vertebra to the next
_SHELL_STEPS = 2
_SEARCH_MM = 6.0  # the step of the search, which is refined around its best shift
_MIN_STEP_MM, _MAX_STEP_MM = 2.0, 3.0
_POINTS = 2500  # points of the lattice that the labels should have
_SEARCHED_POINTS = 1200  # of these, and of the shell, those that are compared at each shift
_LEVEL_POINTS = 30  # points that a label needs to be judged on its own
_LOW_HU, _HIGH_HU, _METAL_HU = 0.0, 2000.0, 2800.0  # below water there is one rank: air and fat
_MIN_INSIDE = 0.75
_CLEAR_AUC = 0.72  # above it, no mirrored or turned copy is tried

_TURNS = {
    "if turned front to back": (0, 1, -1, 1),
    "if turned upside down": (0, -1, 1, 1),
    "if turned upside down and front to back": (0, -1, -1, 1),
    "with rows and columns exchanged": (1, 1, 1, 1),
    "with rows and columns exchanged and both reversed": (1, 1, -1, -1),
    "if turned by 90 degrees": (1, 1, -1, 1),
    "if turned by -90 degrees": (1, 1, 1, -1),
}
"""1 if y and x are exchanged, then the signs of z, y and x. Left to right fits as well."""


@dataclass(frozen=True)
class BoneFit:
    """The AUC of labels where they are and elsewhere.

    Attributes
    ----------
    points
        Sample points under labels and inside the CT, on which all figures rest.
    auc
        Of all labels together, where they are.
    gain, shift_mm
        What the best shift within 30 mm adds to it, and the length of that shift.
    level_auc, level_gain
        By label, its own AUC; and what the best shift of each label on its own within 9 mm adds on average.
    turn, turn_gain
        The mirrored or turned copy, at its best shift, that fits best, and what it adds to ``auc``.
    metal
        Share of the sample points in labels and shell that are brighter than any bone.
    """

    points: int
    auc: float
    gain: float
    shift_mm: float
    level_auc: Mapping[int, float]
    level_gain: float
    turn: str
    turn_gain: float
    metal: float


def bone_fit(label_map: LabelMap, volume: Volume, low: Indices, high: Indices) -> BoneFit:
    """Compare all labels with the CT; they are within the index box ``low`` to ``high`` of the map.

    With no sample point under a label inside the CT, ``points`` is 0 and the AUC is 0.5.
    """
    step, labels, ranks = _sample(label_map, volume, low, high)
    shell = np.zeros_like(labels)
    _grow(labels, shell, _SHELL_STEPS)
    flat, strides = ranks.ravel(), np.array([labels.shape[1] * labels.shape[2], labels.shape[2], 1])
    inside, around = np.flatnonzero(labels), np.flatnonzero(shell)
    seen = flat[inside]
    points = int(np.count_nonzero(seen))
    if points == 0 or not flat[around].any():
        return BoneFit(0, 0.5, 0.0, 0.0, {}, 0.0, "", 0.0, 0.0)
    auc = float(_aucs(flat, inside, around, np.zeros(1, np.int64), 0)[0])
    search = _Search(flat, strides, step, int(points * _MIN_INSIDE))
    shift, best = search.best(inside, around)
    level_auc, level_gain = _fit_levels(flat, labels, shell, _ball(_NEAR_MM, step, 1) @ strides)
    turn, turn_auc = _best_turn(search, labels, shell) if auc < _CLEAR_AUC else ("", 0.0)
    bright = np.count_nonzero(seen == 255) + np.count_nonzero(flat[around] == 255)
    return BoneFit(
        points=points,
        auc=auc,
        gain=max(0.0, best - search.here(inside, around)),
        shift_mm=float(np.linalg.norm(shift) * step),
        level_auc=level_auc,
        level_gain=level_gain,
        turn=turn,
        turn_gain=max(0.0, turn_auc - auc),
        metal=bright / (len(inside) + len(around)),
    )


@dataclass(frozen=True)
class _Search:
    """Shifts of points over the ranks of the lattice, by flat index; ``min_inside`` points stay in the CT."""

    ranks: Bytes
    strides: Indices
    step: float
    min_inside: int

    def here(self, inside: Indices, around: Indices) -> float:
        return float(self._aucs(inside, around, np.zeros((1, 3), np.int64))[0])

    def best(self, inside: Indices, around: Indices) -> tuple[Indices, float]:
        """The shift (z, y, x) in steps within 30 mm with the largest AUC, and that AUC."""
        stride = max(1, round(_SEARCH_MM / self.step))
        shifts = _ball(_REACH_MM, self.step, stride)
        coarse = shifts[self._aucs(inside, around, shifts).argmax()]
        shifts = coarse + np.array(list(product(range(1 - stride, stride), repeat=3)))
        shifts = shifts[np.linalg.norm(shifts, axis=1) * self.step <= _REACH_MM]
        aucs = self._aucs(inside, around, shifts)
        return shifts[aucs.argmax()], float(aucs.max())

    def _aucs(self, inside: Indices, around: Indices, shifts: Indices) -> Array:
        thin_inside, thin_around = _thinned(inside), _thinned(around)
        enough = int(self.min_inside * len(thin_inside) / max(1, len(inside)))
        return _aucs(self.ranks, thin_inside, thin_around, shifts @ self.strides, enough)


def _thinned(points: Indices) -> Indices:
    return np.ascontiguousarray(points[:: max(1, len(points) // _SEARCHED_POINTS)])


def _fit_levels(flat: Bytes, labels: Bytes, shell: Bytes, shifts: Indices) -> tuple[dict[int, float], float]:
    """The AUC of each label, and the mean gain of its best shift, weighted by the label's points."""
    aucs: dict[int, float] = {}
    gain = weight = 0.0
    own, ring = labels.ravel(), shell.ravel()
    for label in np.flatnonzero(np.bincount(own[own > 0])).tolist():
        inside, around = np.flatnonzero(own == label), np.flatnonzero(ring == label)
        points = np.count_nonzero(flat[inside])
        if points < _LEVEL_POINTS or not flat[around].any():
            continue
        aucs[label] = float(_aucs(flat, inside, around, np.zeros(1, np.int64), 0)[0])
        best = float(_aucs(flat, inside, around, shifts, int(points * _MIN_INSIDE)).max())
        gain += points * max(0.0, best - aucs[label])
        weight += points
    return aucs, gain / max(1.0, weight)


def _best_turn(search: _Search, labels: Bytes, shell: Bytes) -> tuple[str, float]:
    """The copy of the labels, mirrored or turned about the middle of the lattice, with the largest AUC."""
    best = ("", 0.0)
    for name, (exchanged, *signs) in _TURNS.items():
        flips = tuple(slice(None, None, sign) for sign in signs)
        copies = [array.transpose(0, 2, 1) if exchanged else array for array in (labels, shell)]
        inside, around = (np.flatnonzero(copy[flips]) for copy in copies)
        best = max(best, (name, search.best(inside, around)[1]), key=lambda pair: pair[1])
    return best


def _sample(label_map: LabelMap, volume: Volume, low: Indices, high: Indices) -> tuple[float, Bytes, Bytes]:
    """Step in mm, labels and ranks of a canonical lattice around the labels, with as many rows as columns.

    Ranks are 1 to 255 by HU, and 0 outside the CT.
    """
    ends = np.array([low - 0.5, high + 0.5])
    corners = label_map.grid.to_mm(
        [[ends[i, 0], ends[j, 1], ends[k, 2]] for i, j, k in product((0, 1), repeat=3)]
    )
    box = label_map.labels[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))]
    coarse = box[:: ceil(box.shape[0] / 64), :: ceil(box.shape[1] / 64), :: ceil(box.shape[2] / 64)]
    labelled_mm3 = np.count_nonzero(coarse) / coarse.size * np.prod(high - low + 1.0)
    labelled_mm3 *= abs(np.linalg.det(label_map.grid.affine[:3, :3]))
    step = float(np.clip((labelled_mm3 / _POINTS) ** (1 / 3), _MIN_STEP_MM, _MAX_STEP_MM))
    size = corners.max(axis=0) - corners.min(axis=0)
    size[:2] = size[:2].max()
    margin = _REACH_MM + (_SHELL_STEPS + 1) * step
    shape = np.ceil((size[::-1] + 2 * margin) / step).astype(int) + 1
    lattice = Grid.canonical((corners.max(axis=0) + corners.min(axis=0)) / 2, shape.tolist(), step)
    labels, ranks = np.zeros(lattice.shape, np.uint8), np.zeros(lattice.shape, np.uint8)
    _take_labels(
        _readonly(label_map.labels), lattice.index_map_to(label_map.grid), int(margin / step) - 1, labels
    )
    limits = np.array([_LOW_HU, _HIGH_HU, _METAL_HU])
    _take_ranks(
        _readonly(volume.voxels), lattice.index_map_to(volume.grid), _nearest_slices(volume), limits, ranks
    )
    return step, labels, ranks


def _readonly(array: npt.NDArray[_T]) -> npt.NDArray[_T]:
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False  # numba compiles a kernel again for writeable arrays
    return view


def _nearest_slices(volume: Volume) -> Indices:
    """The nearest slice for each quarter of a z index of the CT's grid; empty if slices are even."""
    if volume.slice_coordinates is None:
        return np.zeros(0, np.int64)
    slices = volume.slice_positions
    quarters = np.arange(4 * len(slices)) / 4
    return np.searchsorted((slices[1:] + slices[:-1]) / 2, quarters).astype(np.int64)


def _ball(radius_mm: float, step_mm: float, stride: int) -> Indices:
    """(n, 3): all shifts in steps within a radius whose components are multiples of ``stride``."""
    ends = int(radius_mm / step_mm / stride)
    axis = np.arange(-ends, ends + 1) * stride
    shifts = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    within: Indices = shifts[np.linalg.norm(shifts, axis=1) * step_mm <= radius_mm]
    return within


def warm_up() -> None:
    """Compile the kernels, or load them from numba's cache."""
    grid = Grid((2, 2, 2), np.eye(4))
    label_map = LabelMap(np.ones((2, 2, 2), np.uint8), grid)
    ends = np.zeros(3, np.int64), np.ones(3, np.int64)
    bone_fit(label_map, Volume(np.zeros((2, 2, 2), np.int16), grid), *ends)
    bone_fit(label_map, Volume(np.zeros((2, 2, 2), np.float32), grid), *ends)


@compiled
def _take_labels(voxels: Bytes, to_voxel: Array, skip: int, out: Bytes) -> None:
    """Nearest voxels of a label map; ``skip`` points at each end of an axis are left as they are."""
    for z in range(skip, out.shape[0] - skip):
        for y in range(skip, out.shape[1] - skip):
            for x in range(skip, out.shape[2] - skip):
                i = int(
                    np.floor(
                        to_voxel[0, 0] * z + to_voxel[0, 1] * y + to_voxel[0, 2] * x + to_voxel[0, 3] + 0.5
                    )
                )
                j = int(
                    np.floor(
                        to_voxel[1, 0] * z + to_voxel[1, 1] * y + to_voxel[1, 2] * x + to_voxel[1, 3] + 0.5
                    )
                )
                k = int(
                    np.floor(
                        to_voxel[2, 0] * z + to_voxel[2, 1] * y + to_voxel[2, 2] * x + to_voxel[2, 3] + 0.5
                    )
                )
                if 0 <= i < voxels.shape[0] and 0 <= j < voxels.shape[1] and 0 <= k < voxels.shape[2]:
                    out[z, y, x] = voxels[i, j, k]


@compiled
def _take_ranks(
    voxels: npt.NDArray[np.generic], to_voxel: Array, nearest_slices: Indices, limits: Array, out: Bytes
) -> None:
    """Ranks of the nearest voxels of a CT: 1 up to the first limit, 254 at the second, 255 from the third."""
    scale = 253.0 / (limits[1] - limits[0])
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                at = to_voxel[0, 0] * z + to_voxel[0, 1] * y + to_voxel[0, 2] * x + to_voxel[0, 3]
                if len(nearest_slices) > 0:
                    quarter = min(max(int(np.floor(at * 4 + 0.5)), 0), len(nearest_slices) - 1)
                    i = nearest_slices[quarter] if -0.5 <= at < voxels.shape[0] - 0.5 else -1
                else:
                    i = int(np.floor(at + 0.5))
                j = int(
                    np.floor(
                        to_voxel[1, 0] * z + to_voxel[1, 1] * y + to_voxel[1, 2] * x + to_voxel[1, 3] + 0.5
                    )
                )
                k = int(
                    np.floor(
                        to_voxel[2, 0] * z + to_voxel[2, 1] * y + to_voxel[2, 2] * x + to_voxel[2, 3] + 0.5
                    )
                )
                if 0 <= i < voxels.shape[0] and 0 <= j < voxels.shape[1] and 0 <= k < voxels.shape[2]:
                    hu = float(voxels[i, j, k])
                    if hu >= limits[2]:
                        out[z, y, x] = 255
                    else:
                        out[z, y, x] = 1 + int(min(max((hu - limits[0]) * scale, 0.0), 253.0))


@compiled
def _grow(labels: Bytes, shell: Bytes, steps: int) -> None:
    """Fill ``shell`` with the label of the nearest labelled point within so many steps along the axes."""
    _, ny, nx = labels.shape
    points = np.flatnonzero(labels)
    reached = np.empty(labels.size, np.int64)
    own, ring = labels.ravel(), shell.ravel()
    strides = (ny * nx, nx, 1)
    count = len(points)
    for n in range(count):
        reached[n] = points[n]
    begin = 0
    for _ in range(steps):
        end = count
        for n in range(begin, end):
            point = reached[n]
            label = own[point] if own[point] > 0 else ring[point]
            for stride in strides:
                for neighbour in (point - stride, point + stride):
                    if 0 <= neighbour < own.size and own[neighbour] == 0 and ring[neighbour] == 0:
                        ring[neighbour] = label
                        reached[count] = neighbour
                        count += 1
        begin = end


@compiled
def _aucs(ranks: Bytes, inside: Indices, around: Indices, shifts: Indices, min_inside: int) -> Array:
    """The AUC of the ranks at ``inside`` over those at ``around``, both moved by each flat shift.

    0 where fewer than ``min_inside`` points, or no points of either, are inside the CT.
    """
    result = np.zeros(len(shifts))
    bright, dark = np.empty(256), np.empty(256)
    for s in range(len(shifts)):
        bright[:] = 0
        dark[:] = 0
        for point in inside:
            bright[ranks[point + shifts[s]]] += 1
        for point in around:
            dark[ranks[point + shifts[s]]] += 1
        n_bright, n_dark = len(inside) - bright[0], len(around) - dark[0]
        if n_bright < max(1, min_inside) or n_dark < 1:
            continue
        below = wins = 0.0
        for rank in range(1, 256):
            wins += bright[rank] * (below + 0.5 * dark[rank])
            below += dark[rank]
        result[s] = wins / (n_bright * n_dark)
    return result
