"""Localizers whose weights are random, not trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from model.localizer.folds import FoldMetadata, save_fold
from model.localizer.level_order import LevelOrder
from model.localizer.network import build_fcn
from model.localizer.training import SETTINGS
from spine_etl.recipe import Recipe


def save_untrained_fold(localizer: Path, recipe: Recipe, fold: int = 0, seed: int = 0) -> None:
    """Write a finished fold with random weights into a localizer's folder."""
    torch.manual_seed(seed)
    count = len(recipe.levels)
    slices = np.repeat([count + 1, *range(count, 0, -1), 0], 4)
    labels = slices[:, None, None] * np.ones((1, 3, 3), np.int64)
    metadata = FoldMetadata(
        fold=fold,
        levels=list(recipe.levels),
        spacing_mm=recipe.overview.spacing_mm,
        settings=SETTINGS,
        order=LevelOrder.fit([labels], count).to_dict(),
        trained_on=1,
        root_digest="",
    )
    save_fold(localizer / f"fold{fold}", metadata, build_fcn(SETTINGS, count))
