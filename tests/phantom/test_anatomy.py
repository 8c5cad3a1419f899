"""A neck's frames, labels and sizes."""

from __future__ import annotations

import numpy as np
import pytest

from spine_etl.phantom.anatomy import CERVICAL, LEVELS, Neck, build_neck
from spine_etl.phantom.fractures import make_cut


@pytest.fixture(params=range(6))
def neck(request: pytest.FixtureRequest) -> Neck:
    return build_neck(np.random.default_rng(request.param))


def test_vertebrae_are_labelled_from_head_to_foot(neck: Neck) -> None:
    assert LEVELS == ("C1", "C2", "C3", "C4", "C5", "C6", "C7", "T1", "T2")
    assert LEVELS[:7] == CERVICAL
    assert [part.label for part in neck.vertebrae] == list(range(1, 10))
    assert {part.label for part in neck.tissues} == {0}
    heights = [part.origin_mm[2] for part in neck.vertebrae]
    assert heights == sorted(heights, reverse=True)


def test_frames_are_rotations_that_look_along_the_patient(neck: Neck) -> None:
    """u, v and w are within 25 degrees of Left, Posterior and Superior."""
    for part in neck.vertebrae:
        np.testing.assert_allclose(part.rotation.T @ part.rotation, np.eye(3), atol=1e-12)
        assert np.linalg.det(part.rotation) == pytest.approx(1)
        assert np.diag(part.rotation).min() > np.cos(np.radians(25))


def test_neck_is_lordotic(neck: Neck) -> None:
    """The front opens upward: C2 is pitched forward, T2 backward, by 12 to 33 degrees in all."""
    pitches = [np.degrees(np.arctan2(part.rotation[2, 1], part.rotation[2, 2])) for part in neck.vertebrae]
    assert 11 < pitches[8] - pitches[1] < 35


def test_bodies_are_a_disc_of_5_mm_apart(neck: Neck) -> None:
    """Half heights of the bodies of C2 to C4, in mm at scale 1: 9, 6.6 and 6.5."""
    c2, c3, c4 = (neck.vertebrae[index].origin_mm for index in (1, 2, 3))
    assert np.linalg.norm(c3 - c2) == pytest.approx((9 + 5 + 6.6) * neck.scale)
    assert np.linalg.norm(c4 - c3) == pytest.approx((6.6 + 5 + 6.5) * neck.scale)
    assert 0.9 <= neck.scale <= 1.08


def test_corners_enclose_all_shapes_and_moved_fragments(neck: Neck) -> None:
    part = neck.vertebrae[4]
    ends = part.shapes[:, [1, 2, 3]] @ part.rotation.T + part.origin_mm
    corners = part.corners_mm()
    assert (corners.min(axis=0) <= ends).all()
    assert (corners.max(axis=0) >= ends).all()
    cut = make_cut(np.random.default_rng(0), "C5", neck.scale)
    cut[5:8] = (0, 0, 30)
    moved = neck.with_cut("C5", cut)
    local = (moved.vertebrae[4].corners_mm() - part.origin_mm) @ part.rotation
    before = (corners - part.origin_mm) @ part.rotation
    assert local[:, 2].max() == pytest.approx(before[:, 2].max() + 30)
    assert local[:, 2].min() == pytest.approx(before[:, 2].min())
    assert moved.vertebrae[3] is neck.vertebrae[3]
