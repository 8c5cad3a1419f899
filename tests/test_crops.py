from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from spine_etl.crops import (
    box_levels,
    boxes_in_crop,
    boxes_without_slice,
    check_labels,
    check_overlap,
    check_slices,
    crop_grids,
    find_levels,
    overview_grid,
    shown_slices,
    warm_up,
)
from spine_etl.errors import GeometryInvalid, LabelUnknown, MaskOutsideVolume
from spine_etl.geometry import Grid
from spine_etl.nifti import read_label_map
from spine_etl.recipe import Recipe
from spine_etl.volume import FractureBox, LabelMap, Volume

RECIPE = Recipe.model_validate(
    {
        "name": "test",
        "levels": {"C1": 1, "C2": 2, "C3": 3},
        "other_labels": {"T1": 8},
        "crop": {"spacing_mm": 0.5, "shape": [8, 10, 12]},
        "overview": {"spacing_mm": 4.0, "shape": [16, 20, 24]},
    }
)
# Head to foot, as many series are stored: z falls with the slice number.
AXES = np.array([[0, 0, 0.4], [0, 0.5, 0], [-0.8, 0, 0]])


def placed(shape: tuple[int, int, int], origin: tuple[float, float, float] = (-10, -20, 30)) -> Grid:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = AXES, origin
    return Grid(shape, affine)


def blocks() -> LabelMap:
    labels = np.zeros((20, 30, 40), np.uint8)
    labels[2:5, 10:15, 20:30] = 1
    labels[8:10, 3:4, 0:40] = 3
    return LabelMap(labels, placed(labels.shape))


def test_a_block_in_closed_form() -> None:
    found = find_levels(blocks())
    assert set(found) == {1, 3}
    box = found[1]
    assert (box.label, box.voxels) == (1, 150)
    assert (box.low, box.high) == ((2, 10, 20), (4, 14, 29))
    np.testing.assert_allclose(box.centroid_mm, (-10 + 24.5 * 0.4, -20 + 12 * 0.5, 30 - 3 * 0.8))
    assert box.volume_mm3 == pytest.approx(150 * 0.4 * 0.5 * 0.8)


@pytest.mark.parametrize("order", ["C", "F"])
def test_scattered_labels_against_numpy(order: str) -> None:
    labels = np.random.default_rng(0).choice([0, 0, 0, 1, 7, 255], (7, 8, 9)).astype(np.uint8)
    affine = np.eye(4)
    affine[:3, :3] = [[0.1, 0.2, 0.4], [0.3, 0.5, 0], [-0.8, 0, 0.1]]
    label_map = LabelMap(np.asarray(labels, order=order), Grid(labels.shape, affine))
    for label, box in find_levels(label_map).items():
        places = np.argwhere(labels == label)
        assert box.voxels == len(places)
        assert box.low == tuple(places.min(axis=0))
        assert box.high == tuple(places.max(axis=0))
        np.testing.assert_allclose(box.centroid_mm, label_map.grid.to_mm(places).mean(axis=0))
    assert set(find_levels(label_map)) == {1, 7, 255}


def test_an_empty_map_has_no_levels() -> None:
    empty = LabelMap(np.zeros((2, 3, 4), np.uint8), placed((2, 3, 4)))
    assert not find_levels(empty)
    assert crop_grids(empty, RECIPE) == {}
    check_labels(empty, RECIPE)
    check_overlap(empty, empty.grid)


def test_labels_that_the_recipe_does_not_know_are_named() -> None:
    label_map = blocks()
    check_labels(label_map, RECIPE)
    other = LabelMap(np.where(label_map.labels == 3, 9, label_map.labels).astype(np.uint8), label_map.grid)
    with pytest.raises(LabelUnknown, match=r"\[9\]"):
        check_labels(other, RECIPE)


def test_crops_are_centred_on_the_box_of_each_level() -> None:
    grids = crop_grids(blocks(), RECIPE)
    assert list(grids) == ["C1", "C3"]  # C2 is not in the map
    # Outer edges of C1: voxels 2 to 4, 10 to 14, 20 to 29, half a voxel more on each side.
    center = (-10 + (19.5 + 29.5) / 2 * 0.4, -20 + (9.5 + 14.5) / 2 * 0.5, 30 - (1.5 + 4.5) / 2 * 0.8)
    assert grids["C1"].matches(Grid.canonical(center, (8, 10, 12), 0.5), 1e-9)


def test_a_short_ct_is_in_the_middle_of_its_overview() -> None:
    ct = placed((20, 30, 40))
    assert overview_grid(ct, RECIPE).matches(Grid.canonical(ct.center_mm, (16, 20, 24), 4.0), 1e-9)


@pytest.mark.parametrize("flip", [1, -1])
def test_a_long_ct_keeps_its_head_end(flip: int) -> None:
    affine = np.eye(4)
    affine[:3, :3] = AXES * [[1], [1], [flip]]
    ct = Grid((200, 30, 40), affine)  # 160 mm where the overview shows 64
    overview = overview_grid(ct, RECIPE)
    assert overview.corners_mm()[:, 2].max() == pytest.approx(ct.corners_mm()[:, 2].max())
    np.testing.assert_allclose(overview.center_mm[:2], ct.center_mm[:2])


def test_maps_that_overlap_pass() -> None:
    label_map = blocks()
    check_overlap(label_map, label_map.grid)
    check_overlap(label_map, placed((200, 30, 40)))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("way", [-1, 1])
def test_a_map_beside_the_ct_is_refused(axis: int, way: int) -> None:
    label_map = blocks()
    size = np.abs(label_map.grid.to_mm(label_map.grid.shape) - label_map.grid.to_mm((0, 0, 0)))
    origin = np.array([-10.0, -20, 30])
    for share, refused in ((1.01, True), (1.0, True), (0.6, None), (0.05, False)):
        moved = origin.copy()
        moved[axis] += way * share * size[axis]
        if refused:
            with pytest.raises(MaskOutsideVolume, match="wholly outside"):
                check_overlap(label_map, placed(label_map.grid.shape, tuple(moved)))
        elif refused is False:
            check_overlap(label_map, placed(label_map.grid.shape, tuple(moved)))


def test_a_label_beside_the_ct_is_named() -> None:
    with pytest.raises(MaskOutsideVolume, match=r"Labels \[3\]"):
        check_overlap(blocks(), placed((6, 30, 40)))  # label 3 begins at slice 8


def ct(shape: tuple[int, int, int], places: np.ndarray | None = None) -> Volume:
    return Volume(np.zeros(shape, np.int16), placed(shape), slice_coordinates=places)


def test_a_map_of_the_cts_size_lies_where_the_ct_lies() -> None:
    shape = (20, 30, 40)
    check_slices(blocks(), ct(shape))
    turned = placed(shape).affine[:, [2, 0, 1, 3]]  # the same voxels, stored in another order
    check_slices(LabelMap(np.zeros((40, 20, 30), np.uint8), Grid((40, 20, 30), turned)), ct(shape))
    # LPS written down as RAS: what is left and right, front and back is mirrored about the origin.
    mirrored = np.diag([-1.0, -1.0, 1.0, 1.0]) @ placed(shape).affine
    with pytest.raises(MaskOutsideVolume, match="the CT's size"):
        check_slices(LabelMap(blocks().labels, Grid(shape, mirrored)), ct(shape))
    smaller = Grid((20, 30, 39), mirrored)
    check_slices(LabelMap(np.zeros((20, 30, 39), np.uint8), smaller), ct(shape))  # a grid of its own


def test_a_map_of_one_plane_a_slice_needs_even_slices() -> None:
    shape = (20, 30, 40)
    places = np.arange(20.0)
    places[1:-1] += 0.4
    check_slices(blocks(), ct(shape, places))  # each label is still nearest to its own slice
    places[10] += 0.2
    with pytest.raises(GeometryInvalid, match="uneven"):
        check_slices(blocks(), ct(shape, places))


@pytest.mark.parametrize(("distance", "apart"), [(11.5, False), (12.5, True)])
def test_blocks_at_an_angle(distance: float, apart: bool) -> None:
    """A cube of 10 mm turned by 45 degrees, its face to an edge of the other: they touch at 5 + 5 sqrt 2."""
    half = np.sqrt(0.5)
    affine = np.eye(4)
    affine[:3, :3] = [[1, 0, 0], [0, half, -half], [0, half, half]]
    center = np.array([4.5, 4.5 + half * distance, 4.5 + half * distance])
    affine[:3, 3] = center - affine[:3, :3] @ [4.5, 4.5, 4.5]
    ct, mask = Grid((10, 10, 10), np.eye(4)), Grid((10, 10, 10), affine)
    for one, other in ((ct, mask), (mask, ct)):
        label_map = LabelMap(np.zeros(one.shape, np.uint8), one)
        if apart:
            with pytest.raises(MaskOutsideVolume):
                check_overlap(label_map, other)
        else:
            check_overlap(label_map, other)


def ct_with_files(slice_coordinates: np.ndarray | None = None) -> Volume:
    grid = placed((20, 30, 40))
    numbers = np.arange(20) * 2 + 5
    return Volume(np.zeros(grid.shape, np.int16), grid, slice_coordinates, file_numbers=numbers)


def test_a_box_in_the_crop_in_closed_form() -> None:
    volume = ct_with_files()
    target = Grid.canonical(volume.grid.to_mm((3, 12, 24.5)), (8, 10, 12), 0.5)
    (row,) = boxes_in_crop([FractureBox(20.0, 10.0, 9.0, 4.0, 11)], volume, target)
    # File 11 is slice 3. It is 0.8 mm thick: 1.6 voxels about the middle of the crop, (3.5, 4.5, 5.5).
    expected = (3.5 - 0.8, 4.5 - 2, 5.5 - 3.6, 3.5 + 0.8, 4.5 + 2, 5.5 + 3.6)
    np.testing.assert_allclose(row, expected, atol=1e-5)
    assert row.dtype == np.float32


def test_a_box_is_as_thick_as_the_room_around_its_slice() -> None:
    places = np.arange(20.0)
    places[2:5] = (1.5, 3.0, 4.25)
    volume = ct_with_files(places)
    target = Grid.canonical(volume.grid.to_mm((3, 12, 24.5)), (8, 10, 12), 0.8)
    (row,) = boxes_in_crop([FractureBox(20.0, 10.0, 9.0, 4.0, 11)], volume, target)
    # Half way to 1.5 and to 4.25; the crop's z rises where the slices' falls.
    np.testing.assert_allclose((row[0], row[3]), (3.5 - 0.625, 3.5 + 0.75), atol=1e-5)


@pytest.mark.parametrize(
    "box",
    [
        FractureBox(20.0, 10.0, 9.0, 4.0, 12),  # no such file
        FractureBox(20.0, 10.0, 9.0, 4.0, 43),  # last slice, far below
        FractureBox(0.0, 10.0, 3.0, 4.0, 11),
        FractureBox(20.0, 27.0, 9.0, 2.0, 11),
    ],
)
def test_a_box_beside_the_crop_is_nan(box: FractureBox) -> None:
    volume = ct_with_files()
    target = Grid.canonical(volume.grid.to_mm((3, 12, 24.5)), (8, 10, 12), 0.5)
    rows = boxes_in_crop([box, FractureBox(20.0, 10.0, 9.0, 4.0, 11)], volume, target)
    assert np.isnan(rows[0]).all()
    assert np.isfinite(rows[1]).all()
    assert boxes_in_crop([], volume, target).shape == (0, 6)


def test_a_box_of_any_size_is_looked_at_within_the_image() -> None:
    volume = ct_with_files()
    assert box_levels([FractureBox(-5e4, -5e4, 1e5, 1e5, 9)], volume, blocks(), RECIPE) == ["C1"]
    assert box_levels([FractureBox(-5e4, -5e4, 1e3, 1e3, 9)], volume, blocks(), RECIPE) == [None]
    assert boxes_without_slice([FractureBox(0, 0, 1, 1, n) for n in (9, 777)], volume) == 1


def test_the_level_of_a_box_is_the_one_with_most_pixels_under_it() -> None:
    label_map = blocks()
    label_map.labels[3, 10:15, 30:36] = 2
    label_map.labels[3, 10:15, 36:40] = 8  # T1: no level of the recipe
    boxes = [
        FractureBox(25.0, 10.0, 7.0, 4.0, 11),  # five columns of C1, three of C2
        FractureBox(28.0, 10.0, 6.5, 4.0, 11),  # two of C1, five of C2
        FractureBox(36.0, 10.0, 3.0, 4.0, 11),
        FractureBox(0.0, 20.0, 3.0, 4.0, 11),
        FractureBox(25.0, 10.0, 7.0, 4.0, 12),
        FractureBox(5.0, 2.5, 4.0, 1.0, 21),
    ]
    levels = ["C1", "C2", None, None, None, "C3"]
    assert box_levels(boxes, ct_with_files(), label_map, RECIPE) == levels
    # The same labels on another grid: turned, 0.4 voxels off, and only a part of the CT.
    turned = np.ascontiguousarray(label_map.labels[:12, :, ::-1])
    affine = label_map.grid.affine @ np.array([[1, 0, 0, 0.4], [0, 1, 0, 0], [0, 0, -1, 38.6], [0, 0, 0, 1]])
    part = LabelMap(turned, Grid(turned.shape, affine))
    assert box_levels(boxes, ct_with_files(), part, RECIPE) == levels


@pytest.mark.parametrize("degrees", [0, 20])
def test_slices_that_show_a_label_at_an_angle_to_them(degrees: float) -> None:
    """Each voxel by itself: which slice its centre lies in."""
    volume = ct_with_files()
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[0:3, 0:3] = [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    middle = volume.grid.center_mm
    about = np.eye(4)
    about[:3, 3] = middle
    affine = about @ turn @ np.linalg.inv(about) @ volume.grid.affine
    labels = np.zeros(volume.grid.shape, np.uint8)
    labels[8:12, 12:20, 10:30] = 1
    label_map = LabelMap(labels, Grid(labels.shape, affine))
    places = [volume.grid.to_index(label_map.grid.to_mm(voxel))[0] for voxel in np.argwhere(labels)]
    ends = [round(min(places)), round(max(places))]
    expected = (
        [int(number) for number in volume.file_numbers[ends]] if volume.file_numbers is not None else []
    )
    assert sorted(shown_slices(1, volume, label_map) or ()) == expected
    assert shown_slices(2, volume, label_map) is None


def test_warm_up_leaves_nothing_to_compile() -> None:
    from spine_etl import crops

    warm_up()
    before = len(crops._measure.signatures)
    label_map = blocks()
    label_map.labels.flags.writeable = False
    find_levels(label_map)
    assert len(crops._measure.signatures) == before


@pytest.mark.real_data
def test_a_real_mask_against_numpy(real_data: Path) -> None:
    path = real_data / "ct_mask_pair_lumbar" / "sub-ct_seg-vert_label-22_msk.nii.gz"
    image = nib.load(path)
    array = np.asarray(image.dataobj)
    found = find_levels(read_label_map(path))
    assert set(found) == {21, 22, 23}
    for label, box in found.items():
        places = np.argwhere(array == label)  # (i, j, k)
        assert box.voxels == len(places)
        assert box.low == tuple(places.min(axis=0)[::-1])
        assert box.high == tuple(places.max(axis=0)[::-1])
        ras = nib.affines.apply_affine(image.affine, places.mean(axis=0))
        np.testing.assert_allclose(box.centroid_mm, ras * (-1, -1, 1), atol=1e-4)
        volume_mm3 = len(places) * np.prod(image.header.get_zooms())
        assert box.volume_mm3 == pytest.approx(volume_mm3, rel=1e-5)
    assert found[21].centroid_mm[2] > found[22].centroid_mm[2] > found[23].centroid_mm[2]
