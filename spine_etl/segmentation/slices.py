"""Which labels the CT's slices show.

A slice shows a label if one of its pixels has its centre in one of the label's voxels, as
`spine_etl.resample.sample_labels` would find on the slice: where CT and segmentation share a grid, the set is
that of ``np.unique`` of the segmentation's slice.

Where the planes of the segmentation are parallel to the slices, the runs of labels suffice. Pixels are then
not looked at, so a slice also shows a label that is between its pixels or beyond its edges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from spine_etl.geometry import FloatArray, Grid
from spine_etl.jit import compiled, read_only
from spine_etl.segmentation.regions import LabelRegion, bounding_grid, label_regions, label_runs
from spine_etl.segmentation.runs import IntArray, RunArray
from spine_etl.volume import LabelMap, Volume

SliceRun = tuple[int, int]
"""The first and the last number of files that show a level, with all files that have numbers between them."""


def shown_labels(
    label_map: LabelMap, volume: Volume, regions: Mapping[int, LabelRegion] | None = None
) -> npt.NDArray[np.bool_]:
    """bool (slice, 256): whether each slice of the volume, in its order, shows each label.

    With ``regions``, only the voxels of a label in the bounding box of its region count.
    """
    if regions is None:
        regions = label_regions(label_map)
    low, high = np.zeros((256, 3), np.int64), np.full((256, 3), -1)
    for label, region in regions.items():
        low[label], high[label] = region.low, region.high
    shown = np.zeros((len(volume.slice_positions), 256), np.bool_)
    *step, start = label_map.grid.index_map_to(volume.grid)[0].tolist()
    steps = np.array(step)
    steps[np.abs(steps) < 1e-9] = 0.0  # round-off of parallel axes, below 1e-6 slices over any axis
    ties = label_map.grid.tie_shifts()
    positions = np.array(
        volume.slice_positions
    )  # writable: numba compiles the kernels again for other arrays
    if np.count_nonzero(steps) == 1:
        start -= float(steps @ ties)
        _mark_slices(label_runs(label_map).table, low, high, steps, start, positions, shown)
    elif regions:
        to_mask = volume.grid.index_map_to(label_map.grid)
        to_mask[:3, 3] += 0.5 + ties
        window = _pixel_window(list(regions.values()), label_map.grid, volume.grid)
        _sample_slices(read_only(label_map.labels), low, high, to_mask, window, positions, shown)
    return shown


def slice_range(shown: npt.NDArray[np.bool_], volume: Volume) -> SliceRun | None:
    """File numbers of the lowest and the highest of the slices (slice,) that are ``shown``.

    None if there is none, or if the name of one of these two files contains no number.
    """
    slices = np.flatnonzero(shown)
    if volume.file_numbers is None or not slices.size:
        return None
    ends = slices[[0, -1]]
    if volume.grid.to_mm([0, 0, 0])[2] > volume.grid.to_mm([1, 0, 0])[2]:
        ends = ends[::-1]
    lowest, highest = volume.file_numbers[ends].tolist()
    return (lowest, highest) if min(lowest, highest) >= 0 else None


def slice_runs(shown: npt.NDArray[np.bool_], volume: Volume) -> tuple[SliceRun, ...]:
    """The ``shown`` slices (slice,) as runs of file numbers, in rising order.

    A number is in a run exactly if its file is shown, for all numbers that the series has. Files without a
    number are in none.
    """
    if volume.file_numbers is None:
        return ()
    order = np.argsort(volume.file_numbers, kind="stable")
    order = order[volume.file_numbers[order] >= 0]
    numbers, ordered = volume.file_numbers[order], np.concatenate([[False], shown[order], [False]])
    first = np.flatnonzero(ordered[1:] & ~ordered[:-1])
    last = np.flatnonzero(ordered[:-1] & ~ordered[1:]) - 1
    return tuple(zip(numbers[first].tolist(), numbers[last].tolist(), strict=True))


def warm_up() -> None:
    """Compile the kernels, or load them from numba's cache."""
    tilted = np.eye(4)
    tilted[0, 1] = 0.5
    label_map = LabelMap(np.ones((1, 1, 1), np.uint8), Grid((1, 1, 1), np.eye(4)))
    for affine in (np.eye(4), tilted):
        shown_labels(label_map, Volume(np.zeros((1, 1, 1), np.int16), Grid((1, 1, 1), affine)))


def _pixel_window(regions: Sequence[LabelRegion], mask: Grid, ct: Grid) -> IntArray:
    """(2, 2): the first pixel (y, x) that can be in one of the regions, and the last pixel + 1."""
    corners = np.concatenate([bounding_grid(region, mask).corners_mm() for region in regions])
    pixels = ct.to_index(corners)[:, 1:]
    first, last = np.floor(pixels.min(axis=0)), np.ceil(pixels.max(axis=0))
    window: IntArray = np.clip([first, last + 1], 0, ct.shape[1:]).astype(np.int64)
    return window


@compiled
def _sample_slices(
    labels: npt.NDArray[np.uint8],
    low: IntArray,
    high: IntArray,
    to_mask: FloatArray,
    window: IntArray,
    positions: FloatArray,
    shown: npt.NDArray[np.bool_],
) -> None:
    """Mark the labels of the voxels that contain the pixels (slice, y, x) of the ``window`` (2, 2).

    ``to_mask`` maps the index of a pixel to that of its voxel plus a fraction.
    """
    for slice_index in range(positions.size):
        for y in range(window[0, 0], window[1, 0]):
            row = to_mask[:3, 0] * positions[slice_index] + to_mask[:3, 1] * y + to_mask[:3, 3]
            for pixel in range(window[0, 1], window[1, 1]):
                i = int(np.floor(row[0] + to_mask[0, 2] * pixel))
                j = int(np.floor(row[1] + to_mask[1, 2] * pixel))
                k = int(np.floor(row[2] + to_mask[2, 2] * pixel))
                if 0 <= i < labels.shape[0] and 0 <= j < labels.shape[1] and 0 <= k < labels.shape[2]:
                    label = labels[i, j, k]
                    if (
                        low[label, 0] <= i <= high[label, 0]
                        and low[label, 1] <= j <= high[label, 1]
                        and low[label, 2] <= k <= high[label, 2]
                    ):
                        shown[slice_index, label] = True


@compiled
def _mark_slices(
    table: RunArray,
    low: IntArray,
    high: IntArray,
    steps: FloatArray,
    start: float,
    positions: FloatArray,
    shown: npt.NDArray[np.bool_],
) -> None:
    """Mark the slices whose ``positions`` are in a voxel, which reaches half a step from its centre.

    The z index of a voxel's centre is ``steps @ (z, y, x) + start``; one of the steps is not 0. The voxels of
    each label outside ``low`` to ``high`` (256, 3) are left out.
    """
    half = (abs(steps[0]) + abs(steps[1]) + abs(steps[2])) / 2
    for run in range(table.shape[0]):
        z, y, label = table[run, 0], table[run, 1], table[run, 4]
        if z < low[label, 0] or z > high[label, 0] or y < low[label, 1] or y > high[label, 1]:
            continue
        first, last = max(table[run, 2], low[label, 2]), min(table[run, 3] - 1, high[label, 2])
        if first > last:
            continue
        begin = steps[0] * z + steps[1] * y + steps[2] * first + start
        end = begin + steps[2] * (last - first)
        slice_index = np.searchsorted(positions, min(begin, end) - half)
        while slice_index < positions.size and positions[slice_index] < max(begin, end) + half:
            shown[slice_index, label] = True
            slice_index += 1
