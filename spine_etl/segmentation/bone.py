"""How well labels cover bone: their HU compared by rank with the HU of the shell around them.

The measure is the AUC: the probability that a voxel under a label is brighter than a voxel of the shell. It
needs no threshold for bone, so it holds with metal, contrast medium, a low dose and a low bone density. A
segmentation is compared with itself elsewhere: the right one fits nowhere better than where it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from spine_etl.geometry import Grid
from spine_etl.jit import compiled
from spine_etl.segmentation.lattice import METAL_RANK, REACH_MM, Array, Bytes, Indices, sample_lattice
from spine_etl.volume import LabelMap, Volume

_NEAR_MM = 9.0  # about half the distance from a cervical vertebra to the next
_SAME_MM = 2.5  # a shorter shift is no fault: labels are drawn that exactly, or half a voxel off
_SEARCH_MM = 6.0  # the step of the search, which is refined around its best shift
_SEARCHED_POINTS = 1200  # of these, and of the shell, those that are compared at each shift
_LEVEL_POINTS = 30  # points that a label needs to be judged on its own
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


def _turn(degrees: float, axes: tuple[int, int]) -> tuple[str, Array]:
    matrix, (a, b) = np.eye(3), axes
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix[[a, a, b, b], [a, b, a, b]] = [cosine, -sine, sine, cosine]
    return f"if turned by {abs(degrees)} degrees", matrix


_TURNS_BY_ANGLE = [_turn(*pair) for pair in product((-20, -10, 10, 20), ((0, 1), (0, 2), (1, 2)))]
_SIZES = [(f"at {factor:.0%} of its size", np.eye(3) * factor) for factor in (0.8, 0.9, 1.1, 1.25)]
_SIZES += [
    (f"at {factor:.0%} of its height", np.diag([factor, 1.0, 1.0])) for factor in (0.8, 0.9, 1.1, 1.25)
]
"""Matrices (3, 3) in (z, y, x). Sizes are not tried on one or two vertebrae, which may be drawn too large."""


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
        By label, its own AUC; and what the best shift of each label on its own within 9 mm adds on average,
        beyond what one of less than 2.5 mm or half a voxel adds.
    turn, turn_gain
        The mirrored, turned or resized copy that fits best, and what it adds to ``auc``.
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
    lattice = sample_lattice(label_map, volume, low, high)
    step, labels, shell, flat = lattice.step_mm, lattice.labels, lattice.shell, lattice.ranks.ravel()
    inside, around = np.flatnonzero(labels), np.flatnonzero(shell)
    seen = flat[inside]
    points = int(np.count_nonzero(seen))
    if points == 0 or not flat[around].any():
        return BoneFit(0, 0.5, 0.0, 0.0, {}, 0.0, "", 0.0, 0.0)
    auc = float(_aucs(flat, inside, around, np.zeros(1, np.int64), 0)[0])
    search = _Search(flat, labels.shape, step, int(points * _MIN_INSIDE))
    shift, best = search.best(inside, around)
    voxel_mm = max(label_map.grid.spacing_mm.max(), volume.grid.spacing_mm.max())
    same_mm = max(_SAME_MM, float(voxel_mm) / 2)
    level_auc, level_gain = _fit_levels(flat, labels, shell, step, same_mm)
    deformations = _TURNS_BY_ANGLE if len(np.unique(labels)) < 4 else _TURNS_BY_ANGLE + _SIZES
    turn, turn_auc = search.best_deformation(inside, around, deformations)
    if auc < _CLEAR_AUC:
        turn, turn_auc = max((turn, turn_auc), _best_turn(search, labels, shell), key=lambda pair: pair[1])
    bright = np.count_nonzero(seen == METAL_RANK) + np.count_nonzero(flat[around] == METAL_RANK)
    return BoneFit(
        points=points,
        auc=auc,
        gain=max(0.0, best - search.here(inside, around)),
        shift_mm=float(np.linalg.norm(shift) * step),
        level_auc=level_auc,
        level_gain=level_gain,
        turn=turn,
        turn_gain=max(0.0, turn_auc - search.here(inside, around)),
        metal=float(bright) / (len(inside) + len(around)),
    )


@dataclass(frozen=True)
class _Search:
    """Shifts of points over the ranks of the lattice, by flat index; ``min_inside`` points stay in the CT."""

    ranks: Bytes
    shape: tuple[int, ...]
    step: float
    min_inside: int

    def here(self, inside: Indices, around: Indices) -> float:
        return float(self._aucs(inside, around, np.zeros((1, 3), np.int64))[0])

    def best(self, inside: Indices, around: Indices) -> tuple[Indices, float]:
        """The shift (z, y, x) in steps within 30 mm with the largest AUC, and that AUC."""
        stride = max(1, round(_SEARCH_MM / self.step))
        shifts = _ball(REACH_MM, self.step, stride)
        coarse = shifts[self._aucs(inside, around, shifts).argmax()]
        shifts = coarse + np.array(list(product(range(1 - stride, stride), repeat=3)))
        shifts = shifts[np.linalg.norm(shifts, axis=1) * self.step <= REACH_MM]
        aucs = self._aucs(inside, around, shifts)
        return shifts[aucs.argmax()], float(aucs.max())

    def _aucs(self, inside: Indices, around: Indices, shifts: Indices) -> Array:
        thin_inside, thin_around = _thinned(inside), _thinned(around)
        enough = int(self.min_inside * len(thin_inside) / max(1, len(inside)))
        return _aucs(self.ranks, thin_inside, thin_around, shifts @ _strides(self.shape), enough)

    def best_deformation(
        self, inside: Indices, around: Indices, deformations: Sequence[tuple[str, Array]]
    ) -> tuple[str, float]:
        """The slight turn or change of size about the middle of the labels with the largest AUC."""
        points = [np.stack(np.unravel_index(_thinned(part), self.shape), axis=1) for part in (inside, around)]
        middle = points[0].mean(axis=0)
        best = ("", 0.0)
        for name, matrix in deformations:
            moved = [np.rint((part - middle) @ matrix.T + middle).astype(np.int64) for part in points]
            own, other = (np.clip(part, 0, np.array(self.shape) - 1) @ _strides(self.shape) for part in moved)
            auc = float(_aucs(self.ranks, own, other, np.zeros(1, np.int64), 0)[0])
            best = max(best, (name, auc), key=lambda pair: pair[1])
        return best


def _strides(shape: tuple[int, ...]) -> Indices:
    return np.array([shape[1] * shape[2], shape[2], 1])


def _thinned(points: Indices) -> Indices:
    return np.ascontiguousarray(points[:: max(1, len(points) // _SEARCHED_POINTS)])


def _fit_levels(
    flat: Bytes, labels: Bytes, shell: Bytes, step: float, same_mm: float
) -> tuple[dict[int, float], float]:
    """The AUC of each label, and the mean gain of its best shift, weighted by the label's points."""
    strides = _strides(labels.shape)
    near, same = _ball(_NEAR_MM, step, 1) @ strides, _ball(same_mm, step, 1) @ strides
    aucs: dict[int, float] = {}
    gain = weight = 0.0
    own, ring = labels.ravel(), shell.ravel()
    for label in np.flatnonzero(np.bincount(own[own > 0])).tolist():
        inside, around = np.flatnonzero(own == label), np.flatnonzero(ring == label)
        points = np.count_nonzero(flat[inside])
        if points < _LEVEL_POINTS or not flat[around].any():
            continue
        enough = int(points * _MIN_INSIDE)
        aucs[label] = float(_aucs(flat, inside, around, np.zeros(1, np.int64), 0)[0])
        here = float(_aucs(flat, inside, around, same, enough).max())
        gain += points * (float(_aucs(flat, inside, around, near, enough).max()) - here)
        weight += points
    return aucs, float(gain / max(1.0, weight))


def _best_turn(search: _Search, labels: Bytes, shell: Bytes) -> tuple[str, float]:
    """The copy of the labels, mirrored or turned about the middle of the lattice, with the largest AUC."""
    best = ("", 0.0)
    for name, (exchanged, *signs) in _TURNS.items():
        flips = tuple(slice(None, None, sign) for sign in signs)
        copies = [array.transpose(0, 2, 1) if exchanged else array for array in (labels, shell)]
        inside, around = (np.flatnonzero(copy[flips]) for copy in copies)
        best = max(best, (name, search.best(inside, around)[1]), key=lambda pair: pair[1])
    return best


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
