from __future__ import annotations

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spine_etl.geometry import Grid


def oblique(shape: tuple[int, int, int] = (4, 5, 6)) -> Grid:
    affine = np.array(
        [[0.1, -0.3, 0.7, 12.0], [0.2, 0.6, 0.1, -7.0], [1.5, 0.1, -0.2, 40.0], [0.0, 0.0, 0.0, 1.0]]
    )
    return Grid(shape, affine)


def test_affine_is_copied_and_read_only() -> None:
    affine = np.eye(4)
    grid = Grid((1, 2, 3), affine)
    affine[0, 0] = 9.0
    assert grid.affine[0, 0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 2.0


@pytest.mark.parametrize(
    ("shape", "affine"),
    [
        ((0, 1, 1), np.eye(4)),
        ((1, 1), np.eye(4)),
        ((1, 1, 1), np.zeros((4, 4))),
        ((1, 1, 1), np.full((4, 4), np.nan)),
        ((1, 1, 1), np.eye(3)),
    ],
)
def test_invalid_shape_or_affine_raises(shape: tuple[int, int, int], affine: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a grid needs"):
        Grid(shape, affine)


def test_canonical_axes_are_superior_posterior_left() -> None:
    grid = Grid.canonical((10.0, 20.0, 30.0), (3, 4, 5), 0.5)
    origin = grid.to_mm((0, 0, 0))
    np.testing.assert_allclose(grid.to_mm((1, 0, 0)) - origin, (0, 0, 0.5))  # LPS: +z Superior
    np.testing.assert_allclose(grid.to_mm((0, 1, 0)) - origin, (0, 0.5, 0))  # +y Posterior
    np.testing.assert_allclose(grid.to_mm((0, 0, 1)) - origin, (0.5, 0, 0))  # +x Left


def test_canonical_center_is_the_middle_of_the_block() -> None:
    grid = Grid.canonical((10.0, 20.0, 30.0), (3, 4, 5), 0.5)
    np.testing.assert_allclose(grid.center_mm, (10, 20, 30))
    np.testing.assert_allclose(grid.to_mm((1, 1.5, 2)), (10, 20, 30))
    corners = grid.corners_mm()
    np.testing.assert_allclose(corners.min(axis=0), (10 - 1.25, 20 - 1.0, 30 - 0.75))
    np.testing.assert_allclose(corners.max(axis=0), (10 + 1.25, 20 + 1.0, 30 + 0.75))


def test_spacing_is_the_length_of_each_axis() -> None:
    affine = np.diag([3.0, 4.0, 12.0, 1.0])
    affine[1, 0] = 4.0
    np.testing.assert_allclose(Grid((2, 2, 2), affine).spacing_mm, (5, 4, 12))


def test_index_map_agrees_with_millimetres() -> None:
    source, target = oblique(), Grid.canonical((1, 2, 3), (7, 7, 7), 0.8)
    index = np.array([1.0, 2.0, 3.5])
    mapped = source.index_map_to(target) @ [*index, 1.0]
    np.testing.assert_allclose(target.to_mm(mapped[:3]), source.to_mm(index), atol=1e-9)


@settings(max_examples=25)
@given(st.lists(st.floats(-500, 500), min_size=3, max_size=3))
def test_to_mm_and_to_index_are_inverse(index: list[float]) -> None:
    np.testing.assert_allclose(oblique().to_index(oblique().to_mm(index)), index, atol=1e-6)


def test_enclosing_canonical_of_a_parallel_box_has_its_size() -> None:
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, -0.4], [0, 0.4, 0], [-0.8, 0, 0]]  # from head to foot, right to left
    grid = Grid((10, 20, 30), affine).enclosing_canonical(0.5)
    assert grid.shape == (16, 16, 24)  # 8 x 8 x 12 mm
    np.testing.assert_allclose(grid.center_mm, Grid((10, 20, 30), affine).center_mm)


def test_enclosing_canonical_covers_every_corner() -> None:
    source = oblique()
    index = source.enclosing_canonical(0.7).to_index(source.corners_mm())
    shape = source.enclosing_canonical(0.7).shape
    assert (index >= -0.5 - 1e-6).all()
    assert (index <= np.array(shape) - 0.5 + 1e-6).all()
    assert np.ptp(index, axis=0) == pytest.approx(shape, abs=1.0)  # and is no larger than needed


def test_matches_compares_shape_and_every_corner() -> None:
    grid = oblique()
    moved, turned = grid.affine.copy(), grid.affine.copy()
    moved[0, 3] += 0.02
    turned[0, 2] += 0.01  # moves the far corner but not the origin
    assert grid.matches(oblique())
    assert not grid.matches(oblique((4, 5, 7)))
    assert not grid.matches(Grid(grid.shape, moved))
    assert grid.matches(Grid(grid.shape, moved), tolerance_mm=0.03)
    assert not grid.matches(Grid(grid.shape, turned))


def test_corner_distance_ignores_axis_order_and_direction() -> None:
    grid = oblique()
    z, y, x = grid.shape
    reversed_x = grid.affine @ np.array([[0, 1, 0, 0], [0, 0, 1, 0], [-1, 0, 0, x - 1], [0, 0, 0, 1]])
    stored = Grid((x, z, y), reversed_x)  # (x from its end, z, y)
    assert grid.corner_distance_mm(stored) == pytest.approx(0, abs=1e-9)
    moved = grid.affine.copy()
    moved[:3, 3] += (3.0, 0.0, -4.0)
    assert grid.corner_distance_mm(Grid(grid.shape, moved)) == pytest.approx(5)


def test_corner_distance_is_that_of_the_worst_corner() -> None:
    """Blocks of 2 and 3 voxels of 1 mm share a face; the other corners are 1 mm apart."""
    assert Grid((2, 2, 2), np.eye(4)).corner_distance_mm(Grid((3, 2, 2), np.eye(4))) == pytest.approx(1)


def test_axis_codes_and_angles_agree_with_nibabel() -> None:
    rng, compared = np.random.default_rng(5), 0
    for _ in range(100):
        rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        affine = np.eye(4)
        affine[:3, :3] = rotation * rng.uniform(0.5, 3, 3)
        ras = np.diag([-1, -1, 1, 1]) @ affine
        if np.abs(rotation).max(axis=0).min() > 0.75:  # otherwise the nearest patient axis is ambiguous
            assert Grid((2, 2, 2), affine).axis_codes == "".join(nibabel.aff2axcodes(ras))
            compared += 1
        assert Grid((2, 2, 2), affine).tilt_degrees == pytest.approx(0, abs=1e-6)
        nearest = np.degrees(np.arccos(np.abs(rotation[:, 0]).max()))
        assert Grid((2, 2, 2), affine).oblique_degrees == pytest.approx(nearest, abs=1e-6)
    assert compared > 10
