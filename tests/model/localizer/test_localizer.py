"""A trained localizer: averaging, labels and confidences, and its pickled form."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from model.localizer.localizer import Localizer
from spine_etl.errors import CheckpointInvalid
from spine_etl.store import Store
from tests.model.localizer.untrained import save_untrained_fold


def test_probabilities_are_averaged_over_folds(tiny_store: Store, tmp_path: Path) -> None:
    recipe = tiny_store.recipe
    for fold in (0, 2):
        save_untrained_fold(tmp_path, recipe, fold, seed=fold)
    localizer = Localizer(tmp_path)
    image = tiny_store.read("overview/image", 0)
    single = [
        localizer.mean_probabilities(image, recipe, [localizer.trained_without(fold)]) for fold in (0, 2)
    ]
    both = localizer.mean_probabilities(image, recipe, localizer.folds)
    np.testing.assert_allclose(both, (single[0] + single[1]) / 2, atol=1e-6)
    assert not np.allclose(single[0], single[1])
    with pytest.raises(CheckpointInvalid, match="held out fold 1"):
        localizer.trained_without(1)


def test_labels_are_the_recipes_and_every_level_has_a_confidence(tiny_store: Store, tmp_path: Path) -> None:
    save_untrained_fold(tmp_path, tiny_store.recipe)
    localization = Localizer(tmp_path).localize(tiny_store.read("overview/image", 0), tiny_store.recipe)
    assert localization.labels.dtype == np.uint8
    assert set(np.unique(localization.labels)) <= {0, *tiny_store.recipe.levels.values()}
    assert set(localization.confidence) == set(tiny_store.recipe.levels)


def test_pickle_contains_the_path_only(tiny_store: Store, tmp_path: Path) -> None:
    save_untrained_fold(tmp_path, tiny_store.recipe)
    localizer = Localizer(tmp_path)
    pickled = pickle.dumps(localizer)
    assert len(pickled) < 1000
    restored = pickle.loads(pickled)  # noqa: S301 - our own bytes
    assert restored.digest == localizer.digest
    image = tiny_store.read("overview/image", 1)
    expected = localizer.localize(image, tiny_store.recipe)
    np.testing.assert_array_equal(restored.localize(image, tiny_store.recipe).labels, expected.labels)


def test_folder_without_a_finished_fold_raises(tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match="no trained localizer"):
        Localizer(tmp_path)


def test_other_levels_raise(tiny_store: Store, tmp_path: Path) -> None:
    save_untrained_fold(tmp_path, tiny_store.recipe)
    other = tiny_store.recipe.model_copy(update={"levels": {"C1": 1, "C3": 2}})
    with pytest.raises(CheckpointInvalid, match="C1, C3"):
        Localizer(tmp_path).check_recipe(other)
