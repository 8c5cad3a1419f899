"""Volumes, centroids, bounds and painted areas of shapes whose formulas are known."""

from __future__ import annotations

from math import pi

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial.transform import Rotation

from spine_etl.phantom.shapes import (
    BODY,
    CAPSULE,
    NO_CUT,
    SHELL,
    fracture_window,
    measure,
    paint,
    part_bounds,
    shape_boxes,
)

STEP = 0.4
EVERYWHERE = np.array([0.0, 0.0, 1.0, -1e3, 1e3])
ORIGIN = np.array([10.0, -20.0, 300.0])

Array = npt.NDArray[np.float64]


def measured(
    shape: list[float], cut: Array = NO_CUT, view: Array = EVERYWHERE, rotation: Array | None = None
) -> tuple[Array, float, float]:
    """Centroid and bounds (3, 3) relative to the origin of the part, visible and total volume in mm3."""
    shapes = np.array([shape])
    boxes = shape_boxes(shapes)
    turned = np.eye(3) if rotation is None else rotation
    bounds = part_bounds(boxes, cut)
    points, visible, volume = measure(STEP, *bounds, view, ORIGIN, turned, shapes, boxes, cut)
    return points - ORIGIN, visible * STEP**3, volume * STEP**3


def sphere(radius: float = 6.0, u: float = 1.0, v: float = 2.0, w: float = 3.0) -> list[float]:
    return [CAPSULE, u, v, w, u, v, w, radius, radius, 1.0]


def test_sphere() -> None:
    points, visible, volume = measured(sphere())
    assert volume == pytest.approx(4 / 3 * pi * 6**3, rel=0.005)
    assert visible == volume
    np.testing.assert_allclose(points, [[1, 2, 3], [-5, -4, -3], [7, 8, 9]], atol=0.05)


def test_rod_is_a_cylinder_with_round_ends() -> None:
    points, _, volume = measured([CAPSULE, -8, 0, 1, 8, 0, 1, 4, 4, 1])
    assert volume == pytest.approx(pi * 4**2 * 16 + 4 / 3 * pi * 4**3, rel=0.005)
    np.testing.assert_allclose(points, [[0, 0, 1], [-12, -4, -3], [12, 4, 5]], atol=0.05)


def test_squeezed_rod_is_stretched_along_w() -> None:
    """With a factor of 0.5 a sphere becomes an ellipsoid of twice the height."""
    points, _, volume = measured([*sphere(4.0, 0, 0, 0)[:9], 0.5])
    assert volume == pytest.approx(4 / 3 * pi * 4 * 4 * 8, rel=0.02)
    np.testing.assert_allclose(points[0], 0, atol=0.05)


def test_body_is_between_the_cylinder_and_the_block_of_its_half_sizes() -> None:
    points, _, volume = measured([BODY, 0, 0, 0, 9, 7.5, 6.5, 0, 0, 1])
    assert pi * 9 * 7.5 * 13 * 0.95 < volume < 18 * 15 * 13
    np.testing.assert_allclose(points[1:, 0], [-9, 9], atol=0.3)
    np.testing.assert_allclose(points[1:, 2], [-6.5, 6.5], atol=0.05)
    assert points[0, 1] < 0  # flatter at the back


def test_shell_is_as_thick_as_it_should_be() -> None:
    """A round shell of radius 12 and thickness 3: from 10.5 to 13.5. Its hole at v = 100 is outside."""
    points, _, volume = measured([SHELL, 0, 0, 0, 12, 12, 12, 3, 1, 100])
    assert volume == pytest.approx(4 / 3 * pi * (13.5**3 - 10.5**3), rel=0.005)
    np.testing.assert_allclose(points[0], 0, atol=0.05)


def test_part_is_turned_about_its_origin() -> None:
    turn = Rotation.from_euler("xyz", [20, -15, 30], degrees=True).as_matrix()
    points, _, volume = measured(sphere(), rotation=turn)
    np.testing.assert_allclose(points[0], turn @ [1, 2, 3], atol=0.02)
    assert volume == pytest.approx(4 / 3 * pi * 6**3, rel=0.005)


def test_half_of_a_sphere_is_in_view() -> None:
    """Its centroid is three eighths of the radius from the cut surface."""
    view = np.array([0.0, 0.0, 1.0, 300 + 3.0, 1e3])
    points, visible, volume = measured(sphere(), view=view)
    assert visible / volume == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(points[0], [1, 2, 3 + 3 / 8 * 6], atol=0.05)


def fragment(offset: float, gap: float) -> Array:
    """A cut at u = offset whose part beyond is torn off along u by ``gap``."""
    cut = NO_CUT.copy()
    cut[0], cut[1], cut[4], cut[5], cut[8] = 1, 1, offset, gap, gap
    cut[10], cut[13] = offset, 60
    return cut


def test_torn_off_half_leaves_a_gap_and_keeps_its_volume() -> None:
    """The sphere about 0 is cut at u = 0; its right half moves by 3 mm."""
    points, _, volume = measured(sphere(6, 0, 0, 0), cut=fragment(0, 3))
    assert volume == pytest.approx(4 / 3 * pi * 6**3, rel=0.01)
    np.testing.assert_allclose(points[0], [1.5, 0, 0], atol=0.05)
    np.testing.assert_allclose(points[1:, 0], [-6, 9], atol=0.1)


def slice_of_sphere(cut: Array, height: float) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32]]:
    """Labels and HU of a slice of 81 x 81 pixels of 0.25 mm through a sphere of 6 mm about their middle."""
    shapes = np.array([sphere(6, 0, 0, 0)])
    plane = np.array([[-10, -10, height], [0, 0.25, 0], [0.25, 0, 0]], float)
    hu, labels = np.full((81, 81), -100, np.float32), np.zeros((81, 81), np.uint16)
    material, texture = np.array([1000, 300, 1.0, 0.0]), np.zeros((32, 32, 32), np.float32)
    window = np.array([0.0, 80.0, 0.0, 80.0])
    paint(hu, labels, plane, window, shapes, shape_boxes(shapes), cut, material, texture, 0.6, 5)
    return labels, hu


@pytest.mark.parametrize("height", [0.0, 4.0, 5.9, 6.1])
def test_painted_area_is_that_of_the_circle(height: float) -> None:
    labels, _ = slice_of_sphere(NO_CUT, height)
    rows, columns = np.indices(labels.shape)
    inside = np.hypot(rows - 40, columns - 40) * 0.25 < np.sqrt(max(0, 36 - height**2))
    np.testing.assert_array_equal(labels, np.where(inside, 5, 0))


def test_bone_has_a_shell_around_its_core() -> None:
    """Within half a millimetre of 1 mm thickness the shell is 1000 HU, the core 300, the background kept."""
    _, hu = slice_of_sphere(NO_CUT, 0.0)
    along_row = hu[40, 40:]  # pixels at 0, 0.25, ... mm from the middle
    np.testing.assert_allclose(along_row[:18], 300, atol=0.1)  # up to 4.25 mm
    assert along_row[22] == pytest.approx(1000)  # at 5.5 mm
    np.testing.assert_allclose(along_row[26:], -100)  # from 6.5 mm on


def test_lucent_line_has_no_density_but_keeps_its_label() -> None:
    cut = NO_CUT.copy()
    cut[0], cut[2], cut[9], cut[13] = 1, 1, 1.2, 20  # the plane v = 0, 2.4 mm wide
    labels, hu = slice_of_sphere(cut, 0.0)
    assert labels[40, 40] == 5
    assert hu[40, 40] == pytest.approx(0)  # bone without density
    assert hu[40 + 8, 40] == pytest.approx(300, abs=0.1)  # 2 mm away


def test_window_of_a_fracture_is_where_bone_is_within_2_mm_of_its_plane() -> None:
    """The equator of 6.05 mm is 24 pixels high and low; from -1 to 3 mm are columns 36 to 52."""
    shapes, cut = np.array([sphere(6.05, 0, 0, 0)]), NO_CUT.copy()
    cut[0], cut[1], cut[4], cut[9], cut[10], cut[13] = 1, 1, 1, 1.0, 1, 20
    plane = np.array([[-10, -10, 0], [0, 0.25, 0], [0.25, 0, 0]], float)
    window = np.array([0.0, 80.0, 0.0, 80.0])
    assert fracture_window(plane, window, shapes, shape_boxes(shapes), cut) == (16, 64, 36, 52)
    plane[0, 2] = 7  # beyond the sphere
    assert fracture_window(plane, window, shapes, shape_boxes(shapes), cut) == (0, -1, 0, -1)
