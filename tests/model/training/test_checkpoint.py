"""The state to resume from: the last two are kept, and only this run's own state is accepted."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from model.training.checkpoint import (
    LAST,
    PREVIOUS,
    STATE_KEYS,
    check_identity,
    load_last,
    random_states,
    restore_random_states,
    save_last,
)
from spine_etl.errors import CheckpointInvalid

IDENTITY = {"version": 1, "root_digest": "ab"}


def state(**more: object) -> dict[str, object]:
    """A state with every key."""
    return {**dict.fromkeys(STATE_KEYS), "identity": IDENTITY, **more}


def test_last_two_states_are_kept(tmp_path: Path) -> None:
    for step in range(3):
        save_last(tmp_path, state(step=step))
    assert load_last(tmp_path)["step"] == 2
    (tmp_path / PREVIOUS).replace(tmp_path / LAST)
    assert load_last(tmp_path)["step"] == 1


def test_state_of_another_store_is_refused(tmp_path: Path) -> None:
    check_identity(tmp_path, state(), IDENTITY)
    with pytest.raises(CheckpointInvalid, match="root_digest ab, not cd"):
        check_identity(tmp_path, state(), IDENTITY | {"root_digest": "cd"})


def test_damaged_state_is_refused_with_the_previous_one_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match="without --resume"):
        load_last(tmp_path)
    save_last(tmp_path, state(weights=torch.zeros(100)))
    path = tmp_path / LAST
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointInvalid, match=PREVIOUS):
        load_last(tmp_path)
    save_last(tmp_path, {"identity": IDENTITY})
    with pytest.raises(CheckpointInvalid, match="another release"):
        load_last(tmp_path)


class CreatesFile:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("executed"),)


def test_loading_a_state_executes_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"identity": IDENTITY, "code": CreatesFile()}, tmp_path / LAST)
    with pytest.raises(CheckpointInvalid):
        load_last(tmp_path)
    assert not Path("executed").exists()
    with (tmp_path / LAST).open("wb") as file:
        pickle.dump([1], file, protocol=2)
    with pytest.raises(CheckpointInvalid):
        load_last(tmp_path)


def test_restored_generators_repeat_their_numbers() -> None:
    device = torch.device("cpu")
    states = random_states(device)

    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002

    first = drawn()
    assert drawn() != first
    restore_random_states(states, device)
    assert drawn() == first
