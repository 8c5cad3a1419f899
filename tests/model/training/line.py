"""A stage that trains a line, y = w . x + b, and the weights after its steps, taken in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from model.distributed import Ranks
from model.training.cached_features import CachedBatches, CachedFeatures
from model.training.losses import Term
from model.training.recipe import Stage
from model.training.runlog import RunLog
from model.training.stage import StageRun

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
