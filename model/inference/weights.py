"""A network's weights in a file, and the description that says what they are.

    <run>/best.safetensors       weights
          model.json             their `ModelDescription`, written when the run has finished

Weights are read with safetensors or torch's ``weights_only=True``: neither runs code from a file.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from model.data.views import ViewSettings
from model.inference.metrics import FloatArray
from model.networks.cnn_lstm import CnnLstm, NetworkSettings
from model.output import write_file
from spine_etl.errors import CheckpointInvalid
from spine_etl.settings import StrictModel
from spine_etl.store import Store
from spine_etl.windows import SOFT_TISSUE

WEIGHTS, MODEL = "best.safetensors", "model.json"

_MIN_PROBABILITY = 0.01
"""Bound of a constant: a level never fractured in the training folds may still be fractured."""


class ModelDescription(StrictModel):
    """What a run's weights are, and which data they were trained on.

    Parameters
    ----------
    format
        Format 1 was trained on a soft-tissue window of center 50 and width 350 HU, format 2 on
        `spine_etl.windows.SOFT_TISSUE`. Only the view ``windows`` shows the network that window.
    levels
        Names of the levels, in the order of the network's columns.
    fingerprint, version, root_digest, fold
        The store, and its fold that was held out from training.
    temperature
        Divides the logits before they become probabilities; fitted on the validation studies.
    prevalence, weighted_prevalence
        (levels + 1) shares of positives in the training folds: plain, and under the competition's weights.
    """

    format: Literal[1, 2] = 2
    recipe: str
    network: NetworkSettings
    view: ViewSettings
    levels: list[str]
    fingerprint: str
    version: int
    root_digest: str
    fold: int
    temperature: float
    prevalence: list[float]
    weighted_prevalence: list[float]


def constant_prediction(models: Sequence[ModelDescription]) -> FloatArray:
    """(levels + 1,): the probabilities where nothing is located, for one or several runs.

    They are the mean weighted prevalence of the runs' training folds, the best constant there is, but never
    less than 1 % nor more than 99 %.
    """
    mean: FloatArray = np.mean([model.weighted_prevalence for model in models], axis=0)
    return mean.clip(_MIN_PROBABILITY, 1 - _MIN_PROBABILITY)


def save_weights(path: Path, network: nn.Module) -> None:
    """Write the network's parameters and buffers as safetensors. Raises OutputUnwritable."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    write_file(path, save(tensors))


def load_weights(path: Path, network: nn.Module) -> None:
    """Fill the network from a safetensors file.

    Raises
    ------
    CheckpointInvalid
        If the file cannot be read, is damaged, or belongs to another architecture.
    """
    try:
        tensors = load(path.read_bytes())
    except OSError as error:
        reason = f"{path.name} of {path.parent.name} cannot be read: {error.strerror}."
        raise CheckpointInvalid(reason) from error
    except SafetensorError as error:
        raise CheckpointInvalid(f"{path.name} is damaged or not a safetensors file.") from error
    _load_state(network, tensors, path.name)


def _load_state(network: nn.Module, tensors: Mapping[str, Tensor], file_name: str) -> None:
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    if expected != found:
        key = min(key for key in expected | found if expected.get(key) != found.get(key))
        raise CheckpointInvalid(
            f"{file_name} belongs to another architecture: {key} is {found.get(key, 'absent')} in the file,"
            f" {expected.get(key, 'absent')} in the network."
        )
    network.load_state_dict(dict(tensors))


def load_model(run: Path, store: Store) -> tuple[CnnLstm, ModelDescription]:
    """Load a finished run's network, in eval mode on the CPU, to predict on ``store``.

    Raises
    ------
    CheckpointInvalid
        If the run has not finished, its files are damaged, it was trained on a store of another recipe, or
        its network was trained on a soft-tissue window that this release no longer makes.
    """
    description = _load_description(run)
    if description.fingerprint != store.fingerprint:
        raise CheckpointInvalid(
            f"{run.name} was trained on a store with fingerprint {description.fingerprint[:12]},"
            f" this one has {store.fingerprint[:12]}."
        )
    network = CnnLstm(description.network, description.view.channels, len(description.levels))
    load_weights(run / WEIGHTS, network)
    return network.eval(), description


def _load_description(run: Path) -> ModelDescription:
    try:
        description = ModelDescription.model_validate_json((run / MODEL).read_bytes())
    except OSError as error:
        unfinished = "Name the folder of a finished run, or finish it with --resume."
        raise CheckpointInvalid(f"{run.name} has no {MODEL}.", action=unfinished) from error
    except ValidationError as error:
        raise CheckpointInvalid(f"{run.name}: {MODEL} is damaged or from another release.") from error
    if description.format == 1 and description.view.kind == "windows":
        raise CheckpointInvalid(
            f"{run.name} was trained on a soft-tissue window of center 50 width 350 HU;"
            f" this release shows the network a {SOFT_TISSUE}.",
            action="Train it again with this release, or predict with the release that trained it.",
        )
    return description


def load_trunk_weights(path: Path, trunk: nn.Module) -> None:
    """Fill a slice encoder's ResNet from a file with torchvision's key names, ignoring the file's fc.

    If the file's first layer has a different number of input channels, each of ours gets the mean over the
    file's, scaled so that an image repeated in all channels gives the same output.

    Raises
    ------
    CheckpointInvalid
        If the file cannot be read without running code from it, or belongs to another architecture.
    """
    tensors = {key: value for key, value in _read_tensors(path).items() if not key.startswith("fc.")}
    state = trunk.state_dict()
    for key in state.keys() - tensors.keys():
        if key.endswith("num_batches_tracked"):  # absent from files older than that counter
            tensors[key] = state[key]
    first, channels = tensors.get("conv1.weight"), state["conv1.weight"].shape[1]
    if first is not None and first.dim() == 4 and first.shape[1] != channels:
        tensors["conv1.weight"] = first.mean(dim=1, keepdim=True).repeat(1, channels, 1, 1) * (
            first.shape[1] / channels
        )
    _load_state(trunk, tensors, path.name)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        reason = f"{path.name} cannot be read: {error.strerror}."
        raise CheckpointInvalid(reason, action="Check --weights.") from error
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise CheckpointInvalid(f"{path.name} is damaged or contains more than weights.") from error
    if isinstance(tensors, dict) and all(isinstance(value, Tensor) for value in tensors.values()):
        return tensors
    raise CheckpointInvalid(f"{path.name} is not a state dict: expected a dict of tensors.")
