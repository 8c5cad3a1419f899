"""A trained localizer: from the overview of a study to where its vertebrae are, and how sure that is.

A run's folder holds one network for each fold that was held out, and beside each what the hidden Markov
model has learnt of the vertebrae's order. A study that trained none of them is seen by all, and their
probabilities are averaged; one that has a mask is scored by the network that never saw it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from model.localizer.level_order import LevelOrder
from model.localizer.network import FcnSettings, build_fcn, class_probabilities, label_of_class
from model.localizer.relabel import Relabelled, relabel
from model.output import write_atomically
from spine_etl.errors import CheckpointInvalid
from spine_etl.localization import Localization
from spine_etl.recipe import Recipe

_WEIGHTS, _ABOUT = "localizer.safetensors", "localizer.json"


class Fold(BaseModel):
    """What one network is: written last, so its presence says that the fold is finished.

    ``levels`` and ``spacing_mm`` say which overviews it can read; ``fold`` was held out from its training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fold: int
    levels: list[str]
    spacing_mm: float
    settings: FcnSettings
    order: dict[str, Any]
    trained_on: int
    root_digest: str


@dataclass(frozen=True, eq=False)
class Member:
    """One fold's network, in eval mode, and its order of levels."""

    about: Fold
    network: nn.Module
    order: LevelOrder


def save_member(folder: Path, about: Fold, network: nn.Module) -> None:
    """Write a finished fold; the weights first.

    Raises
    ------
    OutputUnwritable
        If the folder cannot be written.
    """
    weights = save({name: value.cpu().contiguous() for name, value in network.state_dict().items()})
    write_atomically(folder / _WEIGHTS, weights)
    write_atomically(folder / _ABOUT, (about.model_dump_json(indent=1) + "\n").encode())


def is_finished(folder: Path) -> bool:
    return (folder / _ABOUT).exists()


class Localizer:
    """All networks of a run.

    Parameters
    ----------
    run
        The folder that a training left.
    device
        Where the networks are.

    Raises
    ------
    CheckpointInvalid
        If the folder holds no finished fold, or one that cannot be read.
    """

    def __init__(self, run: Path, device: torch.device | str = "cpu") -> None:
        self.run, self.device = run, torch.device(device)
        folders = sorted(path.parent for path in run.glob(f"fold*/{_ABOUT}"))
        if not folders:
            raise CheckpointInvalid(
                f"{run.name} holds no trained localizer.", action="Name the --out of model.localize train."
            )
        self.members = [_load_member(folder, self.device) for folder in folders]
        self.digest = _digest_of(folders)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process loads it from its folder, once: a worker is sent its name, not its weights."""
        return loaded, (str(self.run.absolute()),)

    def of_fold(self, fold: int) -> Member:
        """The member that never saw the studies of that fold. Raises CheckpointInvalid if there is none."""
        for member in self.members:
            if member.about.fold == fold:
                return member
        raise CheckpointInvalid(f"the localizer has no network that held out fold {fold}.")

    def check(self, recipe: Recipe) -> None:
        """Raises CheckpointInvalid if the recipe is another one than that of the training."""
        for member in self.members:
            _check_fits(member.about, recipe)

    def localize(self, image: npt.NDArray[np.int16], recipe: Recipe) -> Localization:
        """The levels of one study that no network was trained on.

        Parameters
        ----------
        image
            int16 HU (z, y, x): the study's overview on the recipe's grid.
        recipe
            Its overview's spacing and its levels must be those of the training.

        Raises
        ------
        CheckpointInvalid
            If the recipe is another one.
        """
        probabilities = self.probabilities(image, recipe, self.members)
        found = mended(probabilities, recipe, self.members[0].order)
        return Localization(
            labels=label_of_class(recipe)[found.labels],
            confidence=dict(zip(recipe.levels, found.confidence.tolist(), strict=True)),
        )

    def probabilities(
        self, image: npt.NDArray[np.int16], recipe: Recipe, members: Sequence[Member]
    ) -> npt.NDArray[np.float32]:
        """float32 (K + 2, z, y, x): the mean of the members' class probabilities."""
        self.check(recipe)
        volume = torch.from_numpy(np.ascontiguousarray(image)).to(self.device)
        seen: list[Tensor] = [
            class_probabilities(member.network, volume, member.about.settings.multiple) for member in members
        ]
        mean: npt.NDArray[np.float32] = torch.stack(seen).mean(dim=0).cpu().numpy()
        return mean


def mended(probabilities: npt.NDArray[np.float32], recipe: Recipe, order: LevelOrder) -> Relabelled:
    """What the hidden Markov model makes of class probabilities (K + 2, z, y, x)."""
    return relabel(probabilities.argmax(axis=0), probabilities, order, recipe.overview.spacing_mm)


@cache
def loaded(run: str) -> Localizer:
    """The localizer of a folder, once a process, on a GPU where there is one. Raises CheckpointInvalid."""
    return Localizer(Path(run), "cuda" if torch.cuda.is_available() else "cpu")


def _check_fits(about: Fold, recipe: Recipe) -> None:
    if about.levels != list(recipe.levels) or about.spacing_mm != recipe.overview.spacing_mm:
        raise CheckpointInvalid(
            f"the localizer was trained for {', '.join(about.levels)} at {about.spacing_mm} mm, the recipe"
            f" has {', '.join(recipe.levels)} at {recipe.overview.spacing_mm} mm."
        )


def _load_member(folder: Path, device: torch.device) -> Member:
    action = "Train it anew, or name another run."
    try:
        about = Fold.model_validate_json((folder / _ABOUT).read_bytes())
        network = build_fcn(about.settings, len(about.levels))
        network.load_state_dict(load_file(folder / _WEIGHTS))
    except (OSError, ValidationError, SafetensorError, RuntimeError) as error:
        raise CheckpointInvalid(f"{folder.name} is damaged.", action=action) from error
    return Member(about, network.to(device).eval(), LevelOrder.from_dict(about.order))


def _digest_of(folders: Sequence[Path]) -> str:
    """SHA-256 over all weights and what is said of them: what a study's row depends on."""
    digests = [
        (folder.name, hashlib.sha256((folder / name).read_bytes()).hexdigest())
        for folder in folders
        for name in (_ABOUT, _WEIGHTS)
    ]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()
