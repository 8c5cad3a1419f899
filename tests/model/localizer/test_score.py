"""The localizer's score, against closed forms and a store whose crops were made from true masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import dice as dice_dissimilarity

from model.localizer.network import class_of_label
from model.localizer.score import StudyScore, centres, crop_distances, dice, identified, summary
from spine_etl.phantom import write_phantom
from spine_etl.pipeline import process_study
from spine_etl.recipe import load_recipe
from spine_etl.source.layout import discover_studies
from spine_etl.store.writer import StoreWriter


def test_centres_and_dice_in_closed_form() -> None:
    truth, predicted = np.zeros((10, 10, 10), int), np.zeros((10, 10, 10), int)
    truth[2:4, 0:5, 0:5], predicted[3:5, 0:5, 0:5] = 1, 1
    truth[8, 0, 0] = 2
    np.testing.assert_allclose(centres(truth, 3, 2.0), [[5, 4, 4], [16, 0, 0], [np.nan] * 3])
    np.testing.assert_allclose(dice(truth, predicted, 3), [0.5, 0.0, np.nan])


def test_identified_level_is_close_and_closest() -> None:
    truth = np.array([[0.0, 0, 0], [18.0, 0, 0], [60.0, 0, 0], [90.0, 0, 0]])
    predicted = np.array([[8.0, 0, 0], [7.0, 0, 0], [81.0, 0, 0], [np.nan] * 3])
    assert identified(truth, predicted).tolist() == [True, False, False, False]
    assert identified(truth, np.full((4, 3), np.nan)).tolist() == [False] * 4


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_centres_and_dice_are_those_of_scipy(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth, predicted = random.integers(0, 5, (2, 3, 4, 5))
    centre_of = ndimage.center_of_mass(np.ones(truth.shape), truth, [1, 2, 3])
    found = centres(truth, 3, 3.0)
    np.testing.assert_allclose(found, 3 * np.array(centre_of), rtol=1e-12)
    for level, value in enumerate(dice(truth, predicted, 3), start=1):
        expected = 1 - dice_dissimilarity((truth == level).ravel(), (predicted == level).ravel())
        assert value == pytest.approx(expected)


@pytest.mark.parametrize("shift", range(-9, 10))
def test_dice_of_a_shifted_cuboid_falls_linearly(shift: int) -> None:
    """Of 8 slices, 8 - |shift| are in both."""
    truth, predicted = np.zeros((30, 4, 5), int), np.zeros((30, 4, 5), int)
    truth[11:19], predicted[11 + shift : 19 + shift] = 1, 1
    assert dice(truth, predicted, 1)[0] == pytest.approx(max(0, 8 - abs(shift)) / 8)


@pytest.mark.parametrize(
    ("error_mm", "neighbour_mm", "is_identified"),
    [
        (20.0, 100.0, True),
        (20.001, 100.0, False),
        (-20.0, 100.0, True),
        (-20.001, 100.0, False),
        (14.999, 30.0, True),
        (15.001, 30.0, False),  # the neighbour's true centre is nearer
        (15.0, 30.0, True),  # as near
    ],
)
def test_level_is_identified_up_to_20_mm(error_mm: float, neighbour_mm: float, is_identified: bool) -> None:
    truth = np.array([[0.0, 5, 5], [neighbour_mm, 5, 5]])
    predicted = np.array([[error_mm, 5, 5], [np.nan] * 3])
    assert identified(truth, predicted).tolist() == [is_identified, False]
    # The distance is that of all three axes: 12, 16 and 0 make 20.
    oblique = np.array([[0.6 * error_mm, 5 + 0.8 * error_mm, 5], [np.nan] * 3])
    alone = np.array([[0.0, 5, 5], [np.nan] * 3])
    if abs(error_mm) not in (15.0, 20.0):  # not to depend on rounding
        assert identified(alone, oblique)[0] == (abs(error_mm) < 20)


def test_rate_is_over_the_levels_of_all_studies() -> None:
    """One study with three levels of which two are identified, and one with its only one: 3 of 4."""
    spine = np.array([[0.0, 0, 0], [30.0, 0, 0], [60.0, 0, 0]])
    rest = np.ones(3), np.zeros((1, 1, 1), int)
    one_wrong, only_last = spine.copy(), spine.copy()
    one_wrong[2] += 21.0
    only_last[:2] = np.nan
    dices = np.array([0.9, 0.6, 0.2]), np.array([np.nan, np.nan, 0.8])
    first = StudyScore(spine, one_wrong, dices[0], *rest)
    second = StudyScore(only_last, only_last + np.array([0, 3.0, 4.0]), dices[1], *rest)
    nothing = [
        StudyScore(s.true_centres, np.full((3, 3), np.nan), s.dice * 0, *rest) for s in (first, second)
    ]
    figures = summary([(first, nothing[0]), (second, nothing[1])])
    assert figures["identification_rate"] == 0.75
    assert figures["hmm_gain"] == 0.75
    assert figures["dice_levels"] == [0.9, 0.6, 0.5]
    assert figures["dice_mean"] == pytest.approx((0.9 + 0.6 + 0.5) / 3, abs=1e-4)
    assert figures["centre_error_mm"] == pytest.approx((0 + 0 + 21 * 3**0.5 + 5) / 4, abs=1e-4)
    assert figures["without_hmm"]["centre_error_mm"] is None
    assert figures["without_hmm"]["identification_rate"] == 0


def test_summary_counts_levels_and_gain() -> None:
    truth = np.array([[0.0, 0, 0], [30.0, 0, 0], [np.nan] * 3])
    swapped = truth[[1, 0, 2]]
    dices, no_dices = np.array([0.9, 0.7, np.nan]), np.array([0.0, 0.0, np.nan])
    rest = np.ones(3), np.zeros((1, 1, 1), int)
    right = StudyScore(truth, truth + 3.0, dices, *rest)
    wrong = StudyScore(truth, swapped, no_dices, *rest)
    with_false_level = StudyScore(truth, np.nan_to_num(truth + 3.0), np.array([0.9, 0.7, 0.0]), *rest)
    figures = summary([(right, wrong), (with_false_level, wrong)])
    assert figures["identification_rate"] == 1.0
    assert figures["hmm_gain"] == 1.0
    assert figures["dice_mean"] == pytest.approx(0.8)
    assert figures["centre_error_mm"] == pytest.approx(3 * 3**0.5, abs=1e-3)
    assert (figures["false_levels"], figures["levels"], figures["studies"]) == (1, 4, 2)
    json.dumps(figures, allow_nan=False)


def test_crop_distances_of_true_classes_are_small(tmp_path: Path) -> None:
    """A phantom's coarse true masks would be cropped almost where the store's crops are."""
    write_phantom(tmp_path / "source", 1, 3, size=96, slices=80, masked_share=1)
    recipe = load_recipe("quick")
    writer = StoreWriter(tmp_path / "store", recipe)
    (study,) = discover_studies(tmp_path / "source", list(recipe.levels))
    store = writer.commit([process_study(study, writer)])
    classes = class_of_label(recipe)[store.read("overview/mask", 0)]
    distances = crop_distances(store, 0, classes)
    assert len(distances) >= 5
    assert max(distances.values()) < recipe.overview.spacing_mm
    shifted = crop_distances(store, 0, np.roll(classes, 2, axis=1))
    for level, distance in shifted.items():
        assert distance == pytest.approx(6.0, abs=distances[level] + 1e-6)
