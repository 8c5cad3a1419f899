"""Learning-rate schedules.

torch's own schedulers cannot serve for the cosine: they count steps or epochs, and the number of steps in an
epoch varies where slices are thinned, so the position is the share of samples done. The one that accepts
fractions, `CosineAnnealingWarmRestarts`, has no warm-up and is back at the full rate at the last sample.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from model.training.recipe import Stage


class LearningRate:
    """Sets the optimizer's learning rate as the stage's schedule asks."""

    def __init__(self, optimizer: torch.optim.Optimizer, stage: Stage) -> None:
        self.optimizer = optimizer
        self.stage = stage
        # torch's patience counts the epochs that it ignores: it acts on the one after them.
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=0.5, patience=stage.patience - 1
        )

    @property
    def value(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def before_step(self, share_done: float) -> None:
        """Set the rate of the next step, after ``share_done`` (0 to 1) of the stage's samples."""
        if self.stage.schedule == "cosine":
            for group in self.optimizer.param_groups:
                group["lr"] = self.stage.learning_rate * warmup_cosine(share_done, self.stage.warmup)

    def after_epoch(self, validation_loss: float) -> None:
        if self.stage.schedule == "plateau":
            self.plateau.step(validation_loss)

    def state_dict(self) -> dict[str, Any]:
        """The plateau's state; the cosine has none, and the rate itself is in the optimizer's."""
        return self.plateau.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.plateau.load_state_dict(state)


def warmup_cosine(share_done: float, warmup: float) -> float:
    """Factor on the learning rate after ``share_done`` (0 to 1) of all samples.

    It rises linearly from 0 to 1 over ``warmup``, then falls to 0 along a half cosine (Loshchilov and Hutter
    2017, "SGDR").
    """
    if share_done < warmup:
        return share_done / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (share_done - warmup) / (1 - warmup))))
