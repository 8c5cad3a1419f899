"""The result of a localizer."""

from __future__ import annotations

import numpy as np

from spine_etl.localization import Localization
from spine_etl.recipe import load_recipe


def test_levels_are_kept_from_a_confidence_of_one_half_on() -> None:
    recipe = load_recipe("quick")
    labels = np.array([[[0, 1, 2, 3, 4, 5, 6, 7, 8]]], np.uint8)
    confidence = dict.fromkeys(recipe.levels, 0.0) | {"C1": 0.5, "C2": 0.4999, "C7": 1.0}
    kept = Localization(labels, confidence).confident_labels(recipe)
    assert kept.tolist() == [[[0, 1, 0, 0, 0, 0, 0, 7, 0]]]  # 8 is T1, which has no confidence
    assert kept.dtype == np.uint8
    assert labels.tolist() == [[[0, 1, 2, 3, 4, 5, 6, 7, 8]]]
