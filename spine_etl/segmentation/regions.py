"""The voxels of each label of a label map: their number, place and runs, and how many are in a crop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from spine_etl.errors import LabelUnknown, MaskImplausible
from spine_etl.geometry import FloatArray, Grid
from spine_etl.jit import compiled, read_only
from spine_etl.recipe import Recipe
from spine_etl.segmentation.runs import IntArray, Runs
from spine_etl.volume import LabelMap

_REGIONS: WeakKeyDictionary[LabelMap, Mapping[int, LabelRegion]] = WeakKeyDictionary()
_RUNS: WeakKeyDictionary[LabelMap, Runs] = WeakKeyDictionary()

_MAX_RUNS = 2**23
"""Of runs that are kept, 20 bytes each. A neck at 0.4 mm has 31,000; noise has one for each voxel."""


@dataclass(frozen=True, eq=False)
class LabelRegion:
    """The voxels of one label in a label map.

    ``low`` and ``high`` are their first and last index (z, y, x) along each axis of the map; ``centroid_mm``
    is the mean of their centres in LPS.
    """

    label: int
    voxel_count: int
    low: tuple[int, int, int]
    high: tuple[int, int, int]
    centroid_mm: FloatArray
    volume_mm3: float


def label_regions(label_map: LabelMap) -> Mapping[int, LabelRegion]:
    """The region of every label in the map except the background, by label number.

    Takes one pass over the voxels; the result is cached for the lifetime of the map.
    """
    if label_map not in _REGIONS:
        _measure(label_map)
    return _REGIONS[label_map]


def label_runs(label_map: LabelMap) -> Runs:
    """The runs of a label map, found in the pass of `label_regions` and cached as its result is.

    Raises
    ------
    MaskImplausible
        If there are more than any segmentation has: the labels are noise.
    """
    if label_map not in _RUNS:
        _measure(label_map)
    runs = _RUNS[label_map]
    if runs.row_start[-1] > len(runs.table):
        raise MaskImplausible(
            f"The segmentation changes its label {runs.row_start[-1]} times along its rows: it is noise."
        )
    return runs


def keep_regions(label_map: LabelMap, regions: Mapping[int, LabelRegion], runs: Runs) -> None:
    """Make `label_regions` and `label_runs` return these, which the caller computed, without a pass."""
    _REGIONS[label_map] = MappingProxyType(dict(regions))
    _RUNS[label_map] = runs


def check_labels(label_map: LabelMap, recipe: Recipe) -> None:
    """Refuse a segmentation with labels that the recipe does not name.

    Raises
    ------
    LabelUnknown
        Lists all of them.
    """
    named = {*recipe.levels.values(), *recipe.other_labels.values()}
    unknown = sorted(set(label_regions(label_map)) - named)
    if unknown:
        raise LabelUnknown(f"The segmentation contains labels {unknown}, which the recipe does not name.")


def label_share(label_map: LabelMap, label: int, crop: Grid) -> float:
    """The share, 0 to 1, of a label's voxels whose centres are in a crop's block of voxels.

    Of two opposite faces of the block one belongs to it, as `Grid.tie_shifts` says.
    """
    region = label_regions(label_map)[label]
    index_map = label_map.grid.index_map_to(crop)
    index_map[:3, 3] += 0.5 + crop.tie_shifts()  # a voxel is in the crop if its index is from 0 to the shape
    ends = [(low, high) for low, high in zip(region.low, region.high, strict=True)]
    corners = np.array([(z, y, x, 1) for z in ends[0] for y in ends[1] for x in ends[2]]) @ index_map[:3].T
    if (corners >= 0).all() and (corners < crop.shape).all():
        return 1.0
    inside = _count_inside(label_runs(label_map).table, label, index_map, np.array(crop.shape))
    return inside / region.voxel_count


def make_region(
    label: int,
    voxel_count: int,
    low: IntArray,
    high: IntArray,
    index_sum: FloatArray,
    grid: Grid,
) -> LabelRegion:
    """The region of voxels whose indices add up to ``index_sum`` (3,)."""
    return LabelRegion(
        label=label,
        voxel_count=voxel_count,
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        centroid_mm=grid.to_mm(index_sum / voxel_count),
        volume_mm3=voxel_count * abs(float(np.linalg.det(grid.affine[:3, :3]))),
    )


def bounding_grid(region: LabelRegion, grid: Grid) -> Grid:
    """The part of the label map's grid that is a region's bounding box."""
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_mm(region.low)
    z, y, x = (high - low + 1 for low, high in zip(region.low, region.high, strict=True))
    return Grid((z, y, x), affine)


def _measure(label_map: LabelMap) -> None:
    counts, low, high, sums, table, runs_in_row = _measure_labels(read_only(label_map.labels), _MAX_RUNS)
    regions = {
        label: make_region(label, int(counts[label]), low[label], high[label], sums[label], label_map.grid)
        for label in np.flatnonzero(counts).tolist()
    }
    keep_regions(label_map, regions, Runs.by_row(table, runs_in_row, label_map.labels.shape))


@compiled
def _measure_labels(
    labels: npt.NDArray[np.uint8], max_runs: int
) -> tuple[IntArray, IntArray, IntArray, FloatArray, npt.NDArray[np.int32], IntArray]:
    """For each label 0 to 255: voxel count (256,), lowest index, highest index, sum of indices (256, 3).

    Then the first ``max_runs`` runs (`Runs.table`), and the number of all runs in each row (z * y,).
    """
    counts = np.zeros(256, np.int64)
    low = np.full((256, 3), np.iinfo(np.int64).max)
    high = np.full((256, 3), -1)
    sums = np.zeros((256, 3))
    table = np.empty((1024, 5), np.int32)
    found = 0
    runs_in_row = np.zeros(labels.shape[0] * labels.shape[1], np.int64)
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            row = labels[z, y]
            any_label = np.uint8(0)
            for x in range(row.size):
                any_label |= row[x]
            if any_label == 0:  # most rows are background, and this loop is many times faster than the next
                continue
            end = 0
            while end < row.size:
                start, label = end, row[end]
                while end < row.size and row[end] == label:
                    end += 1
                if label > 0:
                    if found < max_runs:
                        if found == table.shape[0]:
                            longer = np.empty((min(4 * found, max_runs), 5), np.int32)
                            longer[:found] = table
                            table = longer
                        table[found, 0], table[found, 1] = z, y
                        table[found, 2], table[found, 3], table[found, 4] = start, end, label
                        found += 1
                    runs_in_row[z * labels.shape[1] + y] += 1
                    run = end - start
                    counts[label] += run
                    sums[label, 0] += run * z
                    sums[label, 1] += run * y
                    sums[label, 2] += run * 0.5 * (start + end - 1)
                    low[label, 0] = min(low[label, 0], z)
                    low[label, 1] = min(low[label, 1], y)
                    low[label, 2] = min(low[label, 2], start)
                    high[label, 0] = z
                    high[label, 1] = max(high[label, 1], y)
                    high[label, 2] = max(high[label, 2], end - 1)
    return counts, low, high, sums, table[:found].copy(), runs_in_row


@compiled
def _count_inside(table: npt.NDArray[np.int32], label: int, index_map: FloatArray, shape: IntArray) -> int:
    """The number of a label's voxels whose mapped index is at least 0 and below ``shape`` along each axis."""
    inside = 0
    for run in range(table.shape[0]):
        if table[run, 4] != label:
            continue
        row = index_map[:3, 0] * table[run, 0] + index_map[:3, 1] * table[run, 1] + index_map[:3, 3]
        for x in range(table[run, 2], table[run, 3]):
            is_inside = True
            for axis in range(3):
                is_inside &= 0 <= row[axis] + index_map[axis, 2] * x < shape[axis]
            inside += is_inside
    return inside
