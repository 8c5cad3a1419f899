"""A training ends with the same weights however it is interrupted, and resumes only what it started."""

from __future__ import annotations

import itertools
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim.optimizer import register_optimizer_step_pre_hook

from model.options import TrainOptions
from model.training.checkpoint import LAST, PREVIOUS
from model.training.run import run_training
from spine_etl.errors import CheckpointInvalid
from spine_etl.store import Store
from tests.model.training.runs import (
    AUGMENTED,
    JOINT,
    ONE_THREAD,
    TWO_STAGES,
    command,
    lines,
    location,
    recipe,
    same_weights,
)


def stop_after(steps: int, options: TrainOptions) -> None:
    """Interrupt a training, as Ctrl-C does, when the optimizer is called for the step after these."""
    calls = itertools.count(1)

    def interrupt(*_: Any) -> None:
        if next(calls) > steps:
            raise KeyboardInterrupt

    hook = register_optimizer_step_pre_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_training(options)
    finally:
        hook.remove()


@pytest.mark.parametrize(
    "text", [JOINT.format(dropout=0.3, augment=AUGMENTED), TWO_STAGES], ids=["joint", "two-stages"]
)
@pytest.mark.parametrize("stop_at", [1, 3, 4, 7])
def test_resumed_run_ends_with_the_same_weights(
    tiny_store: Store, tmp_path: Path, text: str, stop_at: int
) -> None:
    uninterrupted, stopped = tmp_path / "uninterrupted", tmp_path / "stopped"
    options = TrainOptions(
        location(tiny_store), uninterrupted, recipe=recipe(tmp_path, text), device="cpu", save_every=2
    )
    run_training(options)
    stop_after(stop_at, replace(options, out=stopped))
    torch.manual_seed(12345)  # as in a new process
    run_training(replace(options, out=stopped, resume=True))
    assert same_weights(uninterrupted, stopped)
    assert lines(uninterrupted) == lines(stopped)
    epochs = [(0, 0), (0, 1), (0, 2)] if text != TWO_STAGES else [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert [(line["stage"], line["epoch"]) for line in lines(stopped)] == epochs
    assert (uninterrupted / "model.json").read_text() == (stopped / "model.json").read_text()


def test_run_resumed_from_the_previous_state_ends_with_the_same_weights(
    tiny_store: Store, tmp_path: Path, two_stages: str
) -> None:
    """As the error for a damaged last.pt advises, in a stage that has replaced its initial weights."""
    uninterrupted, stopped = tmp_path / "uninterrupted", tmp_path / "stopped"
    options = TrainOptions(
        location(tiny_store), uninterrupted, recipe=two_stages, device="cpu", save_every=1000
    )
    run_training(options)
    steps = lines(uninterrupted)[1]["step"]  # steps of the first stage
    stop_after(steps + 3, replace(options, out=stopped))
    assert [line["stage"] for line in lines(stopped)] == [0, 0, 1]
    (stopped / PREVIOUS).replace(stopped / LAST)
    run_training(replace(options, out=stopped, resume=True))
    assert same_weights(uninterrupted, stopped)
    assert lines(uninterrupted) == lines(stopped)


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's curves without the measured times."""
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    return {
        name: [(event.step, event.value) for event in board.Scalars(name)]
        for name in board.Tags()["scalars"]
        if not name.endswith(("seconds", "wait_share"))
    }


@pytest.mark.parametrize("stop_at", [2, 5, 9])
def test_tensorboard_of_a_resumed_run_equals_that_of_an_uninterrupted_one(
    tiny_store: Store, tmp_path: Path, two_stages: str, stop_at: int
) -> None:
    uninterrupted, stopped = tmp_path / "uninterrupted", tmp_path / "stopped"
    options = TrainOptions(location(tiny_store), uninterrupted, recipe=two_stages, device="cpu", save_every=1)
    run_training(options)
    assert [step for step, _ in curves(uninterrupted)["stage0/train_loss"]] == [
        line["step"] for line in lines(uninterrupted) if line["stage"] == 0
    ]
    stop_after(stop_at, replace(options, out=stopped))
    run_training(replace(options, out=stopped, resume=True))
    assert curves(stopped) == curves(uninterrupted)


@pytest.mark.integration
def test_killed_and_resumed_run_ends_with_the_same_weights(
    tiny_store: Store, tmp_path: Path, joint: str
) -> None:
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    options = TrainOptions(location(tiny_store), uninterrupted, recipe=joint, device="cpu", save_every=1)
    run_training(options)
    options = replace(options, out=killed)
    process = subprocess.Popen(command(options), env=ONE_THREAD, stdout=subprocess.DEVNULL)
    while not (killed / "metrics.jsonl").exists() or not (killed / "metrics.jsonl").read_text():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "model.json").exists()
    run_training(replace(options, resume=True))
    assert same_weights(uninterrupted, killed)
    assert lines(uninterrupted) == lines(killed)


def test_leftover_files_of_a_killed_run_are_removed(tiny_store: Store, tmp_path: Path, joint: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in (".last.pt.0123abcd.writing", ".last.previous.pt.writing", "notes.writing"):
        (run / name).touch()
    options = TrainOptions(location(tiny_store), run, recipe=joint, epochs=1, device="cpu")
    run_training(options)
    assert [path.name for path in run.glob("*.writing")] + [path.name for path in run.glob(".*.writing")] == [
        "notes.writing"
    ]
    (run / ".best.safetensors.0123abcd.writing").touch()
    run_training(replace(options, resume=True))
    assert not list(run.glob(".*.writing"))


def test_run_started_with_another_soft_tissue_window_is_not_resumed(
    tiny_store: Store, tmp_path: Path, two_stages: str
) -> None:
    options = TrainOptions(location(tiny_store), tmp_path / "run", recipe=two_stages, epochs=1, device="cpu")
    run_training(options)
    state = torch.load(options.out / LAST, weights_only=True)
    windows = [[400, 1800], [150, 700], [50, 350]]
    torch.save({**state, "identity": {**state["identity"], "windows": windows}}, options.out / LAST)
    with pytest.raises(CheckpointInvalid, match=r"windows\[2\]\[0\] 50, not 40"):
        run_training(replace(options, resume=True))
    old = {name: value for name, value in state["identity"].items() if name != "windows"}
    torch.save({**state, "identity": old}, options.out / LAST)
    with pytest.raises(CheckpointInvalid, match="windows None, not"):
        run_training(replace(options, resume=True))


def test_run_is_neither_overwritten_nor_resumed_with_other_options(
    tiny_store: Store, tmp_path: Path, joint: str, build_store: Callable[..., Store]
) -> None:
    options = TrainOptions(location(tiny_store), tmp_path / "run", recipe=joint, device="cpu", epochs=1)
    run_training(options)
    with pytest.raises(CheckpointInvalid, match="already"):
        run_training(options)
    with pytest.raises(CheckpointInvalid, match=r"recipe\.stages\[0\]\.epochs 1, not 2"):
        run_training(replace(options, resume=True, epochs=2))
    with pytest.raises(CheckpointInvalid, match="fold"):
        run_training(replace(options, resume=True, fold=1))
    other = build_store(tmp_path / "other", 15)
    with pytest.raises(CheckpointInvalid, match="root_digest"):
        run_training(replace(options, resume=True, store=location(other)))
    (options.out / LAST).unlink()  # a user may delete it to save space
    with pytest.raises(CheckpointInvalid, match="already"):
        run_training(options)


def test_run_resumes_with_the_store_version_it_started_with(
    tmp_path: Path, joint: str, build_store: Callable[..., Store]
) -> None:
    """A nightly build may have committed a newer version in the meantime."""
    store = build_store(tmp_path / "store", 12)
    uninterrupted = TrainOptions(
        location(store), tmp_path / "uninterrupted", recipe=joint, device="cpu", save_every=2
    )
    run_training(uninterrupted)
    options = replace(uninterrupted, out=tmp_path / "run")
    stop_after(3, options)
    newer = build_store(tmp_path / "store", 15)
    assert (newer.version, len(newer)) == (2, 15)
    assert run_training(replace(options, resume=True)).version == 1
    assert same_weights(uninterrupted.out, options.out)
