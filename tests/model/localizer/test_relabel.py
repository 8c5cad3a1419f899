"""Relabelling of synthetic necks whose true levels are given."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from model.localizer.level_order import LevelOrder
from model.localizer.relabel import RELABELLED_WEIGHT, Relabelled, relabel
from tests.model.localizer.necks import K, Labels, neck, random_neck

SPACING = 3.0
CERTAIN = 0.97
"""The network's probability of the class that it predicts, right or wrong."""


def predicted(labels: Labels, certain: float = CERTAIN) -> npt.NDArray[np.float32]:
    """Class probabilities of a network that predicts these labels; all other classes are equally unlikely."""
    probabilities = np.full((K + 2, *labels.shape), (1 - certain) / (K + 1), dtype=np.float32)
    np.put_along_axis(probabilities, labels[None], certain, axis=0)
    return probabilities


def relabel_predicted(labels: Labels, order: LevelOrder) -> Relabelled:
    return relabel(labels, predicted(labels), order, SPACING)


def extent(labels: Labels, level: int) -> tuple[int, int]:
    """The first slice of a level and the one after its last."""
    z = np.flatnonzero((labels == level).any(axis=(1, 2)))
    return int(z[0]), int(z[-1]) + 1


@pytest.mark.parametrize("overlap", [0, 1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_correct_map_is_unchanged(order: LevelOrder, seed: int, overlap: int) -> None:
    labels = random_neck(seed, overlap=overlap)
    result = relabel_predicted(labels, order)
    np.testing.assert_array_equal(result.labels, labels)
    assert result.labels.dtype == np.uint8
    # The posterior may lower the network's certainty a little.
    assert (result.confidence > 0.95 * CERTAIN).all()
    assert (result.confidence <= CERTAIN + 1e-6).all()


def test_arches_beside_the_next_body_change_no_level() -> None:
    labels = neck((4, 7, 4, 4, 4, 4, 4), overlap=3)
    np.testing.assert_array_equal(relabel_predicted(labels, LevelOrder.fit([labels] * 10, K)).labels, labels)


def test_path_and_posterior_follow_z(order: LevelOrder) -> None:
    labels = neck(overlap=0)
    result = relabel_predicted(labels, order)
    assert result.path.shape == (len(labels),)
    assert result.posterior.shape == (len(labels), K + 2)
    assert (result.path[0], result.path[-1]) == (K + 1, 0)
    in_bodies = labels[:, 8, 10]
    assert (result.path == in_bodies)[in_bodies > 0].all()
    assert (result.posterior.argmax(axis=1) == in_bodies)[in_bodies > 0].all()


@pytest.mark.parametrize("inside", [0, 2])
def test_field_of_view_that_starts_at_c3(order: LevelOrder, inside: int) -> None:
    labels = neck((5, 5, 5, 5, 5), first=3, above=0)
    labels = labels[: len(labels) - inside]
    result = relabel_predicted(labels, order)
    np.testing.assert_array_equal(result.labels, labels)
    assert result.path[-1] == 3
    assert (result.confidence > 0).tolist() == [False] * 2 + [True] * 5


@pytest.mark.parametrize("inside", [0, 2])
def test_field_of_view_that_ends_at_c5(order: LevelOrder, inside: int) -> None:
    labels = neck((4, 8, 5, 5, 5), below=0)[inside:]
    result = relabel_predicted(labels, order)
    np.testing.assert_array_equal(result.labels, labels)
    assert result.path[0] == 5
    assert (result.confidence > 0).tolist() == [True] * 5 + [False] * 2


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("level", [2, 4, 6])
def test_swapped_vertebrae_are_swapped_back(order: LevelOrder, level: int, seed: int, overlap: int) -> None:
    labels = random_neck(seed, overlap=overlap)
    corrupted = labels.copy()
    corrupted[labels == level], corrupted[labels == level + 1] = level + 1, level
    result = relabel_predicted(corrupted, order)
    np.testing.assert_array_equal(result.labels, labels)
    swapped = np.isin(np.arange(1, K + 1), [level, level + 1])
    assert (result.confidence[swapped] <= 0.5).all()
    assert (result.confidence[swapped] > 0.1).all()
    assert (result.confidence[~swapped] > 0.9 * CERTAIN).all()


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("seed", range(6))
def test_half_vertebra_labelled_as_the_next_is_corrected(order: LevelOrder, seed: int, overlap: int) -> None:
    labels = random_neck(seed, overlap=overlap)
    corrupted = labels.copy()
    first, end = extent(labels, 2)
    lower = slice(first, (first + end) // 2)
    corrupted[lower][labels[lower] == 2] = 3
    result = relabel_predicted(corrupted, order)
    # Where the half touches C3 the cut is between slices: the arch beside C3's body becomes C3.
    accuracy = [(result.labels == labels)[labels == level].mean() for level in (2, 3)]
    assert min(accuracy) == 1 if overlap == 0 else min(accuracy) > 0.85
    assert 0.5 < result.confidence[1] < 0.9


@pytest.mark.parametrize("level", [2, 5, 7])
@pytest.mark.parametrize("seed", range(4))
def test_two_vertebrae_with_one_label_are_separated(order: LevelOrder, level: int, seed: int) -> None:
    labels = random_neck(seed)
    corrupted = np.where(labels == level, level + 1, labels)
    result = relabel_predicted(corrupted, order)
    for name in (level, level + 1):
        assert (result.labels == labels)[labels == name].mean() > 0.85
    assert 0 < result.confidence[level - 1] <= 0.5


def test_broken_c2_keeps_both_pieces(order: LevelOrder) -> None:
    labels = neck(overlap=0)
    first, end = extent(labels, 2)
    labels[(first + end) // 2] = 0
    np.testing.assert_array_equal(relabel_predicted(labels, order).labels, labels)


def test_second_c6_near_c1_is_dropped(order: LevelOrder) -> None:
    labels = neck()
    duplicated = labels.copy()
    duplicated[slice(*extent(labels, 1)), 6:13, 18:24] = 6
    result = relabel_predicted(duplicated, order)
    np.testing.assert_array_equal(result.labels, labels)
    assert result.confidence[5] > 0.9


def test_second_c6_beside_c6_is_dropped_unless_close(order: LevelOrder) -> None:
    labels = neck()
    first, end = extent(labels, 6)
    duplicated = labels.copy()
    duplicated[first + 1 : end - 1, 6:13, 20:24] = 6  # five voxels, 15 mm, from C6
    np.testing.assert_array_equal(relabel_predicted(duplicated, order).labels, labels)
    close = labels.copy()
    close[first + 1 : end - 1, 6:13, 18:22] = 6  # three voxels, 9 mm
    np.testing.assert_array_equal(relabel_predicted(close, order).labels, close)


def test_fragment_beside_the_next_vertebra_keeps_its_level(order: LevelOrder) -> None:
    labels = neck(overlap=0)
    _, end = extent(labels, 6)
    labels[end - 3 : end, 21:24, 10:14] = 5
    np.testing.assert_array_equal(relabel_predicted(labels, order).labels, labels)


@pytest.mark.parametrize("level", range(1, K + 1))
@pytest.mark.parametrize("leave_gap", [True, False])
def test_missing_level_is_not_invented(order: LevelOrder, level: int, leave_gap: bool) -> None:
    labels = neck()
    if leave_gap:
        labels[labels == level] = 0
    else:
        heights = [4, 8, 5, 5, 4, 5, 6]
        upper = neck(tuple(heights[: level - 1]), below=0, overlap=0)
        lower = neck(tuple(heights[level:]), first=level + 1, above=0, overlap=0)
        labels = np.concatenate([lower, upper])
    result = relabel_predicted(labels, order)
    np.testing.assert_array_equal(result.labels, labels)
    assert result.confidence[level - 1] == 0
    assert (np.delete(result.confidence, level - 1) > 0.5).all()


def test_less_confident_of_two_levels_out_of_order_is_dropped(order: LevelOrder) -> None:
    labels = neck(overlap=0)
    labels[labels == 5] = 0
    _, end = extent(labels, 4)
    corrupted = labels.copy()
    corrupted[end - 2 : end, 21:24, 10:14] = 5
    result = relabel_predicted(corrupted, order)
    np.testing.assert_array_equal(result.labels, labels)
    assert result.confidence[4] == 0
    assert result.confidence[3] > 0.9


def test_close_speck_is_removed(order: LevelOrder) -> None:
    labels = neck(overlap=0)
    first, _ = extent(labels, 5)
    specked = labels.copy()
    specked[first : first + 2, 21:23, 10:12] = 5
    np.testing.assert_array_equal(relabel_predicted(specked, order).labels, labels)


def test_empty_map_gives_an_empty_result(order: LevelOrder) -> None:
    result = relabel_predicted(np.zeros((30, 8, 8), dtype=np.int64), order)
    assert not result.labels.any()
    assert not result.confidence.any()
    assert not result.path.any()
    np.testing.assert_allclose(result.posterior.sum(axis=1), 1)


def test_confidence_is_proportional_to_certainty(order: LevelOrder) -> None:
    labels = neck()
    certain, unsure = (relabel(labels, predicted(labels, p), order, SPACING).confidence for p in (1.0, 0.6))
    assert (certain > 0.97).all()
    np.testing.assert_allclose(unsure, 0.6 * certain, atol=0.03)


def test_confidence_falls_with_the_posterior(order: LevelOrder) -> None:
    labels = neck((4, 8, 4, 7, 4, 5, 6))
    corrupted = np.where(np.isin(labels, [3, 4]), 7 - labels, labels)
    result = relabel_predicted(corrupted, order)
    for level in (3, 4):
        shown = (result.labels == level).any(axis=(1, 2)) & (result.posterior.argmax(axis=1) == level)
        z = np.flatnonzero(shown)
        at_middle = result.posterior[z[len(z) // 2], level]
        assert at_middle < 0.99
        expected = RELABELLED_WEIGHT * CERTAIN * at_middle
        assert result.confidence[level - 1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_noise_does_not_change_the_levels(order: LevelOrder, seed: int) -> None:
    labels = random_neck(seed)
    random = np.random.default_rng(seed)
    noisy = np.where(random.random(labels.shape) < 0.03, random.integers(0, K + 2, labels.shape), labels)
    result = relabel_predicted(noisy, order)
    untouched = noisy == labels
    for level in range(1, K + 2):
        assert (result.labels == level)[untouched & (labels == level)].all()
    assert (result.labels == labels)[labels == 0].mean() > 0.99
    assert (result.confidence > 0.9).all()


def test_invalid_input_raises(order: LevelOrder) -> None:
    labels = neck()
    with pytest.raises(ValueError, match="do not match"):
        relabel(labels, predicted(labels)[:-1], order, SPACING)
    with pytest.raises(ValueError, match="Labels must be"):
        relabel(np.full_like(labels, K + 2), predicted(labels), order, SPACING)
    probabilities = predicted(labels)
    probabilities[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        relabel(labels, probabilities, order, SPACING)
