from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spine_etl.crops import crop_grids, overview_grid
from spine_etl.geometry import Grid
from spine_etl.recipe import Block
from spine_etl.resample import sample_image
from spine_etl.volume import Volume
from tests.labelled_ct import AXES, RECIPE, grid


def test_crops_are_centred_on_their_levels() -> None:
    centers = {"C1": np.array([1.0, -2.0, 3.5]), "C3": np.array([4.0, 5.0, -60.0])}
    grids = crop_grids(centers, RECIPE)
    assert list(grids) == ["C1", "C3"]
    for level, center in centers.items():
        assert grids[level].matches(Grid.canonical(center, (8, 10, 12), 0.5), 1e-9)
    assert crop_grids({}, RECIPE) == {}


def test_overview_is_centred_on_a_short_ct() -> None:
    ct = grid()
    assert overview_grid(ct, RECIPE).matches(Grid.canonical(ct.center_mm, (16, 20, 24), 4.0), 1e-9)


@pytest.mark.parametrize("flip", [1, -1])
def test_overview_of_a_long_ct_keeps_its_head_end(flip: int) -> None:
    affine = np.eye(4)
    affine[:3, :3] = AXES * [[1], [1], [flip]]
    ct = Grid((200, 30, 40), affine)  # 160 mm; the overview is 64 mm high
    overview = overview_grid(ct, RECIPE)
    assert overview.corners_mm()[:, 2].max() == pytest.approx(ct.corners_mm()[:, 2].max())
    np.testing.assert_allclose(overview.center_mm[:2], ct.center_mm[:2])


Point = tuple[float, float, float]
Shape = tuple[int, int, int]
POINTS = st.tuples(*[st.floats(-2000, 2000)] * 3)
SHAPES = st.tuples(*[st.integers(4, 200)] * 3)
SPACINGS = st.floats(0.05, 20)
MANY = settings(max_examples=200, deadline=None)


def crop_at(center: Point, shape: Shape, spacing_mm: float) -> Grid:
    recipe = RECIPE.model_copy(update={"crop": Block(spacing_mm=spacing_mm, shape=shape)})
    return crop_grids({"C2": np.array(center)}, recipe)["C2"]


@MANY
@given(POINTS, SHAPES, SPACINGS)
def test_centre_is_in_the_middle_of_a_crop(center: Point, shape: Shape, spacing: float) -> None:
    """As far from the first voxel as from the last along every axis: no rounding to a voxel."""
    crop = crop_at(center, shape, spacing)
    assert crop.shape == shape
    first, last = np.array(center) - crop.to_mm((0, 0, 0)), crop.to_mm(np.array(shape) - 1) - center
    np.testing.assert_allclose(first, last, atol=1e-9)
    np.testing.assert_allclose(first, (np.array(shape)[::-1] - 1) * spacing / 2, atol=1e-9)


@MANY
@given(POINTS, SHAPES, SPACINGS)
def test_crop_runs_along_the_patients_axes(center: Point, shape: Shape, spacing: float) -> None:
    """z to Superior, y to Posterior, x to Left, whatever the axes of the CT."""
    crop = crop_at(center, shape, spacing)
    for axis, direction in enumerate([(0, 0, 1), (0, 1, 0), (1, 0, 0)]):
        step = crop.to_mm(np.eye(3)[axis]) - crop.to_mm((0, 0, 0))
        np.testing.assert_allclose(step, np.multiply(direction, spacing), atol=1e-9)


@MANY
@given(POINTS, SHAPES, st.tuples(*[st.integers(0, 50)] * 3), SPACINGS)
def test_smaller_crop_is_the_middle_of_a_larger_one(
    center: Point, shape: Shape, margin: Shape, spacing: float
) -> None:
    small = crop_at(center, shape, spacing)
    large = crop_at(center, tuple(n + 2 * m for n, m in zip(shape, margin, strict=True)), spacing)
    for corner in ((0, 0, 0), tuple(n - 1 for n in shape)):
        np.testing.assert_allclose(large.to_index(small.to_mm(corner)), np.add(corner, margin), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(POINTS, st.floats(0.2, 5), st.integers(0, 2**32 - 1))
def test_crop_of_a_crop_is_the_crop(center: Point, spacing: float, seed: int) -> None:
    """Sampled from the voxels of a larger crop about the same centre, without a change."""
    large, small = crop_at(center, (10, 12, 14), spacing), crop_at(center, (6, 8, 10), spacing)
    voxels = np.random.default_rng(seed).integers(-1024, 3000, (10, 12, 14)).astype(np.int16)
    np.testing.assert_array_equal(sample_image(Volume(voxels, large), small), voxels[2:-2, 2:-2, 2:-2])


@MANY
@given(st.integers(1, 300), st.booleans(), POINTS)
def test_overview_ends_at_the_head_or_is_centred(slices: int, head_first: bool, origin: Point) -> None:
    """The overview is 64 mm high. A CT of 0.8 mm slices fits into it up to 80 slices."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = AXES * [[1], [1], [1 if head_first else -1]], origin
    overview = overview_grid(Grid((slices, 30, 40), affine), RECIPE)
    first, last = origin[2], origin[2] + (slices - 1) * (-0.8 if head_first else 0.8)
    top, bottom = max(first, last) + 0.4, min(first, last) - 0.4
    upper, lower = overview.corners_mm()[:, 2].max(), overview.corners_mm()[:, 2].min()
    assert upper - lower == pytest.approx(64)
    if slices <= 80:
        assert upper + lower == pytest.approx(top + bottom, abs=1e-6)
    else:
        assert upper == pytest.approx(top, abs=1e-6)
    np.testing.assert_allclose(
        overview.center_mm[:2], np.add(origin[:2], (19.5 * 0.4, 14.5 * 0.5)), atol=1e-9
    )
