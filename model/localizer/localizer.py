"""A trained localizer: finds the vertebrae in a study's overview, and gives each a confidence.

It consists of one network for each fold that was held out, with the order of levels fitted to the same
studies. For a study outside the training the probabilities of all networks are averaged; a study with a
segmentation is scored by the one network that was trained without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model.localizer.folds import FoldMetadata, FoldNetwork, digest_of_folds, finished_folds, load_fold
from model.localizer.level_order import LevelOrder
from model.localizer.network import class_probabilities, label_of_class
from model.localizer.relabel import Relabelled, relabel
from spine_etl.errors import CheckpointInvalid
from spine_etl.localization import Localization
from spine_etl.recipe import Recipe


class Localizer:
    """The networks of all finished folds in a folder.

    Parameters
    ----------
    folder
        The ``--out`` of ``model.localize train``.
    device
        Device of the networks.

    Raises
    ------
    CheckpointInvalid
        If the folder contains no finished fold, or one that cannot be read.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        self.folder, self.device = folder, torch.device(device)
        fold_folders = finished_folds(folder)
        if not fold_folders:
            raise CheckpointInvalid(
                f"{folder.name} contains no trained localizer.",
                action="Pass the --out folder of model.localize train.",
            )
        self.folds = [load_fold(fold_folder, self.device) for fold_folder in fold_folders]
        self.digest = digest_of_folds(fold_folders)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path only: the receiving process loads the weights from the folder, once."""
        return cached_localizer, (str(self.folder.absolute()),)

    def trained_without(self, fold: int) -> FoldNetwork:
        """The network trained without the studies of ``fold``. Raises CheckpointInvalid if there is none."""
        for network in self.folds:
            if network.metadata.fold == fold:
                return network
        raise CheckpointInvalid(f"the localizer has no network that held out fold {fold}.")

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise CheckpointInvalid if levels or overview spacing differ from those of the training."""
        for network in self.folds:
            _check_recipe(network.metadata, recipe)

    def localize(self, image: npt.NDArray[np.int16], recipe: Recipe) -> Localization:
        """Find the levels of a study that none of the networks was trained on.

        Parameters
        ----------
        image
            int16 HU (z, y, x): the study's overview on the recipe's grid.
        recipe
            The recipe of that overview; its levels and overview spacing must be those of the training.

        Raises
        ------
        CheckpointInvalid
            If the recipe differs from that of the training.
        """
        probabilities = self.mean_probabilities(image, recipe, self.folds)
        result = relabel_prediction(probabilities, recipe, self.folds[0].order)
        return Localization(
            labels=label_of_class(recipe)[result.labels],
            confidence=dict(zip(recipe.levels, result.confidence.tolist(), strict=True)),
        )

    def mean_probabilities(
        self, image: npt.NDArray[np.int16], recipe: Recipe, folds: Sequence[FoldNetwork]
    ) -> npt.NDArray[np.float32]:
        """float32 (K + 2, z, y, x): class probabilities of an overview, averaged over ``folds``."""
        self.check_recipe(recipe)
        volume = torch.from_numpy(np.ascontiguousarray(image)).to(self.device)
        per_fold = [
            class_probabilities(fold.network, volume, fold.metadata.settings.multiple) for fold in folds
        ]
        mean: npt.NDArray[np.float32] = torch.stack(per_fold).mean(dim=0).cpu().numpy()
        return mean


def relabel_prediction(
    probabilities: npt.NDArray[np.float32], recipe: Recipe, order: LevelOrder
) -> Relabelled:
    """`relabel` of the most probable classes of an overview; ``probabilities`` is (K + 2, z, y, x)."""
    return relabel(probabilities.argmax(axis=0), probabilities, order, recipe.overview.spacing_mm)


@cache
def cached_localizer(folder: str) -> Localizer:
    """Load a localizer once for each process, on a GPU if there is one. Raises CheckpointInvalid."""
    return Localizer(Path(folder), "cuda" if torch.cuda.is_available() else "cpu")


def _check_recipe(metadata: FoldMetadata, recipe: Recipe) -> None:
    if metadata.levels != list(recipe.levels) or metadata.spacing_mm != recipe.overview.spacing_mm:
        raise CheckpointInvalid(
            f"the localizer was trained for {', '.join(metadata.levels)} at {metadata.spacing_mm} mm, the"
            f" recipe has {', '.join(recipe.levels)} at {recipe.overview.spacing_mm} mm."
        )
