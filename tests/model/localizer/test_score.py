"""The localizer's score, against closed forms and a store whose crops were made from true masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

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
