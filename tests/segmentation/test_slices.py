from __future__ import annotations

import numpy as np
import pytest

from spine_etl.geometry import Grid
from spine_etl.resample import sample_labels
from spine_etl.segmentation import shown_labels, slice_range
from spine_etl.volume import LabelMap, Volume
from tests.labelled_ct import SHAPE, ct, two_levels


def range_of(label_map: LabelMap, label: int, volume: Volume) -> tuple[int, int] | None:
    return slice_range(shown_labels(label_map, volume)[:, label], volume)


@pytest.mark.parametrize("degrees", [0, 20])
def test_slice_range_of_a_label_at_an_angle_to_the_slices(degrees: float) -> None:
    """Expected: the slices in which the sampler finds the label."""
    volume = ct()
    angle = np.deg2rad(degrees)
    rotation = np.eye(4)
    rotation[0:3, 0:3] = [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    to_center = np.eye(4)
    to_center[:3, 3] = volume.grid.center_mm
    affine = to_center @ rotation @ np.linalg.inv(to_center) @ volume.grid.affine
    labels = np.zeros(SHAPE, np.uint8)
    labels[8:12, 12:20, 10:30] = 1
    label_map = LabelMap(labels, Grid(SHAPE, affine))
    assert volume.file_numbers is not None
    shows = [(sample_labels(label_map, volume.grid.slice_at(z)) == 1).any() for z in range(SHAPE[0])]
    expected = volume.file_numbers[np.flatnonzero(shows)[[0, -1]]].tolist()
    assert sorted(range_of(label_map, 1, volume) or ()) == expected
    assert range_of(label_map, 2, volume) is None


def test_slice_range_ends_halfway_between_slices() -> None:
    """Slices are the files 5, 7, 9, ... from head to foot; a voxel as high as a step moves through them."""
    labels = np.ones((1, 1, 1), np.uint8)
    for z, number in ((-0.49, 5), (0.49, 5), (0.51, 7), (1.49, 7), (18.51, 43), (19.49, 43)):
        affine = np.diag([1.0, 1, 0.8, 1])
        affine[:3, 3] = (0, 0, 30 - 0.8 * z)
        assert range_of(LabelMap(labels, Grid((1, 1, 1), affine)), 1, ct()) == (number, number)
    for z in (-0.51, 19.51):
        affine[:3, 3] = (0, 0, 30 - 0.8 * z)
        assert range_of(LabelMap(labels, Grid((1, 1, 1), affine)), 1, ct()) is None


def test_slice_range_is_from_the_lowest_to_the_highest_slice() -> None:
    """C1 is in the slices 2 to 4, the files 9 to 13; the series runs from head to foot."""
    assert range_of(two_levels(), 1, ct()) == (13, 9)
