"""The position of a label map against its CT."""

from __future__ import annotations

import numpy as np

from spine_etl.errors import GeometryInvalid, MaskOutsideVolume
from spine_etl.geometry import FloatArray, Grid
from spine_etl.segmentation.regions import bounding_grid, label_regions
from spine_etl.volume import LabelMap, Volume


def check_overlap(label_map: LabelMap, ct: Grid) -> None:
    """Refuse a segmentation if it, or one of its labels, is wholly outside the CT.

    Raises
    ------
    MaskOutsideVolume
        Lists the labels.
    """
    if _are_separated(label_map.grid, ct):
        raise MaskOutsideVolume("The segmentation is wholly outside the CT.")
    regions = label_regions(label_map)
    outside = [
        label
        for label, region in regions.items()
        if _are_separated(bounding_grid(region, label_map.grid), ct)
    ]
    if outside:
        raise MaskOutsideVolume(f"Labels {outside} of the segmentation are wholly outside the CT.")


def check_slices(label_map: LabelMap, volume: Volume) -> None:
    """Refuse a segmentation with the CT's shape, one voxel for each CT voxel, whose position differs.

    A segmentation with another shape passes: it may have any position.

    Raises
    ------
    MaskOutsideVolume
        If one of its corners is more than a voxel away from every corner of the CT.
    GeometryInvalid
        If the CT's slices are so uneven that some labels, on their even grid, are nearer to a neighbouring
        slice than to their own.
    """
    if sorted(label_map.grid.shape) != sorted(volume.grid.shape):
        return
    distance = label_map.grid.corner_distance_mm(volume.grid)
    if distance > volume.grid.spacing_mm.max():
        raise MaskOutsideVolume(
            f"The segmentation has the CT's shape, but its corners are {distance:.1f} mm away from the CT's."
        )
    positions = volume.slice_positions
    if np.abs(positions - np.arange(len(positions))).max() > 0.5:
        raise GeometryInvalid(
            "The CT's slices are unevenly spaced but its segmentation's are even, so labels are misaligned.",
            action="Make the segmentation on a grid of its own, in millimetres, or remove it.",
        )


def _are_separated(a: Grid, b: Grid) -> bool:
    """True if a plane along an axis of either grid separates the two blocks of voxels."""
    return _is_beside(a.to_index(b.corners_mm()), a) or _is_beside(b.to_index(a.corners_mm()), b)


def _is_beside(corners: FloatArray, grid: Grid) -> bool:
    """True if all corners (8, 3), in the grid's indices, are beyond one of the faces of the grid's block."""
    ends = np.array(grid.shape) - 0.5
    return bool(((corners.max(axis=0) <= -0.5) | (corners.min(axis=0) >= ends)).any())
