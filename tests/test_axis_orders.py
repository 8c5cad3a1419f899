"""A volume or a mask stored in any of the 48 axis orders and directions is one image in space."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spine_etl.boxes import box_levels
from spine_etl.geometry import Grid
from spine_etl.nifti import read_label_map
from spine_etl.resample import coverage, sample_image, sample_labels
from spine_etl.segmentation import find_vertebrae, label_regions, shown_labels, slice_range
from spine_etl.volume import FractureBox, LabelMap, Volume
from tests.labelled_ct import RECIPE, ct, two_levels

ORDERS = [
    (order, flips) for order in permutations(range(3)) for flips in product((1, -1), repeat=3)
]  # fmt: skip
assert len(ORDERS) == 48
Order = tuple[tuple[int, ...], tuple[int, ...]]
Array = npt.NDArray[np.generic]


def stored_as(array: Array, affine: npt.NDArray[np.float64], order: Order) -> tuple[Array, Grid]:
    """The same voxels in another order: axis k is the old axis ``order[0][k]``, reversed if its flip is -1.

    The affine comes from nibabel's orientations.
    """
    axes, flips = order
    # nibabel's rows: for each axis of the input, its axis in the output and its direction.
    orientation = np.array([[axes.index(axis), flips[axes.index(axis)]] for axis in range(3)], float)
    turned = nibabel.orientations.apply_orientation(array, orientation)
    to_input = nibabel.orientations.inv_ornt_aff(orientation, array.shape)
    return np.ascontiguousarray(turned), Grid(turned.shape, affine @ to_input)


def tilted_affine(tilt: float, spacing: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """(z, y, x) to LPS, from head to foot, with y moving ``tilt`` mm for each mm along z."""
    dz, dy, dx = spacing
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, dx], [tilt * dz, dy, 0], [-dz, 0, 0]]
    affine[:3, 3] = (-3, 4, 7)
    return affine


def noise(shape: tuple[int, int, int], high: int = 256) -> Array:
    return np.random.default_rng(8).integers(0, high, shape)


@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_labels_do_not_depend_on_the_order(tilt: float) -> None:
    labels, affine = noise((5, 6, 7)).astype(np.uint8), tilted_affine(tilt, (1.7, 0.9, 0.6))
    first = LabelMap(labels, Grid(labels.shape, affine))
    target = Grid.canonical(first.grid.center_mm + 0.123, (14, 15, 16), 0.71)
    expected, share = sample_labels(first, target), coverage(first.grid, target)
    assert 0.1 < share < 1
    for order in ORDERS:
        other = LabelMap(*stored_as(labels, affine, order))
        np.testing.assert_array_equal(sample_labels(other, target), expected, err_msg=str(order))
        assert coverage(other.grid, target) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("tilt", [0.0, 0.3])
@pytest.mark.parametrize("mm", [0.5, 1.9])
def test_hu_do_not_depend_on_the_order(tilt: float, mm: float) -> None:
    hu, affine = (noise((5, 6, 7), 3000) - 1024).astype(np.int16), tilted_affine(tilt, (1.7, 0.9, 0.6))
    grid = Grid(hu.shape, affine)
    target = Grid.canonical(grid.center_mm + 0.123, (9, 8, 7), mm)
    expected = sample_image(Volume(hu, grid), target).astype(int)
    for order in ORDERS:
        sampled = sample_image(Volume(*stored_as(hu, affine, order)), target)
        assert np.abs(sampled - expected).max() <= 1, order  # sums in another order round to the other side
        assert np.mean(sampled != expected) < 0.01, order


def test_regions_centers_slices_and_box_levels_do_not_depend_on_the_order() -> None:
    first, volume = two_levels(), ct()
    boxes = [FractureBox(25.0, 10.0, 7.0, 4.0, 11), FractureBox(5.0, 2.5, 4.0, 1.0, 21)]
    centers = find_vertebrae(first, RECIPE).crop_centers_mm(RECIPE)
    for order in ORDERS:
        other = LabelMap(*stored_as(first.labels, first.grid.affine, order))
        for label, region in label_regions(first).items():
            same = label_regions(other)[label]
            assert same.voxel_count == region.voxel_count
            assert same.volume_mm3 == pytest.approx(region.volume_mm3, rel=1e-12)
            np.testing.assert_allclose(same.centroid_mm, region.centroid_mm, atol=1e-9)
            np.testing.assert_array_equal(shown_labels(other, volume), shown_labels(first, volume))
        for level, center in find_vertebrae(other, RECIPE).crop_centers_mm(RECIPE).items():
            np.testing.assert_allclose(center, centers[level], atol=1e-9)
        assert box_levels(boxes, volume, other, RECIPE) == ["C1", "C3"]


def test_files_in_any_order_give_one_result(tmp_path: Path) -> None:
    """Written and reoriented by nibabel; RAS is the frame of its affines."""
    labels = noise((4, 5, 6)).astype(np.uint8)
    image = nibabel.Nifti1Image(labels, np.diag([0.7, 0.9, 1.5, 1]))
    nibabel.save(image, tmp_path / "first.nii")
    first = read_label_map(tmp_path / "first.nii")
    target = Grid.canonical(first.grid.center_mm + 0.06, (9, 8, 7), 0.8)
    expected = sample_labels(first, target)
    # By hand: voxel (i, j, k) is at R = 0.7 i, A = 0.9 j, S = 1.5 k.
    z, y, x = np.indices(target.shape)
    left, posterior, superior = np.moveaxis(target.to_mm(np.stack([z, y, x], axis=-1)), -1, 0)
    index = np.rint([-left / 0.7, -posterior / 0.9, superior / 1.5]).astype(int)
    inside = ((index >= 0) & (index < np.array([4, 5, 6])[:, None, None, None])).all(axis=0)
    by_hand = np.where(inside, labels[tuple(np.clip(index, 0, [[[[3]]], [[[4]]], [[[5]]]]))], 0)
    np.testing.assert_array_equal(expected, by_hand)
    for axes, flips in ORDERS:
        orientation = np.array([axes, flips], float).T
        nibabel.save(image.as_reoriented(orientation), tmp_path / "other.nii")
        np.testing.assert_array_equal(sample_labels(read_label_map(tmp_path / "other.nii"), target), expected)


TIES = {
    # Steps of the source along z, y and x (columns) that make every second sample of 0.5 mm a tie, exactly.
    "head to foot": [[0, 0, 1], [0, 1, 0], [-1, 0, 0]],
    "tilted": [[0, 0, 1], [0.5, 1, 0], [-1, 0, 0]],
    "diagonal": [[0, 1, 1], [0, 1, -1], [-1, 0, 0]],
}


@pytest.mark.parametrize("steps", TIES)
def test_ties_do_not_depend_on_the_order(steps: str) -> None:
    labels, affine = noise((4, 5, 6)).astype(np.uint8), np.eye(4)
    affine[:3, :3], affine[:3, 3] = TIES[steps], (1, 2, 3)
    first = LabelMap(labels, Grid(labels.shape, affine))
    center = first.grid.to_mm((2, 2, 2))
    target = Grid.from_origin(center - 4, (18, 17, 16), 0.5)
    index = first.grid.to_index(target.to_mm(np.moveaxis(np.indices(target.shape), 0, -1)))
    assert np.mean((index % 1 == 0.5).any(axis=-1)) > 0.4
    expected, share = sample_labels(first, target), coverage(first.grid, target)
    assert 0 < share < 1
    for order in ORDERS:
        other = LabelMap(*stored_as(labels, affine, order))
        np.testing.assert_array_equal(sample_labels(other, target), expected, err_msg=str(order))
        assert coverage(other.grid, target) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_tie_takes_the_voxel_further_to_left_posterior_superior(order: Order) -> None:
    """Voxel (z, y, x) of 1 mm has its centre at S = z, P = y, L = x and, in closed form, the label below."""
    z, y, x = np.indices((3, 4, 5))
    labels, affine = (1 + x + 5 * y + 20 * z).astype(np.uint8), np.eye(4)[[2, 1, 0, 3]]
    other = LabelMap(*stored_as(labels, affine, order))
    for shift in (-1e-9, 0.0, 1e-9):  # round-off
        target = Grid.from_origin((-0.5 + shift, -0.5, -0.5 - shift), (4, 5, 6), 1.0)
        expected = np.zeros((4, 5, 6), np.uint8)
        expected[:3, :4, :5] = labels  # -0.5 is in voxel 0; 2.5, 3.5 and 4.5 are beyond the last
        np.testing.assert_array_equal(sample_labels(other, target), expected)
        assert coverage(other.grid, target) == pytest.approx(3 * 4 * 5 / (4 * 5 * 6))


@pytest.mark.parametrize("order", ORDERS)
def test_box_and_slices_at_ties_do_not_depend_on_the_order(order: Order) -> None:
    """The map's columns are halfway between the CT's, and its planes halfway between the CT's slices."""
    labels, affine = np.zeros((8, 8, 8), np.uint8), np.eye(4)[[2, 1, 0, 3]]
    labels[:, :, :4], labels[:, :, 4:] = 1, 2
    affine[:3, 3] = (0.5, 0, 0.5)
    label_map = LabelMap(*stored_as(labels, affine, order))
    to_ct = np.eye(4)[[2, 1, 0, 3]]
    for up in (1, -1):
        to_ct[2, 0], to_ct[2, 3] = up, 0 if up == 1 else 9
        numbers = np.arange(10) if up == 1 else np.arange(10)[::-1]  # a slice's number is its height
        volume = Volume(np.zeros((10, 10, 10), np.int16), Grid((10, 10, 10), to_ct), file_numbers=numbers)
        # Column 4 is at L = 4, between the map's columns 3 (label 1) and 4 (label 2): the latter counts.
        assert box_levels([FractureBox(3.9, 2, 0.2, 3, 4)], volume, label_map, RECIPE) == ["C2"]
        # The map's planes reach from 0 to 8 mm; of the slices at their faces, that at 0 mm shows them.
        assert slice_range(shown_labels(label_map, volume)[:, 1], volume) == (0, 7)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(ORDERS),
    st.tuples(*[st.floats(0.3, 3)] * 3),
    st.floats(-0.4, 0.4),
    st.tuples(*[st.floats(-4, 4)] * 3),
    st.floats(0.3, 2),
)
def test_any_order_of_any_grid_gives_one_result(
    order: Order,
    spacing: tuple[float, float, float],
    tilt: float,
    shift: tuple[float, float, float],
    mm: float,
) -> None:
    labels, affine = noise((4, 3, 5)).astype(np.uint8), tilted_affine(tilt, spacing)
    first, other = LabelMap(labels, Grid(labels.shape, affine)), LabelMap(*stored_as(labels, affine, order))
    target = Grid.canonical(first.grid.center_mm + shift, (5, 6, 4), mm)
    np.testing.assert_array_equal(sample_labels(other, target), sample_labels(first, target))
