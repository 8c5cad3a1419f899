"""The checkpoints of a stage: when they are due, what resumes from them, and none after a fault."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spine_etl.errors import LossNotFinite
from tests.model.training.line import (
    RULES,
    STUDIES,
    TARGETS,
    batches,
    cosine_rates,
    stage,
    stage_run,
    steps_by_hand,
)


@pytest.mark.parametrize("rules", ["adamw", "uneven batches", "clipped adam"])
def test_resumed_weights_are_those_of_the_steps_in_numpy(rules: str, tmp_path: Path) -> None:
    """From every checkpoint, of which there is one after each step."""
    settings, states = RULES[rules], []

    def copied(state: dict[str, Any]) -> None:
        torch.save(state, tmp_path / f"{len(states)}.pt")
        states.append(state["progress"]["step"])

    stage_run(settings, tmp_path, save=copied, save_every=1).train()
    expected = steps_by_hand(settings, cosine_rates(settings))
    assert states == list(range(1, len(batches(settings.epochs, settings.batch_size)) + 1))
    for number in range(len(states)):
        resumed = stage_run(settings, tmp_path)
        resumed.load_state(torch.load(tmp_path / f"{number}.pt", weights_only=True))
        resumed.train()
        np.testing.assert_allclose(resumed.network.weights(), expected, rtol=1e-6)


def test_resumed_stage_compares_with_the_lowest_loss_before_it(tmp_path: Path) -> None:
    losses, states = [2.0, 1.0, 1.5, 1.2], []

    def copied(state: dict[str, Any]) -> None:
        torch.save(state, tmp_path / f"{len(states)}.pt")
        states.append(state["source"]["epoch"])

    stage_run(stage(), tmp_path, losses=losses, save=copied, save_every=5).train()
    assert states == [1, 2, 3, 4]
    (tmp_path / "best.safetensors").unlink()
    resumed = stage_run(stage(), tmp_path, losses=losses)
    resumed.load_state(torch.load(tmp_path / "1.pt", weights_only=True))
    resumed.train()
    assert not (tmp_path / "best.safetensors").exists()  # epochs 2 and 3 are no better than epoch 1
    assert (resumed.progress.best_loss, resumed.progress.best_epoch) == (1.0, 1)


@pytest.mark.parametrize(
    ("save_every", "steps"),
    [
        (1, list(range(1, 11))),
        (2, [2, 4, 6, 8, 10]),
        (3, [3, 6, 9, 10]),
        (4, [4, 8, 10]),
        (5, [5, 10]),
        (6, [6, 10]),
        (1000, [10]),
    ],
)
def test_checkpoints_are_so_many_steps_apart_and_one_is_at_the_end(
    save_every: int, steps: list[int], tmp_path: Path
) -> None:
    """Two epochs of five steps."""
    saved: list[int] = []
    run = stage_run(
        stage(epochs=2), tmp_path, save=lambda state: saved.append(state["progress"]["step"]),
        save_every=save_every,
    )  # fmt: skip
    run.train()
    assert saved == steps


@pytest.mark.parametrize(("seconds", "steps"), [(100.0, [3, 6, 9, 10]), (99.9, [4, 8, 10]), (300.0, None)])
def test_slow_steps_are_saved_every_five_minutes(
    seconds: float, steps: list[int] | None, tmp_path: Path
) -> None:
    """Each step takes that long; 300 seconds after a checkpoint, the next is due."""
    now, saved = [0.0], []
    run = stage_run(
        stage(epochs=2), tmp_path, save=lambda state: saved.append(state["progress"]["step"]),
        clock=lambda: now[0],
    )  # fmt: skip

    def pass_time(*_: Any) -> None:
        now[0] += seconds

    run.optimizer.register_step_post_hook(pass_time)
    run.train()
    assert saved == (steps or list(range(1, 11)))


@pytest.mark.parametrize("batch_size", [2, 3, 10])
@pytest.mark.parametrize("study", range(0, STUDIES, 3))
def test_loss_that_is_not_finite_names_its_step_and_its_studies(
    batch_size: int, study: int, tmp_path: Path
) -> None:
    targets = TARGETS.copy()
    targets[study] = math.inf
    steps = batches(1, batch_size)
    fault = next(step for step, studies in enumerate(steps) if study in studies)
    names = ", ".join(f"1.{index}" for index in steps[fault])
    saved: list[int] = []
    run = stage_run(
        stage(batch_size=batch_size), tmp_path, targets=targets, save_every=1,
        save=lambda state: saved.append(state["progress"]["step"]),
    )  # fmt: skip
    with pytest.raises(LossNotFinite) as caught:
        run.train()
    assert str(caught.value).find(f"loss of step {fault} is inf; its batch had the studies {names}.") >= 0
    assert saved == list(range(1, fault + 1))  # nothing after the fault


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_validation_loss_that_is_not_finite_keeps_nothing(loss: float, tmp_path: Path) -> None:
    saved: list[int] = []
    run = stage_run(
        stage(), tmp_path, losses=[1.0, loss], save_every=5, save=lambda state: saved.append(1)
    )  # fmt: skip
    with pytest.raises(LossNotFinite, match=f"validation loss of epoch 2 is {loss}"):
        run.train()
    assert saved == [1]
    assert run.progress.best_epoch == 0
