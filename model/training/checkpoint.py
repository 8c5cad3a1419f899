"""The state that a training resumes from: ``last.pt`` in the run's folder, and the one before it.

States are read with torch's ``weights_only=True``, which runs no code from the file.
"""

from __future__ import annotations

import io
import os
import pickle
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.output import write_errors, write_file
from spine_etl.atomic import TEMPORARY_SUFFIX
from spine_etl.errors import CheckpointInvalid

LAST, PREVIOUS = "last.pt", "last.previous.pt"
STATE_KEYS = {"identity", "stage", "network", "optimizer", "plateau", "source", "progress", "random"}
"""Keys of a state: those of `model.training.stage.StageRun.state`, and the run's identity."""


def save_last(run: Path, state: Mapping[str, Any]) -> None:
    """Write ``last.pt`` and keep the one before it as ``last.previous.pt``. Raises OutputUnwritable."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    last = run / LAST
    if last.exists():
        # Link, do not rename: a last.pt must exist at every moment.
        link = run / f".{PREVIOUS}{TEMPORARY_SUFFIX}"
        with write_errors(run / PREVIOUS):
            link.unlink(missing_ok=True)
            os.link(last, link)
            link.replace(run / PREVIOUS)
    write_file(last, buffer.getvalue())


def load_last(run: Path) -> dict[str, Any]:
    """Load the state that `save_last` wrote. Raises CheckpointInvalid if it is absent or damaged."""
    path = run / LAST
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        reason = f"{LAST} of {run.name} cannot be read: {error.strerror}."
        raise CheckpointInvalid(reason, action="Train without --resume.") from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        action = f"Copy {PREVIOUS} over {LAST}, then resume."
        raise CheckpointInvalid(f"{LAST} is damaged.", action=action) from error
    if not isinstance(state, dict) or STATE_KEYS - state.keys():
        raise CheckpointInvalid(f"{LAST} is from another release.", action="Train into another --out.")
    return state


def check_identity(run: Path, state: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raise CheckpointInvalid if the state's store, version, recipe or number of ranks differs."""
    for name, before, now in _differences(state["identity"], identity):
        raise CheckpointInvalid(
            f"{run.name} started with {name} {before}, not {now}.",
            action="Name another --out, or resume with the store and the options that the run started with.",
        )


def _differences(found: Any, expected: Any, name: str = "") -> Iterator[tuple[str, object, object]]:
    """Name, found value and expected value of each difference between two trees of plain values."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in expected:
            yield from _differences(found.get(key), expected[key], f"{name}.{key}" if name else key)
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for index, pair in enumerate(zip(found, expected, strict=True)):
            yield from _differences(*pair, f"{name}[{index}]")
    elif found != expected:
        yield name, found, expected


def random_states(device: torch.device) -> dict[str, Any]:
    """States of all random generators that a training step may draw from."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - libraries may draw from it
    states = {
        "python": random.getstate(),
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Set all generators to the states that `random_states` returned."""
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
