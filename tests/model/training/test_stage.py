"""The rules of a stage: its steps in numpy, its learning rates, the epoch it keeps, and what it logs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from model.training.recipe import Stage
from model.training.runlog import RunLog
from model.training.stage import StageRun
from tests.model.training.line import (
    FEATURES,
    RULES,
    START,
    TARGETS,
    Line,
    batches,
    cosine_rates,
    stage,
    stage_run,
    steps_by_hand,
)


@pytest.mark.parametrize("settings", RULES.values(), ids=RULES)
def test_weights_are_those_of_the_steps_in_numpy(settings: Stage, tmp_path: Path) -> None:
    run = stage_run(settings, tmp_path)
    run.train()
    expected = steps_by_hand(settings, cosine_rates(settings))
    np.testing.assert_allclose(run.network.weights(), expected, rtol=1e-6)
    assert run.network.fixed.weight.item() == run.network.start_of_fixed


def test_epsilon_counts_where_gradients_are_as_small(tmp_path: Path) -> None:
    settings = stage(optimizer="adam")
    run = stage_run(settings, tmp_path, factor=1e-8)
    run.train()
    expected = steps_by_hand(settings, cosine_rates(settings), factor=1e-8)
    np.testing.assert_allclose(run.network.weights(), expected, rtol=1e-5)


def seen_rates(run: StageRun) -> list[float]:
    """Filled with the rate of each step that the optimizer takes."""
    rates: list[float] = []
    run.optimizer.register_step_pre_hook(lambda used, *_: rates.append(used.param_groups[0]["lr"]))
    return rates


@pytest.mark.parametrize("warmup", [0.1, 0.2, 0.5])
def test_rates_of_a_stage_are_those_of_torchs_linear_and_cosine(warmup: float, tmp_path: Path) -> None:
    run = stage_run(stage(warmup=warmup), tmp_path)
    rates = seen_rates(run)
    run.train()
    steps = 20  # 4 epochs of 10 studies, 2 in a batch
    rising = round(warmup * steps)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = torch.optim.lr_scheduler
    linear = schedule.LinearLR(optimizer, start_factor=1 / rising, total_iters=rising - 1)
    cosine = schedule.CosineAnnealingLR(optimizer, T_max=steps - rising)
    expected = []
    both = schedule.SequentialLR(optimizer, [linear, cosine], milestones=[rising - 1])
    for _ in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        both.step()
    assert len(rates) == steps
    np.testing.assert_allclose(rates, expected, atol=1e-12)


def test_plateau_halves_in_the_step_after_its_patience_also_when_resumed(tmp_path: Path) -> None:
    """Two epochs without a lower loss, then the next epoch's steps have half the rate."""
    settings = stage(schedule="plateau", patience=2, epochs=7, batch_size=5)
    losses = [1.0, 0.5, 0.5, 0.6, 0.4, 0.7, 0.7]
    expected = np.repeat([0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05], 2)
    states: list[Path] = []

    def copied(state: dict[str, Any]) -> None:
        states.append(tmp_path / f"{len(states)}.pt")
        torch.save(state, states[-1])

    run = stage_run(settings, tmp_path, losses=losses, save=copied, save_every=1)
    rates = seen_rates(run)
    run.train()
    np.testing.assert_allclose(rates, expected)
    assert run.learning_rate.value == pytest.approx(0.025)
    for taken, path in enumerate(states, start=1):
        resumed = stage_run(settings, tmp_path, losses=losses)
        resumed.load_state(torch.load(path, weights_only=True))
        rates = seen_rates(resumed)
        resumed.train()
        np.testing.assert_allclose(rates, expected[taken:])
        assert resumed.learning_rate.value == pytest.approx(0.025)


def numbered(losses: list[float]) -> Callable[[Line], float]:
    """A validation that writes its number into the weights and returns the next of the losses."""
    numbers = iter(range(len(losses)))

    def validate(network: Line) -> float:
        number = next(numbers)
        with torch.no_grad():
            network.fixed.weight.fill_(number)
        return losses[number]

    return validate


@pytest.mark.parametrize(
    ("losses", "keep", "kept"),
    [
        ([3.0, 1.0, 2.0, 1.5], "best", 1),
        ([3.0, 2.0, 1.5, 1.0], "best", 3),
        ([1.0, 2.0, 3.0, 4.0], "best", 0),
        ([2.0, 1.0, 1.0, 3.0], "best", 1),  # of equal losses, the earlier
        ([2.0, 1.0, 0.99999, 3.0], "best", 2),
        ([2.0, -1.0, 0.0, 3.0], "best", 1),
        ([1.0, 2.0, 3.0, 4.0], "last", 3),
        ([4.0, 1.0, 2.0, 3.0], "last", 3),
    ],
)
def test_kept_weights_are_those_of_the_lowest_validation_loss(
    losses: list[float], keep: str, kept: int, tmp_path: Path
) -> None:
    run = stage_run(stage(keep=keep), tmp_path, losses=numbered(losses))
    run.train()
    assert load_file(tmp_path / "best.safetensors")["fixed.weight"].item() == kept
    assert (run.progress.best_loss, run.progress.best_epoch) == (min(losses), losses.index(min(losses)))


def test_last_weights_are_written_when_the_stage_ends(tmp_path: Path) -> None:
    """Until then the folder has those of the stage before."""

    def validate(_: Line) -> float:
        assert not (tmp_path / "best.safetensors").exists()
        return 1.0

    stage_run(stage(keep="last"), tmp_path, losses=validate).train()
    assert (tmp_path / "best.safetensors").exists()


def test_kept_weights_are_those_that_were_validated(tmp_path: Path) -> None:
    """After the epoch's last step and with its batch norms measured, and not of a later step."""
    order, validated = [], []

    def measure(network: list[Line]) -> None:
        order.append("measure")
        with torch.no_grad():
            network[0].fixed.bias.fill_(len(order))

    def validate(network: Line) -> float:
        order.append("validate")
        validated.append((network.weights(), network.fixed.bias.item()))
        return [5.0, 2.0, 4.0, 3.0][len(validated) - 1]

    networks: list[Line] = []
    run = stage_run(
        stage(), tmp_path, losses=validate, measure_batch_norms=lambda: measure(networks)
    )  # fmt: skip
    networks.append(run.network)
    run.train()
    assert order == ["measure", "validate"] * 4
    assert [bias for _, bias in validated] == [1, 3, 5, 7]
    kept = load_file(tmp_path / "best.safetensors")
    assert kept["line.weight"][0].tolist() == validated[1][0][:2].tolist()
    assert kept["fixed.bias"].item() == 3
    short = steps_by_hand(stage(epochs=2), cosine_rates(stage())[:10])
    np.testing.assert_allclose(validated[1][0], short, rtol=1e-6)


def test_logged_training_loss_is_the_mean_of_the_epochs_steps(tmp_path: Path) -> None:
    """With a rate of almost zero the weights stay, so the steps' losses are those of the initial weights."""
    lines: list[dict[str, Any]] = []

    class Lines(RunLog):
        def epoch(self, values: dict[str, Any]) -> None:
            lines.append(values)

    log = Lines(tmp_path, enabled=False, first_epoch=(0, 0))
    settings = stage(learning_rate=1e-12, batch_size=3, epochs=2)
    stage_run(settings, tmp_path, log=log, losses=[2.0, 1.0]).train()
    errors = (FEATURES @ START[:2] + START[2] - TARGETS) ** 2 / 2
    means = np.array([errors[studies].mean() for studies in batches(2, 3)]).reshape(2, 4).mean(axis=1)
    assert [line["train_loss"] for line in lines] == pytest.approx(means.tolist())
    assert [(line["epoch"], line["step"], line["validation_loss"]) for line in lines] == [
        (0, 4, 2.0),
        (1, 8, 1.0),
    ]


def test_gradients_are_clipped_only_where_asked(tmp_path: Path) -> None:
    for clip_norm in (None, 1e-3):
        norms: list[float] = []
        run = stage_run(stage(clip_norm=clip_norm), tmp_path)

        def note(_: Any, *__: Any, run: StageRun = run, norms: list[float] = norms) -> None:
            gradients: list[Tensor] = [p.grad for p in run.network.line.parameters() if p.grad is not None]
            norms.append(math.sqrt(sum(float(g.square().sum()) for g in gradients)))

        run.optimizer.register_step_pre_hook(note)
        run.train()
        if clip_norm is None:
            first = batches(1, 2)[0]
            columns = np.column_stack([FEATURES[first], np.ones(2)])
            gradient = columns.T @ (columns @ START - TARGETS[first]) / 2
            assert norms[0] == pytest.approx(np.linalg.norm(gradient))
        else:
            np.testing.assert_allclose(norms, 1e-3, rtol=1e-2)
