"""A lattice along the patient's axes around the labels, with the labels and the CT sampled on it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import ceil

import numpy as np
import numpy.typing as npt

from spine_etl.geometry import Grid
from spine_etl.jit import compiled, read_only
from spine_etl.volume import LabelMap, Volume

Bytes = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Array = npt.NDArray[np.float64]

REACH_MM = 30.0
"""How far the labels may be moved and still be on the lattice, with their shell."""

METAL_RANK = 255

_SHELL_GAP_STEPS, _SHELL_STEPS = 1, 3  # the gap is for labels drawn within the cortex
_MIN_STEP_MM, _MAX_STEP_MM = 2.0, 3.0
_POINTS = 2500  # points of the lattice that the labels should have
_LOW_HU, _HIGH_HU, _METAL_HU = 0.0, 2000.0, 2800.0  # below water there is one rank: air and fat


@dataclass(frozen=True, eq=False)
class Lattice:
    """Labels and CT on a lattice with equal steps, and with as many rows as columns.

    Attributes
    ----------
    step_mm
        Distance of its points.
    labels
        (z, y, x): the nearest label, within the box of the labels.
    shell
        The label of the nearest labelled point, 2 to 3 steps away from it; 0 elsewhere.
    ranks
        1 to 254 by HU, `METAL_RANK` for more than bone can have, 0 outside the CT.
    """

    step_mm: float
    labels: Bytes
    shell: Bytes
    ranks: Bytes


def sample_lattice(label_map: LabelMap, volume: Volume, low: Indices, high: Indices) -> Lattice:
    """The lattice around the labels within the index box ``low`` to ``high`` of their map.

    Its step is 2 to 3 mm, so that a few thousand points are under labels.
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
    margin = REACH_MM + (_SHELL_STEPS + 1) * step
    shape = np.ceil((size[::-1] + 2 * margin) / step).astype(int) + 1
    lattice = Grid.canonical((corners.max(axis=0) + corners.min(axis=0)) / 2, shape.tolist(), step)
    labels, ranks = np.zeros(lattice.shape, np.uint8), np.zeros(lattice.shape, np.uint8)
    _take_labels(
        read_only(label_map.labels), _map_to(label_map.grid, lattice), int(margin / step) - 1, labels
    )
    limits = np.array([_LOW_HU, _HIGH_HU, _METAL_HU])
    _take_ranks(
        read_only(volume.voxels), _map_to(volume.grid, lattice), _nearest_slices(volume), limits, ranks
    )
    shell = np.zeros_like(labels)
    _grow(labels, shell, _SHELL_GAP_STEPS, _SHELL_STEPS)
    return Lattice(step, labels, shell, ranks)


def _map_to(grid: Grid, lattice: Grid) -> Array:
    """The map from the lattice's index to the grid's, with ties decided by position for both grids alike."""
    index_map = lattice.index_map_to(grid).copy()
    index_map[:3, 3] += grid.tie_shifts()
    return index_map


def _nearest_slices(volume: Volume) -> Indices:
    """The nearest slice for each quarter of a z index of the CT's grid; empty if slices are even."""
    if volume.slice_coordinates is None:
        return np.zeros(0, np.int64)
    slices = volume.slice_positions
    quarters = np.arange(4 * len(slices)) / 4
    return np.searchsorted((slices[1:] + slices[:-1]) / 2, quarters).astype(np.int64)


@compiled
def _nearest(to_index: Array, z: int, y: int, x: int) -> int:
    """The index nearest to a point of the lattice, along the axis of this row of an index map."""
    return int(np.floor(to_index[0] * z + to_index[1] * y + to_index[2] * x + to_index[3] + 0.5))


@compiled
def _take_labels(voxels: Bytes, to_voxel: Array, skip: int, out: Bytes) -> None:
    """Nearest voxels of a label map; ``skip`` points at each end of an axis are left as they are."""
    for z in range(skip, out.shape[0] - skip):
        for y in range(skip, out.shape[1] - skip):
            for x in range(skip, out.shape[2] - skip):
                i = _nearest(to_voxel[0], z, y, x)
                j = _nearest(to_voxel[1], z, y, x)
                k = _nearest(to_voxel[2], z, y, x)
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
                j = _nearest(to_voxel[1], z, y, x)
                k = _nearest(to_voxel[2], z, y, x)
                if 0 <= i < voxels.shape[0] and 0 <= j < voxels.shape[1] and 0 <= k < voxels.shape[2]:
                    hu = float(voxels[i, j, k])
                    if hu >= limits[2]:
                        out[z, y, x] = 255
                    else:
                        out[z, y, x] = 1 + int(min(max((hu - limits[0]) * scale, 0.0), 253.0))


@compiled
def _grow(labels: Bytes, shell: Bytes, gap: int, steps: int) -> None:
    """Fill ``shell`` with the nearest label, from more than ``gap`` steps along the axes up to ``steps``."""
    _, ny, nx = labels.shape
    points = np.flatnonzero(labels)
    reached = np.empty(labels.size, np.int64)
    own, ring = labels.ravel(), shell.ravel()
    strides = (ny * nx, nx, 1)
    count = len(points)
    for n in range(count):
        reached[n] = points[n]
    begin = 0
    gap_end = count
    for step in range(steps):
        end = count
        if step == gap:
            gap_end = end
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
    for n in range(len(points), gap_end):
        ring[reached[n]] = 0
