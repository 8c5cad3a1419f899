"""Scan geometry: the kinds that an index selects, and header strings that encode the numbers exactly."""

from __future__ import annotations

import numpy as np
import pytest

from spine_etl.phantom.anatomy import Neck, build_neck
from spine_etl.phantom.scanner import EXPLICIT, Scan, fully_visible_levels, hidden_end, plan_scan


@pytest.fixture(scope="module")
def neck() -> Neck:
    return build_neck(np.random.default_rng(4))


def scan(neck: Neck, index: int, slices: int | None = 40, size: int = 64) -> Scan:
    return plan_scan(neck, np.random.default_rng(index), index, EXPLICIT, slices, size)


def test_index_selects_the_kind_of_the_scan(neck: Neck) -> None:
    for index in range(40):
        planned = scan(neck, index)
        z = planned.positions_mm[:, 2]
        assert planned.foot_to_head == (index % 5 == 2) == bool(z[-1] > z[0])
        assert (planned.first_file > 1) == (index % 6 == 4)
        oblique = np.abs(planned.along_row[1:]).max() > 0.01
        assert oblique == (index % 17 == 6)
        steps = np.linalg.norm(np.diff(planned.positions_mm, axis=0), axis=1)
        assert planned.evenly_spaced == (index % 13 != 5)
        assert (np.ptp(steps) > 0.1 * steps.mean()) == (index % 13 == 5)


def test_strings_are_the_numbers(neck: Neck) -> None:
    """DICOM PS3.5: a DS has at most 16 characters."""
    for index in range(20):
        planned = scan(neck, index)
        np.testing.assert_array_equal(np.array(planned.position_strings, float), planned.positions_mm)
        cosines = np.array(planned.orientation_strings, float)
        np.testing.assert_array_equal(cosines, [*planned.along_row, *planned.along_column])
        assert float(planned.spacing_string) == planned.pixel_spacing_mm
        texts = [*sum(planned.position_strings, ()), *planned.orientation_strings, planned.spacing_string]
        assert max(map(len, texts)) <= 16
        assert np.linalg.norm(cosines.reshape(2, 3), axis=1) == pytest.approx([1, 1], abs=1e-5)
        assert cosines[:3] @ cosines[3:] == pytest.approx(0, abs=1e-5)


def test_slices_follow_the_normal_and_cover_the_neck(neck: Neck) -> None:
    corners = np.concatenate([part.corners_mm() for part in neck.vertebrae])
    for index in (0, 2, 5, 6):
        planned = scan(neck, index)
        offsets = planned.positions_mm - planned.positions_mm[0]
        across = offsets - np.outer(offsets @ planned.normal, planned.normal)
        assert np.abs(across).max() < 0.01  # the rounding of the strings
        heights = planned.positions_mm @ planned.normal
        assert heights.max() > (corners[: 8 * 7] @ planned.normal).max()
        assert heights.min() < (corners[: 8 * 7] @ planned.normal).min()
        low, high = planned.view[3:]
        step = np.ptp(heights) / 39
        assert (low, high) == pytest.approx((heights.min() - step / 2, heights.max() + step / 2))


def test_plane_is_the_first_pixel_and_the_steps_to_the_next_row_and_column(neck: Neck) -> None:
    planned = scan(neck, 6)
    first, row, column = planned.plane_mm(3)
    np.testing.assert_array_equal(first, planned.positions_mm[3])
    np.testing.assert_allclose(row, planned.along_column * planned.pixel_spacing_mm)
    np.testing.assert_allclose(column, planned.along_row * planned.pixel_spacing_mm)
    assert row[1] > 0.9 * planned.pixel_spacing_mm  # rows run to Posterior, columns to Left
    assert column[0] > 0.9 * planned.pixel_spacing_mm


def test_every_eleventh_scan_hides_one_end() -> None:
    ends = [hidden_end(index) for index in range(44)]
    assert {index: end for index, end in enumerate(ends) if end} == {
        10: "top",
        21: "bottom",
        32: "top",
        43: "bottom",
    }
    assert fully_visible_levels(10) == ("C3", "C4", "C5", "C6", "C7")
    assert fully_visible_levels(21) == ("C1", "C2", "C3", "C4", "C5")
    assert len(fully_visible_levels(0)) == 7


def test_slices_are_as_many_as_asked(neck: Neck) -> None:
    for slices in (16, 100):
        assert len(scan(neck, 0, slices=slices).positions_mm) == slices
    default = scan(neck, 0, slices=None)
    step = np.linalg.norm(np.diff(default.positions_mm[:2], axis=0))
    assert min(abs(step - usual) for usual in (0.5, 0.625, 0.7, 0.75, 0.8)) < 0.01
