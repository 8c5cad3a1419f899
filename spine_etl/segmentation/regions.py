"""What a label map shows: the region of each label, its centre, and the CT slices it reaches into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from spine_etl.errors import LabelUnknown
from spine_etl.geometry import FloatArray, Grid
from spine_etl.jit import compiled
from spine_etl.recipe import Recipe
from spine_etl.volume import LabelMap, Volume

_CACHE: WeakKeyDictionary[LabelMap, Mapping[int, LabelRegion]] = WeakKeyDictionary()


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
    if label_map not in _CACHE:
        _CACHE[label_map] = _find_regions(label_map)
    return _CACHE[label_map]


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


def level_centers_mm(label_map: LabelMap, recipe: Recipe) -> dict[str, FloatArray]:
    """By level name, the LPS centre (3,) of the bounding box of each of the recipe's levels in the map."""
    regions = label_regions(label_map)
    return {
        level: bounding_grid(regions[label], label_map.grid).center_mm
        for level, label in recipe.levels.items()
        if label in regions
    }


def slice_range(label_map: LabelMap, label: int, volume: Volume) -> tuple[int, int] | None:
    """File numbers of the lowest and the highest CT slice that the label reaches into.

    A slice extends halfway to its neighbours; a voxel exactly there is in the slice that `Grid.tie_shifts`
    chooses. None if the file names contain no numbers, or if the label is beyond the CT's slices or absent.
    """
    region = label_regions(label_map).get(label)
    if region is None or volume.file_numbers is None:
        return None
    *step, start = label_map.grid.index_map_to(volume.grid)[0]
    voxels = np.array([region.low, region.high])
    if np.count_nonzero(np.abs(step) > 1e-6) > 1:
        # At an angle to the CT's slices the bounding box reaches further than the label: use all its voxels.
        part = tuple(slice(low, high + 1) for low, high in zip(region.low, region.high, strict=True))
        voxels = np.argwhere(label_map.labels[part] == label) + np.array(region.low)
    z = voxels @ step + start + volume.grid.tie_shifts()[0]
    slices = volume.slice_positions
    if z.max() < -0.5 or z.min() > slices[-1] + 0.5:
        return None
    ends = np.searchsorted((slices[1:] + slices[:-1]) / 2, [z.min(), z.max()])
    if volume.grid.to_mm([0, 0, 0])[2] > volume.grid.to_mm([1, 0, 0])[2]:
        ends = ends[::-1]
    first, last = volume.file_numbers[ends].tolist()
    return (first, last) if min(first, last) >= 0 else None


def bounding_grid(region: LabelRegion, grid: Grid) -> Grid:
    """The part of the label map's grid that is a region's bounding box."""
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_mm(region.low)
    z, y, x = (high - low + 1 for low, high in zip(region.low, region.high, strict=True))
    return Grid((z, y, x), affine)


def warm_up() -> None:
    """Compile the kernel, or load it from numba's cache, before the first study needs it."""
    label_regions(LabelMap(np.zeros((1, 1, 1), np.uint8), Grid((1, 1, 1), np.eye(4))))


def _find_regions(label_map: LabelMap) -> Mapping[int, LabelRegion]:
    labels = np.ascontiguousarray(label_map.labels).view()
    labels.flags.writeable = False  # numba compiles the kernel again for writeable arrays
    counts, low, high, sums = _measure_labels(labels)
    voxel_mm3 = abs(float(np.linalg.det(label_map.grid.affine[:3, :3])))
    return MappingProxyType(
        {
            label: LabelRegion(
                label=label,
                voxel_count=int(counts[label]),
                low=tuple(low[label].tolist()),
                high=tuple(high[label].tolist()),
                centroid_mm=label_map.grid.to_mm(sums[label] / counts[label]),
                volume_mm3=float(counts[label]) * voxel_mm3,
            )
            for label in np.flatnonzero(counts).tolist()
        }
    )


@compiled
def _measure_labels(
    labels: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64], FloatArray]:
    """For each label 0 to 255: voxel count (256,), lowest index, highest index, sum of indices (256, 3)."""
    counts = np.zeros(256, np.int64)
    low = np.full((256, 3), np.iinfo(np.int64).max)
    high = np.full((256, 3), -1)
    sums = np.zeros((256, 3))
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
    return counts, low, high, sums
