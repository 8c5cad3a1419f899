from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from spine_etl.errors import GeometryInvalid, MaskOutsideVolume
from spine_etl.geometry import Grid
from spine_etl.segmentation.alignment import check_alignment, check_overlap
from spine_etl.volume import LabelMap, Volume
from tests.labelled_ct import SHAPE, ct, grid, two_levels


def test_an_empty_map_passes() -> None:
    empty = LabelMap(np.zeros((2, 3, 4), np.uint8), grid((2, 3, 4)))
    check_overlap(empty, empty.grid)


def test_overlapping_map_passes() -> None:
    label_map = two_levels()
    check_overlap(label_map, label_map.grid)
    check_overlap(label_map, grid((200, 30, 40)))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("direction", [-1, 1])
def test_map_beside_the_ct_is_refused(axis: int, direction: int) -> None:
    label_map = two_levels()
    size = np.abs(label_map.grid.to_mm(label_map.grid.shape) - label_map.grid.to_mm((0, 0, 0)))
    origin = np.array([-10.0, -20, 30])
    for share, refused in ((1.01, True), (1.0, True), (0.6, None), (0.05, False)):
        shifted = origin.copy()
        shifted[axis] += direction * share * size[axis]
        if refused:
            with pytest.raises(MaskOutsideVolume, match="wholly outside"):
                check_overlap(label_map, grid(label_map.grid.shape, tuple(shifted)))
        elif refused is False:
            check_overlap(label_map, grid(label_map.grid.shape, tuple(shifted)))


def test_label_beside_the_ct_is_listed() -> None:
    with pytest.raises(MaskOutsideVolume, match=r"Labels \[3\]"):
        check_overlap(two_levels(), grid((6, 30, 40)))  # label 3 begins at slice 8


@pytest.mark.parametrize(("distance", "separated"), [(11.5, False), (12.5, True)])
def test_overlap_of_blocks_at_an_angle(distance: float, separated: bool) -> None:
    """A cube of 10 mm turned by 45 degrees, its face to an edge of the other: they touch at 5 + 5 sqrt 2."""
    half = np.sqrt(0.5)
    affine = np.eye(4)
    affine[:3, :3] = [[1, 0, 0], [0, half, -half], [0, half, half]]
    center = np.array([4.5, 4.5 + half * distance, 4.5 + half * distance])
    affine[:3, 3] = center - affine[:3, :3] @ [4.5, 4.5, 4.5]
    straight, turned = Grid((10, 10, 10), np.eye(4)), Grid((10, 10, 10), affine)
    for mask_grid, ct_grid in ((straight, turned), (turned, straight)):
        label_map = LabelMap(np.zeros(mask_grid.shape, np.uint8), mask_grid)
        if separated:
            with pytest.raises(MaskOutsideVolume):
                check_overlap(label_map, ct_grid)
        else:
            check_overlap(label_map, ct_grid)


def test_map_of_the_cts_shape_must_have_its_position() -> None:
    check_alignment(two_levels(), ct())
    reordered = grid().affine[:, [2, 0, 1, 3]]  # the same voxels, stored in another order
    check_alignment(LabelMap(np.zeros((40, 20, 30), np.uint8), Grid((40, 20, 30), reordered)), ct())
    # LPS written down as RAS: left and right, front and back are mirrored about the origin.
    mirrored = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid().affine
    with pytest.raises(MaskOutsideVolume):
        check_alignment(LabelMap(two_levels().labels, Grid(SHAPE, mirrored)), ct())
    elsewhere = grid((20, 30, 39), (-12, -25, 40))  # a map of another shape may be anywhere
    check_alignment(LabelMap(np.zeros((20, 30, 39), np.uint8), elsewhere), ct())


def test_map_of_the_cts_shape_needs_even_slices() -> None:
    coordinates = np.arange(20.0)
    coordinates[1:-1] += 0.4
    check_alignment(two_levels(), ct(coordinates))  # each label is still nearest to its own slice
    coordinates[10] += 0.2
    with pytest.raises(GeometryInvalid, match="uneven"):
        check_alignment(two_levels(), ct(coordinates))


STEPS = np.array([0.4, 0.5, 0.8])  # of the CT along x, y and z


def moved(axis: int, voxels: float) -> LabelMap:
    """The two levels, so many voxels away from the CT along an axis of the patient."""
    origin = np.array([-10.0, -20, 30])
    origin[axis] += voxels * STEPS[axis]
    return LabelMap(two_levels().labels, grid(SHAPE, tuple(origin)))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("direction", [1, -1])
def test_map_of_the_cts_shape_may_be_three_quarters_of_a_voxel_off(axis: int, direction: int) -> None:
    for voxels, codes in ((0.0, []), (0.09, []), (0.11, ["MASK_SHIFTED"]), (0.5, ["MASK_SHIFTED"]),
                          (0.74, ["MASK_SHIFTED"])):  # fmt: skip
        warnings = check_alignment(moved(axis, direction * voxels), ct())
        assert [warning.code for warning in warnings] == codes, voxels
    for voxels in (0.76, 1.0, 2.0):
        with pytest.raises(MaskOutsideVolume, match=f"{voxels:.2f}"):
            check_alignment(moved(axis, direction * voxels), ct())


def test_the_warning_names_the_offset_along_each_axis_of_the_ct() -> None:
    origin = (-10 + 0.2 * 0.4, -20 - 0.3 * 0.5, 30 + 0.6 * 0.8)
    (warning,) = check_alignment(LabelMap(two_levels().labels, grid(SHAPE, origin)), ct())
    assert "0.60, 0.30, 0.20 voxels off along the CT's z, y and x" in warning.text


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
def test_axes_may_have_any_order_and_direction(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """The same lattice, its axes stored in another way: the same offset, to either side of each limit."""
    for voxels, expected in ((0.0, 0), (0.5, 1), (0.8, None)):
        label_map = moved(1, voxels)
        reverse = np.diag([*map(float, signs), 1.0])
        reverse[:3, 3] = [(n - 1) * (sign < 0) for n, sign in zip(SHAPE, signs, strict=True)]
        affine = (label_map.grid.affine @ reverse)[:, [*order, 3]]
        labels = label_map.labels[tuple(slice(None, None, sign) for sign in signs)].transpose(order)
        stored = LabelMap(labels, Grid(labels.shape, affine))
        if expected is None:
            with pytest.raises(MaskOutsideVolume):
                check_alignment(stored, ct())
        else:
            assert len(check_alignment(stored, ct())) == expected


def test_a_cube_turned_by_45_degrees_is_not_the_cts_lattice() -> None:
    """Its eight corners are nearest to fewer than eight corners of the CT, or far away from them."""
    cube, half = Grid((10, 10, 10), np.eye(4)), np.sqrt(0.5)
    affine = np.eye(4)
    affine[:3, :3] = [[1, 0, 0], [0, half, -half], [0, half, half]]
    affine[:3, 3] = 4.5 - affine[:3, :3] @ [4.5, 4.5, 4.5]
    labels = np.ones((10, 10, 10), np.uint8)
    with pytest.raises(MaskOutsideVolume, match="the CT's shape"):
        check_alignment(LabelMap(labels, Grid((10, 10, 10), affine)), Volume(labels.astype(np.int16), cube))


@pytest.mark.parametrize("sign", [1, -1])
def test_slices_may_be_half_a_step_from_their_even_position(sign: int) -> None:
    for off, refused in ((0.499, False), (0.501, True)):
        coordinates = np.arange(20.0)
        coordinates[7] += sign * off
        if refused:
            with pytest.raises(GeometryInvalid, match="uneven"):
                check_alignment(two_levels(), ct(coordinates))
        else:
            check_alignment(two_levels(), ct(coordinates))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("direction", [-1, 1])
def test_map_that_overlaps_by_a_sliver_passes(axis: int, direction: int) -> None:
    label_map = two_levels()
    label_map.labels[...] = 1
    size = np.array([40 * 0.4, 30 * 0.5, 20 * 0.8])
    for share, refused in ((0.999, False), (1.001, True)):
        origin = np.array([-10.0, -20, 30])
        origin[axis] += direction * share * size[axis]
        moved = LabelMap(label_map.labels, grid(SHAPE, tuple(origin)))
        if refused:
            with pytest.raises(MaskOutsideVolume):
                check_overlap(moved, grid())
        else:
            check_overlap(moved, grid())
