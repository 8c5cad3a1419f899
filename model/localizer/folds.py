"""The files of a trained localizer: one folder for each fold, with the network that was trained without it.

Each folder holds the network's weights (``localizer.safetensors``) and a description (``localizer.json``).
Their digest also covers the constants behind an answer: a study whose levels were predicted is built again
when it changes, so every constant that can change a label or a confidence is in `CONSTANTS`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from model.localizer import hmm, level_order, network, relabel
from model.localizer.level_order import LevelOrder
from model.localizer.network import FcnSettings, build_fcn
from model.output import write_file
from spine_etl import localization, volume
from spine_etl.errors import CheckpointInvalid
from spine_etl.settings import StrictModel

_WEIGHTS, _METADATA = "localizer.safetensors", "localizer.json"

ANSWERS_VERSION = 1
"""Raise it when the code changes an answer without changing a constant; a golden test notices."""

CONSTANTS: Mapping[str, float] = MappingProxyType(
    {
        "AIR_HU": volume.AIR_HU,
        "AIR_LIMIT_HU": network.AIR_LIMIT_HU,
        "BACKGROUND_VOXELS": level_order.BACKGROUND_VOXELS,
        "BOUNDARY_WEIGHT": level_order.BOUNDARY_WEIGHT,
        "CENTRE_HU": network.CENTRE_HU,
        "CUT_SHARE": relabel.CUT_SHARE,
        "DURATION_SPREAD": hmm.DURATION_SPREAD,
        "MAX_FRAGMENT_MM3": relabel.MAX_FRAGMENT_MM3,
        "MAX_GAP_MM": relabel.MAX_GAP_MM,
        "MAX_HU": network.MAX_HU,
        "MIN_COMPONENT_MM3": relabel.MIN_COMPONENT_MM3,
        "MIN_CONFIDENCE": localization.MIN_CONFIDENCE,
        "MIN_HU": network.MIN_HU,
        "OUTLIER_SHARE": hmm.OUTLIER_SHARE,
        "RELABELLED_WEIGHT": relabel.RELABELLED_WEIGHT,
        "SCALE_HU": network.SCALE_HU,
        "SLICE_WEIGHT": level_order.SLICE_WEIGHT,
    }
)
"""The constants behind an answer. Those of `LevelOrder.fit` (``P_SKIP``, ``P_CORRECT`` ...) are missing on
purpose: they act in training only, and the fitted probabilities are in each fold's metadata."""


class FoldMetadata(StrictModel):
    """The content of ``localizer.json``. It is written last: its presence marks the fold as finished."""

    fold: int
    """The fold held out from the training."""
    levels: list[str]
    """Names of the levels, head to foot: the network's classes 1..K."""
    spacing_mm: float
    """Voxel spacing of the overviews that the network reads."""
    settings: FcnSettings
    order: dict[str, Any]
    """`LevelOrder.to_dict`, fitted to the studies of the training."""
    trained_on: int
    """Number of studies in the training."""
    root_digest: str
    """Root digest of the store that the studies came from."""


@dataclass(frozen=True, eq=False)
class FoldNetwork:
    """One fold's network, in eval mode, and its order of levels."""

    metadata: FoldMetadata
    network: nn.Module
    order: LevelOrder


def save_fold(folder: Path, metadata: FoldMetadata, network: nn.Module) -> None:
    """Write a finished fold, the weights first.

    Raises
    ------
    OutputUnwritable
        If the folder cannot be written.
    """
    weights = save({name: value.cpu().contiguous() for name, value in network.state_dict().items()})
    write_file(folder / _WEIGHTS, weights)
    write_file(folder / _METADATA, (metadata.model_dump_json(indent=1) + "\n").encode())


def load_fold(folder: Path, device: torch.device) -> FoldNetwork:
    """Read a finished fold.

    Raises
    ------
    CheckpointInvalid
        If a file is missing, damaged, or does not match the other.
    """
    action = "Train this fold again, or name another localizer."
    try:
        metadata = FoldMetadata.model_validate_json((folder / _METADATA).read_bytes())
        network = build_fcn(metadata.settings, len(metadata.levels))
        network.load_state_dict(load_file(folder / _WEIGHTS))
    except (OSError, ValidationError, SafetensorError, RuntimeError) as error:
        raise CheckpointInvalid(f"{folder.name} is damaged.", action=action) from error
    return FoldNetwork(metadata, network.to(device).eval(), LevelOrder.from_dict(metadata.order))


def is_finished(folder: Path) -> bool:
    """Whether the folder contains a finished fold."""
    return (folder / _METADATA).exists()


def finished_folds(localizer: Path) -> list[Path]:
    """The folders of a localizer's finished folds, sorted by name."""
    return sorted(path.parent for path in localizer.glob(f"fold*/{_METADATA}"))


def digest_of_folds(
    folders: Sequence[Path], *, version: int = ANSWERS_VERSION, constants: Mapping[str, float] = CONSTANTS
) -> str:
    """SHA-256 over the version, the constants and the files of all folds.

    Another digest means that predictions may differ. ``version`` and ``constants`` are parameters so that
    a test can show that each of them is part of the digest.
    """
    digests = [
        (folder.name, hashlib.sha256((folder / name).read_bytes()).hexdigest())
        for folder in folders
        for name in (_METADATA, _WEIGHTS)
    ]
    content = [version, dict(constants), digests]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
