"""Learning-rate schedules, against their closed forms."""

from __future__ import annotations

import pytest
import torch

from model.training.recipe import Stage
from model.training.schedule import LearningRate, warmup_cosine

STAGE = Stage(objective="joint", epochs=4, batch_size=1, learning_rate=0.2, warmup=0.1, patience=1)


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=STAGE.learning_rate)


def test_warmup_cosine_rises_linearly_and_falls_to_zero() -> None:
    assert [warmup_cosine(share, 0.1) for share in (0.0, 0.05, 0.1)] == pytest.approx([0, 0.5, 1])
    assert warmup_cosine(0.55, 0.1) == pytest.approx(0.5)
    assert warmup_cosine(1.0, 0.1) == pytest.approx(0)


def test_cosine_follows_the_share_of_samples() -> None:
    rate = LearningRate(optimizer(), STAGE)
    rate.before_step(0.55)
    assert rate.value == pytest.approx(0.1)
    rate.after_epoch(1.0)
    assert rate.value == pytest.approx(0.1)


def test_plateau_halves_the_rate_after_its_patience() -> None:
    rate = LearningRate(optimizer(), STAGE.model_copy(update={"schedule": "plateau"}))
    values = []
    for loss in (1.0, 1.0, 1.0, 0.5):
        rate.before_step(0.0)
        rate.after_epoch(loss)
        values.append(rate.value)
    assert values == pytest.approx([0.2, 0.2, 0.1, 0.1])


def test_plateau_resumes_its_count() -> None:
    stage = STAGE.model_copy(update={"schedule": "plateau"})
    first = LearningRate(optimizer(), stage)
    for loss in (1.0, 1.0):
        first.after_epoch(loss)
    resumed = LearningRate(optimizer(), stage)
    resumed.load_state_dict(first.state_dict())
    resumed.after_epoch(1.0)
    assert resumed.value == pytest.approx(0.1)
