from __future__ import annotations

import numpy as np
import pytest

from spine_etl.boxes import box_levels, boxes_in_crop, count_boxes_without_slice
from spine_etl.geometry import Grid
from spine_etl.volume import FractureBox, LabelMap
from tests.labelled_ct import RECIPE, ct, two_levels


def test_bounds_of_a_box_in_closed_form() -> None:
    volume = ct()
    crop = Grid.canonical(volume.grid.to_mm((3, 12, 24.5)), (8, 10, 12), 0.5)
    (row,) = boxes_in_crop([FractureBox(20.0, 10.0, 9.0, 4.0, 11)], volume, crop)
    # File 11 is slice 3. It is 0.8 mm thick: 1.6 voxels about the middle of the crop, (3.5, 4.5, 5.5).
    expected = (3.5 - 0.8, 4.5 - 2, 5.5 - 3.6, 3.5 + 0.8, 4.5 + 2, 5.5 + 3.6)
    np.testing.assert_allclose(row, expected, atol=1e-5)
    assert row.dtype == np.float32


def test_box_extends_halfway_to_the_neighbouring_slices() -> None:
    coordinates = np.arange(20.0)
    coordinates[2:5] = (1.5, 3.0, 4.25)
    volume = ct(coordinates)
    crop = Grid.canonical(volume.grid.to_mm((3, 12, 24.5)), (8, 10, 12), 0.8)
    (row,) = boxes_in_crop([FractureBox(20.0, 10.0, 9.0, 4.0, 11)], volume, crop)
    # Halfway to 1.5 and to 4.25; the crop's z rises where the slices' falls.
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
def test_box_beside_the_crop_is_nan(box: FractureBox) -> None:
    volume = ct()
    crop = Grid.canonical(volume.grid.to_mm((3, 12, 24.5)), (8, 10, 12), 0.5)
    rows = boxes_in_crop([box, FractureBox(20.0, 10.0, 9.0, 4.0, 11)], volume, crop)
    assert np.isnan(rows[0]).all()
    assert np.isfinite(rows[1]).all()
    assert boxes_in_crop([], volume, crop).shape == (0, 6)


def test_box_larger_than_the_image_is_clipped_to_it() -> None:
    volume = ct()
    assert box_levels([FractureBox(-5e4, -5e4, 1e5, 1e5, 9)], volume, two_levels(), RECIPE) == ["C1"]
    assert box_levels([FractureBox(-5e4, -5e4, 1e3, 1e3, 9)], volume, two_levels(), RECIPE) == [None]


def test_boxes_without_a_slice_are_counted() -> None:
    assert count_boxes_without_slice([FractureBox(0, 0, 1, 1, n) for n in (9, 777)], ct()) == 1


def test_level_of_a_box_has_most_pixels_under_it() -> None:
    label_map = two_levels()
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
    assert box_levels(boxes, ct(), label_map, RECIPE) == levels
    # The same labels on another grid: reversed in x, 0.4 voxels off, and only a part of the CT.
    reversed_x = np.ascontiguousarray(label_map.labels[:12, :, ::-1])
    affine = label_map.grid.affine @ np.array([[1, 0, 0, 0.4], [0, 1, 0, 0], [0, 0, -1, 38.6], [0, 0, 0, 1]])
    part = LabelMap(reversed_x, Grid(reversed_x.shape, affine))
    assert box_levels(boxes, ct(), part, RECIPE) == levels


def is_in_crop(box: FractureBox, crop: Grid) -> bool:
    return bool(np.isfinite(boxes_in_crop([box], ct(), crop)).all())


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        # The crop is 12 x 0.5 mm wide: 7.5 columns of 0.4 mm on both sides of column 24.5, from 17 to 32.
        (FractureBox(10, 10, 7.01, 4, 11), FractureBox(10, 10, 6.99, 4, 11)),
        (FractureBox(31.99, 10, 5, 4, 11), FractureBox(32.01, 10, 5, 4, 11)),
        # 10 x 0.5 mm: five rows of 0.5 mm on both sides of row 12, from 7 to 17.
        (FractureBox(20, 4, 9, 3.01, 11), FractureBox(20, 4, 9, 2.99, 11)),
        (FractureBox(20, 16.99, 9, 4, 11), FractureBox(20, 17.01, 9, 4, 11)),
    ],
)
def test_box_touches_a_crop_up_to_its_outer_edge(inside: FractureBox, outside: FractureBox) -> None:
    crop = Grid.canonical(ct().grid.to_mm((3, 12, 24.5)), (8, 10, 12), 0.5)
    assert is_in_crop(inside, crop)
    assert not is_in_crop(outside, crop)


@pytest.mark.parametrize(("shift", "first", "last"), [(0.01, 1, 6), (-0.01, 0, 5)])
def test_slices_of_a_crop_are_those_that_reach_into_it(shift: float, first: int, last: int) -> None:
    """8 x 0.5 mm are 2.5 slices of 0.8 mm on both sides of slice 3; a slice is as thick as its step."""
    crop = Grid.canonical(ct().grid.to_mm((3 + shift, 12, 24.5)), (8, 10, 12), 0.5)
    within = [index for index in range(20) if is_in_crop(FractureBox(20, 10, 9, 4, 2 * index + 5), crop)]
    assert within == list(range(first, last + 1))


@pytest.mark.parametrize(
    ("marked", "unmarked"),
    [
        # C1 is the columns 20 to 29 and the rows 10 to 14. A box contains a pixel if it contains its centre.
        (FractureBox(17, 11, 3.0, 2, 11), FractureBox(17, 11, 2.999, 2, 11)),
        (FractureBox(29.0, 11, 3, 2, 11), FractureBox(29.001, 11, 3, 2, 11)),
        (FractureBox(22, 7, 3, 3.0, 11), FractureBox(22, 7, 3, 2.999, 11)),
        (FractureBox(22, 14.0, 3, 3, 11), FractureBox(22, 14.001, 3, 3, 11)),
        # ... and the slices 2 to 4, the files 9 to 13.
        (FractureBox(22, 11, 3, 2, 9), FractureBox(22, 11, 3, 2, 7)),
        (FractureBox(22, 11, 3, 2, 13), FractureBox(22, 11, 3, 2, 15)),
    ],
)
def test_box_marks_a_level_from_the_first_pixel_on(marked: FractureBox, unmarked: FractureBox) -> None:
    assert box_levels([marked, unmarked], ct(), two_levels(), RECIPE) == ["C1", None]


def test_of_two_levels_with_as_many_pixels_the_upper_one_is_marked() -> None:
    label_map = two_levels()
    label_map.labels[3, 10:15, 20:25] = 3
    assert box_levels([FractureBox(22, 11, 5, 2, 11)], ct(), label_map, RECIPE) == ["C1"]
    assert box_levels([FractureBox(21, 11, 5, 2, 11)], ct(), label_map, RECIPE) == ["C3"]
