"""Label maps as runs: the parts of each label, their measures and their surfaces.

A run is a stretch of one label along a row that cannot be longer. There are a thousand times fewer runs than
voxels, so work on them costs little beside the one pass that finds them (`regions.label_runs`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spine_etl.geometry import FloatArray, Grid
from spine_etl.jit import compiled, read_only
from spine_etl.volume import LabelMap

IntArray = npt.NDArray[np.int64]
RunArray = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Runs:
    """The runs of a label map, row by row.

    ``table`` is int32 (run, 5): z, y, first x, last x + 1, label. ``row_start`` (z * y + 1,) is the index of
    the first run of each row; ``shape`` that of the label map.
    """

    table: RunArray
    row_start: IntArray
    shape: tuple[int, ...]

    @classmethod
    def by_row(cls, table: RunArray, runs_in_row: IntArray, shape: tuple[int, ...]) -> Runs:
        """Runs in the order of their rows; ``runs_in_row`` (z * y,) is their number in each."""
        return cls(table, np.concatenate([[0], np.cumsum(runs_in_row)]), shape)


@dataclass(frozen=True, eq=False)
class Measures:
    """Measures of sets of voxels, by set.

    The number of their voxels, the sum of their indices (set, 3), the first and last index along each axis,
    and the lowest and highest LPS position (set, 3) of their voxels' outer corners.
    """

    voxels: IntArray
    sums: FloatArray
    low: IntArray
    high: IntArray
    low_mm: FloatArray
    high_mm: FloatArray


@dataclass(frozen=True, eq=False)
class Parts(Measures):
    """The components of each label in the 26-neighbourhood, in the order of their first voxels.

    ``label`` is the label of each, and ``of_run`` (run,) the part of each run.
    """

    label: IntArray
    of_run: IntArray

    def __len__(self) -> int:
        return len(self.label)


def find_parts(runs: Runs, grid: Grid) -> Parts:
    """The parts of every label, and their measures on the label map's grid."""
    parents = _join_runs(runs.table, runs.row_start, runs.shape[0], runs.shape[1])
    of_run, count = _number_parts(parents)
    half_voxel_mm = np.abs(grid.affine[:3, :3]).sum(axis=1) / 2
    return Parts(*_measure_parts(runs.table, of_run, count, grid.affine, half_voxel_mm), of_run)


def measure_labels(parts: Parts, chosen: npt.NDArray[np.bool_]) -> Measures:
    """The measures of each label's chosen parts together, by label (256,)."""
    return Measures(
        *_add_parts(
            parts.label, chosen, parts.voxels, parts.sums, parts.low, parts.high, parts.low_mm, parts.high_mm
        )
    )


def largest_parts(parts: Parts) -> tuple[IntArray, IntArray]:
    """For each label (256,) the first part with most voxels, 0 if it has none, and how many are as large."""
    return _largest_parts(parts.label, parts.voxels)


def box_distances_mm(parts: Parts, other: IntArray) -> FloatArray:
    """Distance between the bounding boxes of each part and of its label's part in ``other`` (256,).

    The boxes are along the patient's axes; the distance is 0 if they overlap.
    """
    return _box_distances(parts.label, parts.low_mm, parts.high_mm, other)


def foreign_shares(
    label_map: LabelMap, runs: Runs, parts: Parts, wanted: npt.NDArray[np.bool_]
) -> FloatArray:
    """For each wanted part the share of its surface, in mm2, that touches other labels; 0 for all others."""
    steps = label_map.grid.affine[:3, :3].T
    areas = np.array([np.linalg.norm(np.cross(steps[axis - 2], steps[axis - 1])) for axis in range(3)])
    surface, foreign = _measure_surfaces(read_only(label_map.labels), runs.table, parts.of_run, wanted, areas)
    return np.divide(foreign, surface, out=np.zeros(len(parts)), where=surface > 0)


def runs_of_parts(runs: Runs, parts: Parts, kept: npt.NDArray[np.bool_]) -> Runs:
    """The runs of the kept parts alone."""
    table = runs.table[kept[parts.of_run]]
    rows = table[:, 0].astype(np.int64) * runs.shape[1] + table[:, 1]
    return Runs.by_row(table, np.bincount(rows, minlength=runs.shape[0] * runs.shape[1]), runs.shape)


def paint_runs(runs: Runs) -> npt.NDArray[np.uint8]:
    """The label map (z, y, x) that has these runs."""
    labels = np.zeros(runs.shape, np.uint8)
    _paint_runs(runs.table, labels)
    return labels


@compiled
def _join_runs(table: RunArray, row_start: IntArray, depth: int, height: int) -> IntArray:
    """The parent of each run in a forest with one tree for each part; a root is its tree's first run."""
    parents = np.arange(table.shape[0])
    for row in range(row_start.size - 1):
        begin, end = row_start[row], row_start[row + 1]
        if begin == end:
            continue
        z, y = row // height, row % height
        for dz, dy in ((0, -1), (-1, -1), (-1, 0), (-1, 1)):
            if z + dz < 0 or y + dy < 0 or y + dy >= height:
                continue
            other = row + dz * height + dy
            first, last = row_start[other], row_start[other + 1]
            for run in range(begin, end):
                # A run touches another if it begins no later than the other ends, edges and corners included.
                while first < last and table[first, 3] < table[run, 2]:
                    first += 1
                neighbour = first
                while neighbour < last and table[neighbour, 2] <= table[run, 3]:
                    if table[neighbour, 4] == table[run, 4]:
                        a, b = run, neighbour
                        while parents[a] != a:
                            parents[a] = parents[parents[a]]
                            a = parents[a]
                        while parents[b] != b:
                            parents[b] = parents[parents[b]]
                            b = parents[b]
                        parents[max(a, b)] = min(a, b)
                    neighbour += 1
    return parents


@compiled
def _number_parts(parents: IntArray) -> tuple[IntArray, int]:
    """The number of each run's part, and how many there are. A parent is never after its child."""
    of_run = np.empty(parents.size, np.int64)
    count = 0
    for run in range(parents.size):
        if parents[run] == run:
            of_run[run] = count
            count += 1
        else:
            of_run[run] = of_run[parents[run]]
    return of_run, count


@compiled
def _measure_parts(
    table: RunArray, of_run: IntArray, count: int, affine: FloatArray, half_voxel_mm: FloatArray
) -> tuple[IntArray, FloatArray, IntArray, IntArray, FloatArray, FloatArray, IntArray]:
    label, voxels, sums = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros((count, 3))
    low = np.full((count, 3), np.iinfo(np.int64).max)
    high = np.full((count, 3), -1)
    low_mm, high_mm = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    for run in range(table.shape[0]):
        part = of_run[run]
        z, y, start, end = table[run, 0], table[run, 1], table[run, 2], table[run, 3]
        size = end - start
        label[part] = table[run, 4]
        voxels[part] += size
        sums[part, 0] += size * z
        sums[part, 1] += size * y
        sums[part, 2] += size * 0.5 * (start + end - 1)
        low[part, 0] = min(low[part, 0], z)
        low[part, 1] = min(low[part, 1], y)
        low[part, 2] = min(low[part, 2], start)
        high[part, 0] = max(high[part, 0], z)
        high[part, 1] = max(high[part, 1], y)
        high[part, 2] = max(high[part, 2], end - 1)
        for axis in range(3):
            base = affine[axis, 0] * z + affine[axis, 1] * y + affine[axis, 3]
            first, last = base + affine[axis, 2] * start, base + affine[axis, 2] * (end - 1)
            low_mm[part, axis] = min(low_mm[part, axis], min(first, last) - half_voxel_mm[axis])
            high_mm[part, axis] = max(high_mm[part, axis], max(first, last) + half_voxel_mm[axis])
    return voxels, sums, low, high, low_mm, high_mm, label


@compiled
def _add_parts(
    label: IntArray,
    chosen: npt.NDArray[np.bool_],
    voxels: IntArray,
    sums: FloatArray,
    low: IntArray,
    high: IntArray,
    low_mm: FloatArray,
    high_mm: FloatArray,
) -> tuple[IntArray, FloatArray, IntArray, IntArray, FloatArray, FloatArray]:
    all_voxels, all_sums = np.zeros(256, np.int64), np.zeros((256, 3))
    first, last = np.full((256, 3), np.iinfo(np.int64).max), np.full((256, 3), -1)
    lowest, highest = np.full((256, 3), np.inf), np.full((256, 3), -np.inf)
    for part in range(label.size):
        if chosen[part]:
            to = label[part]
            all_voxels[to] += voxels[part]
            for axis in range(3):
                all_sums[to, axis] += sums[part, axis]
                first[to, axis] = min(first[to, axis], low[part, axis])
                last[to, axis] = max(last[to, axis], high[part, axis])
                lowest[to, axis] = min(lowest[to, axis], low_mm[part, axis])
                highest[to, axis] = max(highest[to, axis], high_mm[part, axis])
    return all_voxels, all_sums, first, last, lowest, highest


@compiled
def _largest_parts(label: IntArray, voxels: IntArray) -> tuple[IntArray, IntArray]:
    largest, count = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for part in range(label.size):
        most = voxels[largest[label[part]]] if count[label[part]] > 0 else 0
        if voxels[part] > most:
            largest[label[part]], count[label[part]] = part, 1
        elif voxels[part] == most:
            count[label[part]] += 1
    return largest, count


@compiled
def _box_distances(label: IntArray, low: FloatArray, high: FloatArray, other: IntArray) -> FloatArray:
    distances = np.empty(label.size)
    for part in range(label.size):
        against = other[label[part]]
        squares = 0.0
        for axis in range(3):
            gap = max(low[part, axis] - high[against, axis], low[against, axis] - high[part, axis], 0.0)
            squares += gap * gap
        distances[part] = np.sqrt(squares)
    return distances


@compiled
def _measure_surfaces(
    labels: npt.NDArray[np.uint8],
    table: RunArray,
    of_run: IntArray,
    wanted: npt.NDArray[np.bool_],
    areas: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """For each part the area of its faces, and of those that touch another label; ``areas`` by axis."""
    surface, foreign = np.zeros(wanted.size), np.zeros(wanted.size)
    depth, height, width = labels.shape
    for run in range(table.shape[0]):
        part = of_run[run]
        if not wanted[part]:
            continue
        z, y, start, end = table[run, 0], table[run, 1], table[run, 2], table[run, 3]
        own = table[run, 4]
        surface[part] += 2 * areas[2]
        if start > 0 and labels[z, y, start - 1] > 0:
            foreign[part] += areas[2]
        if end < width and labels[z, y, end] > 0:
            foreign[part] += areas[2]
        for dz, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            near_z, near_y = z + dz, y + dy
            area = areas[0] if dz != 0 else areas[1]
            if near_z < 0 or near_z >= depth or near_y < 0 or near_y >= height:
                surface[part] += area * (end - start)
                continue
            line = labels[near_z, near_y]
            for x in range(start, end):
                if line[x] != own:
                    surface[part] += area
                    if line[x] > 0:
                        foreign[part] += area
    return surface, foreign


@compiled
def _paint_runs(table: RunArray, labels: npt.NDArray[np.uint8]) -> None:
    for run in range(table.shape[0]):
        line = labels[table[run, 0], table[run, 1]]
        for x in range(table[run, 2], table[run, 3]):
            line[x] = table[run, 4]
