"""Laws of `Grid` for grids of any spacing, angle, shear, order and direction."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from spine_etl.geometry import Grid

SHAPES = st.tuples(*[st.integers(1, 40)] * 3)
POINTS = st.tuples(*[st.floats(-300, 300)] * 3)
FEW = settings(max_examples=100, deadline=None)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """A rotation by scipy, a shear of the first axis, the axes in any order and direction."""
    angles = draw(st.tuples(*[st.floats(-180, 180)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.1, 8)] * 3))
    signs = draw(st.tuples(*[st.sampled_from([1, -1])] * 3))
    order = draw(st.permutations([0, 1, 2]))
    steps = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * np.array(spacing) * signs
    steps[:, 0] += draw(st.floats(-0.5, 0.5)) * steps[:, 1] * spacing[0] / spacing[1]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = steps[:, list(order)], draw(POINTS)
    return Grid(draw(SHAPES), affine)


@FEW
@given(grids(), POINTS)
def test_to_index_is_the_inverse_of_to_mm(grid: Grid, index: tuple[float, float, float]) -> None:
    np.testing.assert_allclose(grid.to_index(grid.to_mm(index)), index, atol=1e-6)
    expected = (grid.affine @ [*index, 1.0])[:3]  # the definition, one point
    np.testing.assert_allclose(grid.to_mm(index), expected, atol=1e-9)
    many = np.stack([index, np.zeros(3)]).reshape(2, 1, 3)
    np.testing.assert_allclose(grid.to_mm(many)[0, 0], expected, atol=1e-9)


@FEW
@given(grids(), grids(), grids(), POINTS)
def test_index_maps_compose(a: Grid, b: Grid, c: Grid, index: tuple[float, float, float]) -> None:
    direct, by_way = a.index_map_to(c), b.index_map_to(c) @ a.index_map_to(b)
    np.testing.assert_allclose(by_way, direct, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(a.index_map_to(a), np.eye(4), atol=1e-9)
    np.testing.assert_allclose((direct @ [*index, 1.0])[:3], c.to_index(a.to_mm(index)), rtol=1e-6, atol=1e-5)


@FEW
@given(grids())
def test_corners_are_half_a_voxel_beyond_the_last_centres(grid: Grid) -> None:
    index = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in grid.shape], indexing="ij")).reshape(3, -1)
    expected = (grid.affine @ np.vstack([index, np.ones(8)]))[:3].T
    np.testing.assert_allclose(grid.corners_mm(), expected, atol=1e-9)
    np.testing.assert_allclose(grid.corners_mm().mean(axis=0), grid.center_mm, atol=1e-9)
    assert abs(np.linalg.det(grid.affine[:3, :3])) * np.prod(grid.shape) > 0


@FEW
@given(grids(), st.floats(-50, 50), st.floats(0, 40), st.floats(0, 40))
def test_slice_at_is_where_the_slice_is(grid: Grid, z: float, y: float, x: float) -> None:
    one = grid.slice_at(z)
    assert one.shape == (1, *grid.shape[1:])
    np.testing.assert_allclose(one.to_mm((0, y, x)), grid.to_mm((z, y, x)), atol=1e-9)
    np.testing.assert_allclose(one.to_mm((1, y, x)), grid.to_mm((z + 1, y, x)), atol=1e-9)


@FEW
@given(POINTS, SHAPES, st.floats(0.05, 20))
def test_canonical_grid_is_centred_and_runs_to_superior_posterior_left(
    center: tuple[float, float, float], shape: tuple[int, int, int], mm: float
) -> None:
    grid = Grid.canonical(center, shape, mm)
    np.testing.assert_allclose(grid.corners_mm().mean(axis=0), center, atol=1e-9)
    extent = np.ptp(grid.corners_mm(), axis=0)  # L, P, S
    np.testing.assert_allclose(extent, np.array(shape[::-1]) * mm, rtol=1e-9)
    steps = [grid.to_mm(step) - grid.to_mm((0, 0, 0)) for step in np.eye(3)]
    np.testing.assert_allclose(steps, [(0, 0, mm), (0, mm, 0), (mm, 0, 0)], atol=1e-9)
    assert grid.axis_codes == "SPL"
    np.testing.assert_allclose(grid.origin_mm, grid.to_mm((0, 0, 0)), atol=0)
    assert Grid.from_origin(grid.origin_mm, shape, mm).matches(grid, 1e-9)


@FEW
@given(grids(), st.floats(0.3, 10))
def test_enclosing_canonical_is_the_smallest_that_covers_the_block(grid: Grid, mm: float) -> None:
    corners, around = grid.corners_mm(), grid.enclosing_canonical(mm)
    low, high = corners.min(axis=0), corners.max(axis=0)
    outer = around.corners_mm()
    assert (outer.min(axis=0) <= low + 1e-5 * mm).all()
    assert (outer.max(axis=0) >= high - 1e-5 * mm).all()
    assert (np.ptp(outer, axis=0) - (high - low) < mm * (1 + 1e-5)).all()


@FEW
@given(grids(), POINTS)
def test_translation_moves_corners_by_its_length(grid: Grid, shift: tuple[float, float, float]) -> None:
    affine = grid.affine.copy()
    affine[:3, 3] += shift
    moved, length = Grid(grid.shape, affine), float(np.linalg.norm(shift))
    assert grid.matches(moved, length + 1e-6)
    assert length < 1e-5 or not grid.matches(moved, length - 1e-6)
    assert grid.corner_distance_mm(moved) <= length + 1e-6


@FEW
@given(grids())
def test_axis_codes_are_those_of_nibabel(grid: Grid) -> None:
    import nibabel

    cosines = np.abs(grid.affine[:3, :3] / grid.spacing_mm)
    assume(cosines.max(axis=0).min() > 0.8)  # further from a patient axis, conventions differ
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine
    assert "".join(nibabel.aff2axcodes(ras)) == grid.axis_codes


@FEW
@given(st.floats(0, 44), st.floats(0.2, 5), st.sampled_from([1, -1]))
def test_tilt_and_obliqueness_are_the_angles_they_were_made_with(
    degrees: float, step: float, direction: int
) -> None:
    """A gantry tilt moves the slices along y; an oblique series turns all axes."""
    tangent = np.tan(np.deg2rad(degrees))
    tilted = np.eye(4)
    tilted[:3, :3] = [[0, 0, 0.5], [direction * tangent * step, 0.5, 0], [step, 0, 0]]
    grid = Grid((3, 4, 5), tilted)
    np.testing.assert_allclose((grid.tilt_degrees, grid.oblique_degrees), (degrees, 0), atol=1e-6)
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_euler("x", degrees, degrees=True).as_matrix() @ [
        [0, 0, 0.5], [0, 0.5, 0], [step, 0, 0]
    ]  # fmt: skip
    grid = Grid((3, 4, 5), turned)
    np.testing.assert_allclose((grid.tilt_degrees, grid.oblique_degrees), (0, degrees), atol=1e-6)


@FEW
@given(grids(), st.tuples(*[st.floats(-60, 60)] * 3))
def test_nearest_voxel_contains_the_point(grid: Grid, index: tuple[float, float, float]) -> None:
    voxel = grid.nearest_voxels(grid.to_mm(index))
    assert np.abs(voxel - np.array(index)).max() <= 0.5 + 2e-6
    np.testing.assert_array_equal(grid.nearest_voxels(grid.to_mm(np.rint(index))), np.rint(index))


@FEW
@given(grids())
def test_axis_signs_are_the_direction_of_the_largest_component(grid: Grid) -> None:
    for step, sign in zip(grid.affine[:3, :3].T, grid.axis_signs, strict=True):
        largest, second = sorted(np.abs(step))[:0:-1]
        assume(largest > second * (1 + 1e-5))
        assert sign == np.sign(step[np.abs(step).argmax()])


def test_sign_of_a_diagonal_axis_is_that_of_superior_then_posterior() -> None:
    affine = np.eye(4)
    for off in (-1e-9, 0, 1e-9):
        affine[:3, :3] = [[1, 1 + off, -1], [0, -1, -1 + off], [-1 + off, 0, 1]]
        assert Grid((2, 2, 2), affine).axis_signs.tolist() == [-1, -1, 1]
