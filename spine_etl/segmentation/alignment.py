"""The position of a label map against its CT."""

from __future__ import annotations

import numpy as np

from spine_etl.errors import GeometryInvalid, MaskOutsideVolume, StudyWarning
from spine_etl.geometry import FloatArray, Grid
from spine_etl.segmentation.regions import bounding_grid, label_regions
from spine_etl.volume import LabelMap, Volume

_MAX_OFFSET_VOXELS = 0.75  # positions of edges taken for positions of centres are off by 0.5
_WARNED_OFFSET_VOXELS = 0.1


def check_alignment(label_map: LabelMap, volume: Volume) -> tuple[StudyWarning, ...]:
    """Refuse a segmentation that is outside the CT, or has the CT's size but not its position.

    A segmentation of another size may have any position that overlaps with the CT. One of the CT's size, in
    any order and direction of the axes, has one voxel for each CT voxel.

    Returns
    -------
    tuple of StudyWarning
        ``MASK_SHIFTED`` if a segmentation of the CT's size is 0.1 to 0.75 of a voxel off along an axis.

    Raises
    ------
    MaskOutsideVolume
        If the segmentation, or one of its labels, is wholly outside the CT; or if it has the CT's size but is
        more than 0.75 of a voxel off along an axis of the CT.
    GeometryInvalid
        If a segmentation of the CT's size cannot follow the CT's slices, which are so uneven that some labels
        are nearer to a neighbouring slice than to their own.
    """
    check_overlap(label_map, volume.grid)
    if sorted(label_map.grid.shape) != sorted(volume.grid.shape):
        return ()
    voxels = _lattice_offset(label_map.grid, volume.grid)
    offset = ", ".join(f"{value:.2f}" for value in voxels)
    if voxels.max() > _MAX_OFFSET_VOXELS:
        raise MaskOutsideVolume(
            f"The segmentation has the CT's shape but is {offset} voxels off along the CT's z, y and x, "
            f"{label_map.grid.corner_distance_mm(volume.grid):.1f} mm at a corner."
        )
    _check_slices(volume)
    if voxels.max() > _WARNED_OFFSET_VOXELS:
        text = f"The segmentation has the CT's shape but is {offset} voxels off along the CT's z, y and x."
        return (StudyWarning("MASK_SHIFTED", text),)
    return ()


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


def _check_slices(volume: Volume) -> None:
    positions = volume.slice_positions
    if np.abs(positions - np.arange(len(positions))).max() > 0.5:
        raise GeometryInvalid(
            "The CT's slices are unevenly spaced but its segmentation's are even, so labels are misaligned.",
            action="Make the segmentation on a grid of its own, in millimetres, or remove it.",
        )


def _lattice_offset(grid: Grid, ct: Grid) -> FloatArray:
    """(3,): the largest distance of a block's corner from the CT's nearest, in voxels along each axis."""
    corners = ct.to_index(grid.corners_mm())
    ends = np.where(corners > (np.array(ct.shape) - 1) / 2, np.array(ct.shape) - 0.5, -0.5)
    offset: FloatArray = np.abs(corners - ends).max(axis=0)
    return offset


def _are_separated(a: Grid, b: Grid) -> bool:
    """True if a plane along an axis of either grid separates the two blocks of voxels."""
    return _is_beside(a.to_index(b.corners_mm()), a) or _is_beside(b.to_index(a.corners_mm()), b)


def _is_beside(corners: FloatArray, grid: Grid) -> bool:
    """True if all corners (8, 3), in the grid's indices, are beyond one of the faces of the grid's block."""
    ends = np.array(grid.shape) - 0.5
    return bool(((corners.max(axis=0) <= -0.5) | (corners.min(axis=0) >= ends)).any())
