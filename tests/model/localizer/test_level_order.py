"""The hidden Markov model of the neck: fitting, serialisation, and decoding of slices."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from model.localizer import level_order
from model.localizer.level_order import LevelOrder, decode
from spine_etl.errors import CheckpointInvalid
from tests.model.localizer.necks import K, column


@pytest.mark.parametrize(
    ("slices", "expected"),
    [
        ([0, 0, 1, 1, 2, 3, 4, 4, 0], [0, 0, 1, 1, 2, 3, 4, 4, 4]),  # after the class below: below
        ([1, 2, 0, 3, 0, 0], [1, 2, 2, 3, 4, 4]),  # a gap belongs to the level above it; after level K: below
        ([0, 2, 2, 0, 0], [0, 2, 2]),  # after a higher level: unknown
        ([0, 0, 0], []),
    ],
)
def test_state_sequence_runs_from_head_to_foot(slices: list[int], expected: list[int]) -> None:
    assert level_order.state_sequence(column(slices), level_count=3).tolist() == expected


def test_state_of_slice_is_its_most_frequent_label() -> None:
    labels = np.array([[[2, 2, 2, 1]], [[0, 1, 1, 2]]])
    assert level_order.state_sequence(labels, level_count=3).tolist() == [1, 2]


@pytest.mark.parametrize("labels", [np.zeros((2, 2, 2)), np.zeros((2, 2), int), np.full((2, 2, 2), 5)])
def test_invalid_label_map_raises(labels: Any) -> None:
    with pytest.raises(ValueError, match="Labels must be"):
        level_order.state_sequence(labels, level_count=3)


def test_stay_probabilities_follow_from_heights() -> None:
    # Level 1 is 3 and 5 slices high: six stays and two exits; with one more of each, 7 of 10 stay.
    maps = [column([0, 0, 1, 1, 1, 2, 2, 3]), column([1, 1, 1, 1, 1, 2, 3, 3]), column([0, 0, 0])]
    order = LevelOrder.fit(maps, level_count=2)
    skip = level_order.P_SKIP
    expected = [
        [(1 - skip) * 2 / 4, (1 - skip) * 2 / 4, skip, 0],
        [0, (1 - skip) * 7 / 10, (1 - skip) * 3 / 10, skip],
        [0, 0, 2 / 5, 3 / 5],
        [0, 0, 0, 1],
    ]
    np.testing.assert_allclose(np.exp(order.log_transition), expected, atol=1e-12)
    np.testing.assert_allclose(np.exp(order.log_initial), [2 / 6, 2 / 6, 1 / 6, 1 / 6])


def test_skips_are_rare_and_no_transition_leads_up(order: LevelOrder) -> None:
    transition = np.exp(order.log_transition)
    assert not transition[np.tril_indices(K + 2, -1)].any()
    assert not transition[np.triu_indices(K + 2, 3)].any()
    np.testing.assert_allclose(np.diag(transition, 2), level_order.P_SKIP)
    np.testing.assert_allclose(transition.sum(axis=1), 1)


def test_confusion_favours_the_true_level(order: LevelOrder) -> None:
    confusion = np.exp(order.log_confusion)
    np.testing.assert_allclose(confusion.sum(axis=1), 1)
    assert confusion.argmax(axis=1).tolist() == list(range(K + 2))
    if_found = confusion[1:, 1:] / confusion[1:, 1:].sum(axis=1, keepdims=True)
    neighbour = level_order.P_NEIGHBOUR
    np.testing.assert_allclose(if_found[3, 2:5], [neighbour, level_order.P_CORRECT, neighbour])
    assert if_found[3, 5] < neighbour / 4


def test_fit_without_labels_raises() -> None:
    with pytest.raises(ValueError, match="no label map"):
        LevelOrder.fit([np.zeros((3, 2, 2), dtype=np.uint8)], K)


def test_order_survives_strict_json(order: LevelOrder) -> None:
    text = json.dumps(order.to_dict(), allow_nan=False)
    restored = LevelOrder.from_dict(json.loads(text))
    assert restored.level_count == K
    for name in ("log_initial", "log_transition", "log_confusion"):
        np.testing.assert_array_equal(getattr(restored, name), getattr(order, name))


@pytest.mark.parametrize(
    "change",
    [
        {"log_initial": [0.0]},
        {"log_initial": None},
        {"log_initial": [0.0] * 9},
        {"log_initial": [float("nan")] * 9},
        {"log_transition": [[0.0, 0.0], [0.0]]},
        {"log_transition": [[0.0] * 8] * 9},
        {"log_confusion": [["a"] * 9] * 9},
        {"log_confusion": [[0.0, *[None] * 8]] * 9},
    ],
)
def test_invalid_order_raises(order: LevelOrder, change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointInvalid):
        LevelOrder.from_dict({**order.to_dict(), **change})


def test_order_with_a_missing_field_raises(order: LevelOrder) -> None:
    content = order.to_dict()
    del content["log_transition"]
    with pytest.raises(CheckpointInvalid, match="log_transition"):
        LevelOrder.from_dict(content)


def test_slice_profile_is_shares_of_class_mass() -> None:
    probabilities = np.zeros((4, 2, 3, 4), dtype=np.float32)
    probabilities[0] = 1
    probabilities[2, 1, :2, :3] = 1  # six voxels of level 2
    probabilities[3, 1, 2, :2] = 0.5  # one of the class below
    np.testing.assert_allclose(level_order.slice_profile(probabilities), [[1, 0, 0, 0], [0.3, 0, 0.6, 0.1]])


def test_log_emission_is_the_mean_log_confusion(order: LevelOrder) -> None:
    profile = np.zeros((1, K + 2))
    profile[0, [3, 4]] = 0.75, 0.25
    mean = 0.75 * order.log_confusion[:, 3] + 0.25 * order.log_confusion[:, 4]
    np.testing.assert_allclose(level_order.log_emission(profile, order)[0], level_order.SLICE_WEIGHT * mean)


def test_boundary_scores_are_highest_where_slices_overlap_least() -> None:
    foreground = np.zeros((6, 2, 4), dtype=bool)
    foreground[1:3, 0] = True
    foreground[3:5, :, 0] = True
    # Overlaps with the slice before: 0, all four, one of four, both; 0 after the end.
    overlap = np.array([0, 1, 0.25, 1, 0])
    np.testing.assert_allclose(level_order.boundary_scores(foreground), [0, *(overlap.mean() - overlap)])
    assert not level_order.boundary_scores(np.zeros((3, 2, 2), dtype=bool)).any()


def ambiguous_profile() -> npt.NDArray[np.float64]:
    """Five slices of C3, ten that are equally likely to be C4 or C5, five of C6."""
    profile = np.zeros((20, K + 2))
    profile[:5, 3] = profile[15:, 6] = 1
    profile[5:15, 4:6] = 0.5
    return profile


def test_heights_decide_where_classes_are_ambiguous(order: LevelOrder) -> None:
    path, posterior = decode(ambiguous_profile(), np.zeros(20), order)
    assert path.tolist() == [3] * 5 + [4] * 5 + [5] * 5 + [6] * 5
    np.testing.assert_allclose(posterior.sum(axis=1), 1)


def test_boundary_decides_between_likely_heights(order: LevelOrder) -> None:
    boundary = np.zeros(20)
    boundary[11] = 0.5
    path, _ = decode(ambiguous_profile(), boundary, order)
    assert path[5:12].tolist() == [4] * 6 + [5]


def test_single_slice_depends_on_initial_state_and_emission_only(order: LevelOrder) -> None:
    profile = np.full((1, K + 2), 1 / (K + 2))
    _, posterior = decode(profile, np.zeros(1), order)
    expected = np.exp(order.log_initial + level_order.log_emission(profile, order)[0])
    np.testing.assert_allclose(posterior[0], expected / expected.sum())
