"""Which labels a slice shows: on a shared grid, what np.unique finds; elsewhere, what the sampler finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spine_etl.geometry import Grid
from spine_etl.resample import sample_labels
from spine_etl.segmentation import label_regions, shown_labels, slice_range, slice_runs
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


def unique_labels(label_map: LabelMap, volume: Volume) -> list[set[int]]:
    """The labels that `sample_labels` finds in each slice."""
    slices = [sample_labels(label_map, volume.grid.slice_at(z)) for z in volume.slice_positions]
    return [set(np.unique(labels).tolist()) - {0} for labels in slices]


def shown_sets(label_map: LabelMap, volume: Volume) -> list[set[int]]:
    return [set(np.flatnonzero(shown).tolist()) for shown in shown_labels(label_map, volume)]


def test_slices_on_a_shared_grid_show_what_unique_finds() -> None:
    """The baseline's ``np.unique(seg[85])``."""
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(SHAPE) < 0.003, rng.integers(1, 20, SHAPE), 0).astype(np.uint8)
    label_map = LabelMap(labels, ct().grid)
    expected = [set(np.unique(plane).tolist()) - {0} for plane in labels]
    assert shown_sets(label_map, ct()) == expected
    assert len({frozenset(labels) for labels in expected}) > 10


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.25, 0.8, 1.6, 3.0]),
    st.tuples(*[st.floats(-2, 2)] * 3),
    st.sampled_from(["aligned", "sheared CT", "turned"]),
    st.booleans(),
)
def test_slices_of_any_ct_show_what_the_sampler_finds(
    seed: int, step_mm: float, shift: tuple[float, ...], angle: str, is_uneven: bool
) -> None:
    rng = np.random.default_rng(seed)
    # Blocks, so that no voxel of the map is between the pixels of the CT.
    labels = np.kron(rng.integers(0, 2, (3, 3, 3)), np.ones((2, 6, 6), int)) * rng.integers(1, 9)
    affine = np.diag([step_mm, 0.9, 1.1, 1])[[2, 1, 0, 3]]
    if angle == "turned":
        turn = np.eye(4)
        turn[1:3, 1:3] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
        affine = turn @ affine
    affine[:3, 3] = shift
    label_map = LabelMap(labels.astype(np.uint8), Grid(labels.shape, affine))
    to_mm = np.diag([1.0, 0.8, 0.8, 1])[[2, 1, 0, 3]]
    if angle == "sheared CT":
        to_mm[1, 0] = 0.3
    to_mm[:3, 3] = (-10, -10, -3)
    coordinates = np.arange(24.0)
    coordinates[1:-1] += rng.uniform(-0.4, 0.4, 22) * is_uneven
    volume = Volume(np.zeros((24, 60, 60), np.int16), Grid((24, 60, 60), to_mm), coordinates)
    assert shown_sets(label_map, volume) == unique_labels(label_map, volume)


def test_regions_restrict_what_is_shown() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:6, 5, 5] = labels[9, 20, 20] = 1
    whole = LabelMap(labels, ct().grid)
    part = LabelMap(np.where(np.arange(20)[:, None, None] < 8, labels, 0).astype(np.uint8), ct().grid)
    turned = np.eye(4)
    turned[:3, :3] = [[1, 0, 0], [0, np.cos(0.1), -np.sin(0.1)], [0, np.sin(0.1), np.cos(0.1)]]
    for affine in (np.eye(4), turned):
        grid = Grid(SHAPE, affine @ ct().grid.affine)
        shown = shown_labels(LabelMap(labels, grid), ct(), label_regions(part))
        np.testing.assert_array_equal(shown, shown_labels(LabelMap(part.labels, grid), ct()))
        assert shown[:, 1].any()
    np.testing.assert_array_equal(np.flatnonzero(shown_labels(whole, ct())[:, 1]), [3, 4, 5, 9])


def test_map_without_labels_or_beside_the_ct_is_shown_nowhere() -> None:
    empty = LabelMap(np.zeros((2, 2, 2), np.uint8), Grid((2, 2, 2), np.eye(4)))
    far = np.eye(4)
    far[:3, 3] = 500
    turned = far.copy()
    turned[0, 1] = 0.4
    for label_map in (
        empty,
        *(LabelMap(np.ones((2, 2, 2), np.uint8), Grid((2, 2, 2), a)) for a in (far, turned)),
    ):
        assert not shown_labels(label_map, ct()).any()


@pytest.mark.parametrize(
    ("numbers", "shown", "runs"),
    [
        ([1, 2, 3, 4], [1, 2, 3], ((2, 4),)),
        ([1, 2, 3, 4], [0, 2, 3], ((1, 1), (3, 4))),
        ([4, 3, 2, 1], [0, 2, 3], ((1, 2), (4, 4))),
        ([5, 7, 9, 30], [1, 2, 3], ((7, 30),)),  # no file has a number between these
        ([10, 2, 8, 4], [0, 1], ((2, 2), (10, 10))),  # numbers that do not follow the slices
        ([-1, 2, 3, 4], [0, 1], ((2, 2),)),  # a file without a number
        ([1, 2, 3, 4], [], ()),
    ],
)
def test_runs_of_file_numbers(
    numbers: list[int], shown: list[int], runs: tuple[tuple[int, int], ...]
) -> None:
    volume = Volume(np.zeros((4, 2, 2), np.int16), Grid((4, 2, 2), np.eye(4)), file_numbers=np.array(numbers))
    flags = np.isin(np.arange(4), shown)
    assert slice_runs(flags, volume) == runs
    in_runs = [number >= 0 and any(first <= number <= last for first, last in runs) for number in numbers]
    np.testing.assert_array_equal(in_runs, flags & (np.array(numbers) >= 0))
    assert slice_runs(flags, Volume(volume.voxels, volume.grid)) == ()
