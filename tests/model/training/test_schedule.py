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


def plateau(patience: int) -> LearningRate:
    return LearningRate(optimizer(), STAGE.model_copy(update={"schedule": "plateau", "patience": patience}))


@pytest.mark.parametrize("patience", [1, 2, 30])
@pytest.mark.parametrize("later", [1.0, 1.5, 0.99995], ids=["equal", "higher", "hardly lower"])
def test_plateau_halves_after_so_many_epochs_without_a_lower_loss(patience: int, later: float) -> None:
    """After ``n`` epochs without a lower loss the rate is 0.2 / 2^(n // patience), also if resumed."""
    rate, resumed = plateau(patience), plateau(patience)
    rate.after_epoch(1.0)
    resumed.after_epoch(1.0)
    for epochs in range(1, 3 * patience + 1):
        rate.after_epoch(later)
        before, resumed = resumed, plateau(patience)
        resumed.optimizer.load_state_dict(before.optimizer.state_dict())
        resumed.load_state_dict(before.state_dict())
        resumed.after_epoch(later)
        assert rate.value == resumed.value == pytest.approx(0.2 / 2 ** (epochs // patience))


@pytest.mark.parametrize("patience", [1, 2, 30])
def test_lower_loss_starts_the_plateaus_count_again(patience: int) -> None:
    """A loss is lower if it is more than 0.01 % below the lowest."""
    rate = plateau(patience)
    for loss in (1.0, *[1.0] * (patience - 1), 0.9998, *[0.9998] * (patience - 1)):
        rate.after_epoch(loss)
        assert rate.value == 0.2
    rate.after_epoch(0.9998)
    assert rate.value == pytest.approx(0.1)


def test_plateau_ignores_the_share_of_samples_and_the_cosine_the_losses() -> None:
    rate = plateau(1)
    rate.before_step(0.01)
    assert rate.value == 0.2
    cosine = LearningRate(optimizer(), STAGE)
    for _ in range(3):
        cosine.after_epoch(1.0)
    assert cosine.value == 0.2


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.2, 0.5, 0.9])
def test_warmup_cosine_is_torchs_linear_then_cosine(warmup: float) -> None:
    """At every step of 100 even ones, where step k comes after the share k / 100."""
    steps, rising = 100, round(100 * warmup)
    schedule = torch.optim.lr_scheduler
    factors = []
    if rising:
        used = optimizer()
        linear = schedule.LinearLR(used, start_factor=1 / rising, total_iters=rising - 1)
        for _ in range(rising):
            factors.append(used.param_groups[0]["lr"] / 0.2)
            used.step()
            linear.step()
    used = optimizer()
    cosine = schedule.CosineAnnealingLR(used, T_max=steps - rising)
    for _ in range(steps - rising):
        used.step()
        cosine.step()
        factors.append(used.param_groups[0]["lr"] / 0.2)
    found = [warmup_cosine(step / steps, warmup) for step in range(1, steps + 1)]
    assert found == pytest.approx(factors, abs=1e-9)


@pytest.mark.parametrize(
    ("share", "warmup", "factor"),
    [
        (0.0, 0.25, 0.0),
        (0.125, 0.25, 0.5),
        (0.25, 0.25, 1.0),
        (0.5, 0.25, 0.75),  # a third of the way down: (1 + cos 60 degrees) / 2
        (0.625, 0.25, 0.5),
        (0.75, 0.25, 0.25),
        (1.0, 0.25, 0.0),
        (1.1, 0.25, 0.0),
        (0.0, 0.0, 1.0),
        (1 / 3, 0.0, 0.75),
    ],
)
def test_warmup_cosine_in_closed_form(share: float, warmup: float, factor: float) -> None:
    assert warmup_cosine(share, warmup) == pytest.approx(factor, abs=1e-12)
