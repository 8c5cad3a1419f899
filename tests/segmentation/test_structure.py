from __future__ import annotations

import numpy as np
import pytest

from spine_etl.geometry import Grid
from spine_etl.segmentation.structure import Structure, label_structure
from spine_etl.volume import LabelMap

SPACING = (2.0, 1.0, 0.5)  # z, y, x


def structure_of(labels: np.ndarray) -> Structure:
    affine = np.diag([*SPACING[::-1], 1.0])[:, [2, 1, 0, 3]]
    index = np.argwhere(labels)
    return label_structure(LabelMap(labels, Grid(labels.shape, affine)), index.min(axis=0), index.max(axis=0))


def test_runs_and_contacts_of_two_blocks() -> None:
    labels = np.zeros((20, 30, 40), np.uint8)
    labels[2:8, 5:15, 4:36] = 1
    labels[8:14, 5:15, 4:24] = 2
    structure = structure_of(labels)
    # Along x, where both are longest: runs of 32 and of 20 voxels of 0.5 mm, as many of each.
    assert structure.run_mm == pytest.approx((32 + 20) / 2 * 0.5)
    assert structure.run_voxels == pytest.approx(26)
    assert structure.ramps == 0
    assert structure.contacts_mm2[1, 2] == structure.contacts_mm2[2, 1] == pytest.approx(10 * 20 * 1.0 * 0.5)
    assert structure.contacts_mm2.sum() == pytest.approx(2 * 100)


def test_lines_of_a_large_map_are_sampled() -> None:
    """160 x 160 x 160 voxels: every third line along each axis, with its share of the area."""
    labels = np.ones((160, 160, 160), np.uint8)
    labels[80:] = 2
    assert structure_of(labels).contacts_mm2[1, 2] == pytest.approx(160 * 160 * 0.5, rel=0.03)


def test_interpolated_numbers_leave_rims() -> None:
    """Along x from 0 to 7 over two voxels: of 20 borders, all have a rim; drawn labels beside 7 have none."""
    labels = np.zeros((10, 10, 40), np.uint8)
    labels[:, :, 10:30] = 7
    assert structure_of(labels).ramps == 0
    labels[:, :, 9] = labels[:, :, 30] = 4
    assert structure_of(labels).ramps == 1.0
    labels[:, :, 9] = 4
    labels[:, :, 30] = 9  # a rim of a larger number on the other side
    assert structure_of(labels).ramps == 0


def test_a_rim_that_is_thicker_than_3_2_mm_is_no_rim() -> None:
    for voxels, share in ((4, 1.0), (5, 0.0)):  # never more than four voxels, and 0.5 mm each
        labels = np.zeros((10, 10, 60), np.uint8)
        labels[:, :, 20:40] = 7
        labels[:, :, 20 - voxels : 20] = labels[:, :, 40 : 40 + voxels] = 4
        assert structure_of(labels).ramps == share
