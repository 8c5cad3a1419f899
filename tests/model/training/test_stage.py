"""The rules of a stage: its steps in numpy, the epoch it keeps, its checkpoints, and its errors.

The network is a line, y = w . x + b, so every expected weight comes from the steps that numpy takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from model.distributed import Ranks
from model.training.cached_features import CachedBatches, CachedFeatures
from model.training.losses import Term
from model.training.recipe import Stage
from model.training.runlog import RunLog
from model.training.stage import StageRun
from spine_etl.errors import LossNotFinite

STUDIES, SEED = 10, 7
FEATURES = np.random.default_rng(0).normal(size=(STUDIES, 2))
TARGETS = FEATURES @ [3.0, -2.0] + 1.0
START = np.array([0.5, 0.25, -0.75])
"""The weights w and the bias b before the first step."""


class Line(nn.Module):
    """y = w . x + b, and a part that the objective does not train."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(2, 1, dtype=torch.float64)
        self.fixed = nn.Linear(1, 1)
        with torch.no_grad():
            self.line.weight.copy_(torch.tensor(START[None, :2]))
            self.line.bias.fill_(START[2])
        self.start_of_fixed = self.fixed.weight.item()

    def weights(self) -> np.ndarray:
        return torch.cat([self.line.weight[0], self.line.bias]).detach().numpy().copy()


class HalfSquares:
    """factor * sum of (y - target)^2 / 2, divided by the number of studies."""

    def __init__(self, network: Line, factor: float = 1.0) -> None:
        self.trained = network.line
        self.factor = factor

    def steps(self, inputs: CachedFeatures, seed: int) -> Iterator[CachedFeatures]:
        yield inputs

    def terms(self, module: nn.Module, inputs: CachedFeatures) -> list[Term]:
        total = (module(inputs.features)[:, 0] - inputs.labels).square().sum() / 2
        return [Term(total, torch.tensor(float(len(inputs.labels))), self.factor)]


def stage(**fields: Any) -> Stage:
    known = {"objective": "sequence", "epochs": 4, "batch_size": 2, "learning_rate": 0.1, "warmup": 0.2}
    return Stage.model_validate({**known, **fields})


def stage_run(
    settings: Stage,
    folder: Path,
    *,
    losses: list[float] | Callable[[Line], float] | None = None,
    factor: float = 1.0,
    targets: np.ndarray = TARGETS,
    **fields: Any,
) -> StageRun:
    """A stage of the line; ``losses`` are those of the validations, 1.0 by default."""
    network = Line()
    fields_of_studies = CachedFeatures(
        torch.tensor(FEATURES), *(torch.zeros(STUDIES),) * 2, torch.tensor(targets), torch.ones(STUDIES)
    )
    source = CachedBatches(
        fields_of_studies, np.arange(STUDIES), batch_size=settings.batch_size, seed=SEED, ranks=Ranks()
    )

    def validate() -> float:
        if callable(losses):
            return losses(network)
        return losses[source.epoch - 1] if losses else 1.0

    known: dict[str, Any] = {
        "index": 0, "stage": settings, "network": network, "objective": HalfSquares(network, factor),
        "source": source, "inputs": lambda batch: batch.fields, "measure_batch_norms": lambda: None,
        "validate": validate, "save": lambda state: None, "save_every": 1000,
        "device": torch.device("cpu"), "ranks": Ranks(), "bf16": False,
        "log": RunLog(folder, enabled=False, first_epoch=(0, 0)), "run": folder,
        "uids": [f"1.{study}" for study in range(STUDIES)],
    }  # fmt: skip
    return StageRun(**known | fields)


def batches(epochs: int, batch_size: int) -> list[np.ndarray]:
    """The studies of each step: a permutation per epoch, drawn by numpy from the seed and the epoch."""
    orders = [np.random.default_rng([SEED, epoch]).permutation(STUDIES) for epoch in range(epochs)]
    return [order[at : at + batch_size] for order in orders for at in range(0, STUDIES, batch_size)]


def cosine_rates(settings: Stage) -> list[float]:
    """The rate of each step: linear to the full rate over the warm-up, then half a cosine to zero."""
    rates, done = [], 0
    for studies in batches(settings.epochs, settings.batch_size):
        done += len(studies)
        share = done / (STUDIES * settings.epochs)
        fallen = (share - settings.warmup) / (1 - settings.warmup)
        factor = share / settings.warmup if fallen < 0 else (1 + math.cos(math.pi * fallen)) / 2
        rates.append(settings.learning_rate * factor)
    return rates


def steps_by_hand(settings: Stage, rates: list[float], factor: float = 1.0) -> np.ndarray:
    """The weights after all steps.

    Kingma and Ba 2015, algorithm 1; Loshchilov and Hutter 2019, algorithm 2. When clipping, torch adds 1e-6
    to the norm.
    """
    weights, first, second = START.copy(), np.zeros(3), np.zeros(3)
    steps = zip(batches(settings.epochs, settings.batch_size), rates, strict=True)
    for count, (studies, rate) in enumerate(steps, start=1):
        columns = np.column_stack([FEATURES[studies], np.ones(len(studies))])
        gradient = factor * columns.T @ (columns @ weights - TARGETS[studies]) / len(studies)
        norm = np.sqrt((gradient**2).sum())
        if settings.clip_norm is not None and norm > settings.clip_norm:
            gradient *= settings.clip_norm / (norm + 1e-6)
        if settings.optimizer == "adamw":
            weights = weights * (1 - rate * settings.weight_decay)
        else:
            gradient = gradient + settings.weight_decay * weights
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = first / (1 - 0.9**count), second / (1 - 0.999**count)
        weights = weights - rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    return weights


RULES = {
    "adamw": stage(weight_decay=0.1),
    "adam": stage(optimizer="adam", weight_decay=0.1),
    "uneven batches": stage(batch_size=3),
    "clipped": stage(clip_norm=0.5, weight_decay=0.1),
    "clipped adam": stage(optimizer="adam", clip_norm=0.5, weight_decay=0.1),
    "one batch, no warm-up": stage(batch_size=10, warmup=0.0),
}


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
