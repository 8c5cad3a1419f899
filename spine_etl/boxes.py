"""Fracture boxes: their bounds in the crops, and the vertebra that each one marks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spine_etl.geometry import Grid
from spine_etl.recipe import Recipe
from spine_etl.volume import FractureBox, LabelMap, Volume


def boxes_in_crop(boxes: Sequence[FractureBox], volume: Volume, crop: Grid) -> npt.NDArray[np.float32]:
    """Fracture boxes in the voxel coordinates of a crop: (box, 6) as (z0, y0, x0, z1, y1, x1).

    A box is as thick as its slice, which extends halfway to its neighbours. The bounds along the crop's axes
    are not clipped to the crop. A row is NaN if the box does not touch the crop, or if the volume does not
    have its slice.
    """
    rows = np.full((len(boxes), 6), np.nan, np.float32)
    ends = np.array(crop.shape) - 0.5
    for row, box in zip(rows, boxes, strict=True):
        slice_index = _slice_index(box, volume)
        if slice_index is None:
            continue
        corners = [
            (z, y, x)
            for z in volume.slice_bounds(slice_index)
            for y in (box.y, box.y + box.height)
            for x in (box.x, box.x + box.width)
        ]
        index = crop.to_index(volume.grid.to_mm(corners))
        low, high = index.min(axis=0), index.max(axis=0)
        if (high >= -0.5).all() and (low <= ends).all():
            row[:] = [*low, *high]
    return rows


def box_levels(
    boxes: Sequence[FractureBox], volume: Volume, label_map: LabelMap, recipe: Recipe
) -> list[str | None]:
    """For each box the recipe's level with most pixels under it in its slice; None if there is no level."""
    return [_box_level(box, volume, label_map, recipe) for box in boxes]


def count_boxes_without_slice(boxes: Sequence[FractureBox], volume: Volume) -> int:
    """The number of boxes whose slice number matches no slice of the volume."""
    return sum(_slice_index(box, volume) is None for box in boxes)


def count_boxes_in_slices(boxes: Sequence[FractureBox], volume: Volume, chosen: npt.NDArray[np.bool_]) -> int:
    """The number of boxes whose slice is among the ``chosen`` (slice,)."""
    indices = [_slice_index(box, volume) for box in boxes]
    return sum(bool(chosen[index]) for index in indices if index is not None)


def _box_level(box: FractureBox, volume: Volume, label_map: LabelMap, recipe: Recipe) -> str | None:
    slice_index = _slice_index(box, volume)
    if slice_index is None:
        return None
    _, height, width = volume.voxels.shape
    z = volume.slice_positions[slice_index]
    rows = np.arange(max(np.ceil(box.y), 0), min(box.y + box.height + 1e-6, height))
    columns = np.arange(max(np.ceil(box.x), 0), min(box.x + box.width + 1e-6, width))
    pixels = np.stack(np.meshgrid(z, rows, columns, indexing="ij"), axis=-1)
    voxels = label_map.grid.nearest_voxels(volume.grid.to_mm(pixels.reshape(-1, 3)))
    inside = ((voxels >= 0) & (voxels < label_map.labels.shape)).all(axis=1)
    counts = np.bincount(label_map.labels[tuple(voxels[inside].T)], minlength=256)
    level = max(recipe.levels, key=lambda name: counts[recipe.levels[name]])
    return level if counts[recipe.levels[level]] > 0 else None


def _slice_index(box: FractureBox, volume: Volume) -> int | None:
    if volume.file_numbers is None:
        return None
    matches = np.flatnonzero(volume.file_numbers == box.slice_number)
    return int(matches[0]) if matches.size else None
