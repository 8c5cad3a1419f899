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
