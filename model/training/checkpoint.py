"""What a run leaves behind, each file whole or not there at all.

    <run>/config.json            the resolved options and recipe
          metrics.jsonl          one line an epoch
          last.pt                all that resuming needs; last.previous.pt is the one before
          best.safetensors       weights
          model.json             what the weights are: `Model`

Weights are read with safetensors or torch's ``weights_only=True``: neither runs code from a file.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from model.networks.cnn_lstm import CnnLstm, NetworkSettings
from model.output import write_atomically, writing
from model.training.recipe import ViewSettings
from spine_etl.errors import CheckpointInvalid
from spine_etl.store import Store

STATE = {"identity", "stage", "network", "optimizer", "plateau", "source", "progress", "random"}
"""What a state to resume from holds: `model.training.stage.StageRun.state`, and whose it is."""
WEIGHTS, MODEL, LAST, PREVIOUS = "best.safetensors", "model.json", "last.pt", "last.previous.pt"
_BEFORE = f"Copy {PREVIOUS} over {LAST}, then resume."
_NEW_RUN = "Name another --out, or resume with the store and the options that this run began with."


class Model(BaseModel):
    """What the weights beside it are, and on what they were trained.

    Parameters
    ----------
    levels
        Names of the levels, in the order of the network's columns.
    fingerprint, version, root_digest, fold
        The store, and the fold of it that training never saw.
    temperature
        Logits are divided by it before they become probabilities; fitted on the validation studies.
    prevalence, weighted_prevalence
        (levels + 1) shares of positives in the training folds, plain and under the competition's weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
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


def save_weights(path: Path, network: nn.Module) -> None:
    """Write them as safetensors. Raises OutputUnwritable."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    write_atomically(path, save(tensors))


def load_weights(path: Path, network: nn.Module) -> None:
    """Fill the network from a safetensors file. Raises CheckpointInvalid where it is another one's."""
    try:
        tensors = load(path.read_bytes())
    except OSError as error:
        reason = f"{path.name} of {path.parent.name} cannot be read: {error.strerror}."
        raise CheckpointInvalid(reason) from error
    except SafetensorError as error:
        raise CheckpointInvalid(f"{path.name} is damaged or is no safetensors file.") from error
    _fill(network, tensors, path.name)


def _fill(network: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in tensors.items()}
    if wanted != given:
        key = min(key for key in wanted | given if wanted.get(key) != given.get(key))
        raise CheckpointInvalid(
            f"{name} is of another architecture: {key} is {given.get(key, 'absent')} in it,"
            f" {wanted.get(key, 'absent')} in the network."
        )
    network.load_state_dict(dict(tensors))


def load_model(run: Path, store: Store) -> tuple[CnnLstm, Model]:
    """A finished run's network, ready to predict on that store.

    Raises
    ------
    CheckpointInvalid
        If the run is not finished, its files are damaged, or it was trained on a store of another recipe.
    """
    try:
        model = Model.model_validate_json((run / MODEL).read_bytes())
    except OSError as error:
        unfinished = "Name the folder of a finished run, or finish it with --resume."
        raise CheckpointInvalid(f"{run.name} holds no {MODEL}.", action=unfinished) from error
    except ValidationError as error:
        raise CheckpointInvalid(f"{run.name}: {MODEL} is of another release or damaged.") from error
    if model.fingerprint != store.fingerprint:
        raise CheckpointInvalid(
            f"{run.name} was trained on a store with fingerprint {model.fingerprint[:12]},"
            f" this one has {store.fingerprint[:12]}."
        )
    network = CnnLstm(model.network, model.view.channels, len(model.levels))
    load_weights(run / WEIGHTS, network)
    return network.eval(), model


def save_last(run: Path, state: Mapping[str, Any]) -> None:
    """Write ``last.pt``, keeping the one before it as ``last.previous.pt``. Raises OutputUnwritable."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    last = run / LAST
    if last.exists():
        # A link and not a rename: at no moment is there no last.pt.
        link = run / f".{PREVIOUS}.writing"
        with writing(run / PREVIOUS):
            link.unlink(missing_ok=True)
            os.link(last, link)
            link.replace(run / PREVIOUS)
    write_atomically(last, buffer.getvalue())


def load_last(run: Path) -> dict[str, Any]:
    """The state that `save_last` wrote. Raises CheckpointInvalid if there is none or it is damaged."""
    path = run / LAST
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        reason = f"{LAST} of {run.name} cannot be read: {error.strerror}."
        raise CheckpointInvalid(reason, action="Train without --resume.") from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        raise CheckpointInvalid(f"{LAST} is damaged.", action=_BEFORE) from error
    if not isinstance(state, dict) or STATE - state.keys():
        raise CheckpointInvalid(f"{LAST} is of another release.", action="Train into another --out.")
    return state


def check_identity(run: Path, state: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raise CheckpointInvalid if the state is of another store, version or recipe than ``identity``."""
    for name, began, now in _differences(state["identity"], identity):
        raise CheckpointInvalid(f"{run.name} began with {name} {began}, not {now}.", action=_NEW_RUN)


def _differences(found: Any, wanted: Any, name: str = "") -> Iterator[tuple[str, object, object]]:
    """Name, value found and value wanted of all that is not alike in two trees of plain values."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in wanted:
            yield from _differences(found.get(key), wanted[key], f"{name}.{key}" if name else key)
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for index, pair in enumerate(zip(found, wanted, strict=True)):
            yield from _differences(*pair, f"{name}[{index}]")
    elif found != wanted:
        yield name, found, wanted


def load_trunk_weights(path: Path, trunk: nn.Module) -> None:
    """Fill a slice encoder's ResNet from a file under torchvision's key names; its fc is left aside.

    Where the file's first layer has another number of input channels, each of ours gets the mean over the
    file's, scaled so that a picture repeated in all channels gives what it gave.

    Raises
    ------
    CheckpointInvalid
        If the file cannot be read without running code from it, or is of another architecture.
    """
    tensors = {key: value for key, value in _read_tensors(path).items() if not key.startswith("fc.")}
    own = trunk.state_dict()
    for key in own.keys() - tensors.keys():
        if key.endswith("num_batches_tracked"):  # files older than that counter
            tensors[key] = own[key]
    first, wanted = tensors.get("conv1.weight"), own["conv1.weight"].shape[1]
    if first is not None and first.dim() == 4 and first.shape[1] != wanted:
        tensors["conv1.weight"] = first.mean(dim=1, keepdim=True).repeat(1, wanted, 1, 1) * (
            first.shape[1] / wanted
        )
    _fill(trunk, tensors, path.name)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(tensors, dict) and all(isinstance(value, Tensor) for value in tensors.values()):
            return tensors
    except OSError as error:
        reason = f"{path.name} cannot be read: {error.strerror}."
        raise CheckpointInvalid(reason, action="Check --weights.") from error
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise CheckpointInvalid(f"{path.name} is damaged or holds more than weights.") from error
    raise CheckpointInvalid(f"{path.name} holds something else than a table of weights.")
