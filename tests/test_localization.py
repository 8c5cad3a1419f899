"""The result of a localizer."""

from __future__ import annotations

import numpy as np

from spine_etl.localization import MIN_CONFIDENCE, Localization
from spine_etl.recipe import load_recipe


def test_only_confident_levels_are_kept() -> None:
    recipe = load_recipe("quick")
    labels = np.array([[[0, *recipe.levels.values()]]], np.uint8)
    confidence = dict.fromkeys(recipe.levels, 0.0) | {"C1": MIN_CONFIDENCE, "C2": MIN_CONFIDENCE - 0.01}
    kept = Localization(labels, confidence).confident_labels(recipe)
    assert kept.tolist() == [[[0, recipe.levels["C1"], 0, 0, 0, 0, 0, 0]]]
