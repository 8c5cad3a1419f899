"""One stage of a training: epochs of steps, a validation after each, checkpoints between.

Everything that decides what comes next is in `StageRun.state`: a run that is killed and resumed takes the
same steps, to the last bit on a CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.data.loader import Batches
from model.distributed import Ranks, spread, summed
from model.inference.weights import WEIGHTS, save_weights
from model.networks.cnn_lstm import CnnLstm
from model.training.cached_features import EncodedBatches
from model.training.checkpoint import random_states, restore_random_states
from model.training.losses import Term
from model.training.objectives import Objective
from model.training.recipe import Stage
from model.training.runlog import RunLog
from spine_etl.errors import LossNotFinite

_LONGEST_S = 300.0
"""A checkpoint is due after so many seconds, however few steps they were."""


@dataclass
class Progress:
    """How far a stage has come: counters and sums, all plain numbers."""

    step: int = 0
    saved_step: int = 0
    best_loss: float = math.inf
    best_epoch: int = -1
    losses: float = 0.0
    steps_in_epoch: int = 0
    seconds: float = 0.0


@dataclass(eq=False)
class StageRun:
    """A stage at work.

    Parameters
    ----------
    index, stage
        Which stage it is, and its settings.
    source
        Batches; iterating goes on from where it stands to the end of the epoch.
    inputs
        What a batch becomes before the objective feeds on it.
    settle
        Makes the network fit to be validated and kept; called on every rank.
    validate
        The validation loss of the network as it is; called on the first rank.
    save
        Called with `state` where a checkpoint is due.
    """

    index: int
    stage: Stage
    network: CnnLstm
    objective: Objective
    source: Batches | EncodedBatches
    inputs: Callable[[Any], Any]
    settle: Callable[[], None]
    validate: Callable[[], float]
    save: Callable[[dict[str, Any]], None]
    save_every: int
    device: torch.device
    ranks: Ranks
    bf16: bool
    log: RunLog
    run: Path
    uids: list[str]
    progress: Progress = field(default_factory=Progress)
    _pending: tuple[Tensor, Tensor, int] | None = None
    _saved_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.module = spread(self.objective.trained, self.device, self.ranks)
        parameters = self.objective.trained.parameters()
        kind = torch.optim.AdamW if self.stage.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = kind(
            parameters, lr=self.stage.learning_rate, betas=(0.9, 0.999), eps=1e-8,
            weight_decay=self.stage.weight_decay,
        )  # fmt: skip
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, factor=0.5, patience=self.stage.patience
        )

    def go(self) -> None:
        """Train to the last epoch, then leave the weights that the stage is to keep."""
        while self.source.epoch < self.stage.epochs:
            self._epoch()
        if self.stage.keep == "last" and self.ranks.first:
            save_weights(self.run / WEIGHTS, self.network)

    def _epoch(self) -> None:
        epoch = self.source.epoch
        self._train_mode()
        began = time.monotonic()
        for batch in self.source:
            for feed in self.objective.feeds(self.inputs(batch), int(batch.seed.sum())):
                self._step(feed, batch.study)
                self._show(epoch)
            if self._save_due() and self.source.epoch == epoch:
                self.progress.seconds += time.monotonic() - began
                began = time.monotonic()
                self._save()
        self._check_pending()
        wait = self.source.wait_share()
        loss = self._validated()
        if self.stage.schedule == "plateau":
            self.plateau.step(loss)
        self.progress.seconds += time.monotonic() - began
        self._report(epoch, loss, wait)
        if self._save_due() or self.source.epoch == self.stage.epochs:
            self._save()

    def _train_mode(self) -> None:
        self.network.eval()  # what the objective does not train stays as it is, batch norms included
        self.objective.trained.train()

    def _step(self, feed: Any, study: Tensor) -> None:
        self._set_learning_rate()
        with self._autocast():
            terms = self.objective.terms(self.module, feed)
        loss, shown = self._loss(terms)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.stage.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.objective.trained.parameters(), self.stage.clip_norm)
        self.optimizer.step()
        # Looking at a loss waits for the device, so each is looked at when the next step is under way.
        self._check_pending()
        self._pending = (shown, study.clone(), self.progress.step)
        self.progress.step += 1
        self.progress.steps_in_epoch += 1

    def _autocast(self) -> Any:
        if self.bf16 and self.device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()

    def _loss(self, terms: list[Term]) -> tuple[Tensor, Tensor]:
        """The loss to go back through, and the step's loss over all ranks.

        Gradients are averaged over ranks, so each one's part is taken times their number.
        """
        loss, shown = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for term in terms:
            weight = summed(term.weight, self.ranks).clamp(min=1e-6)
            loss = loss + term.factor * self.ranks.world * term.total / weight
            shown = shown + term.factor * summed(term.total, self.ranks) / weight
        return loss, shown

    def _set_learning_rate(self) -> None:
        if self.stage.schedule == "cosine":
            # Steps differ between epochs where slices are few, so the place in the schedule is by samples.
            done = self.source.epoch - (self.source.position == 0) + self._share_of_epoch()
            for group in self.optimizer.param_groups:
                group["lr"] = self.stage.learning_rate * cosine(done / self.stage.epochs, self.stage.warmup)

    def _share_of_epoch(self) -> float:
        whole = len(self.source.order)
        return (self.source.position or whole) / whole

    def _check_pending(self) -> None:
        if self._pending is None:
            return
        loss, study, step = self._pending
        self._pending = None
        value = float(loss)
        if not math.isfinite(value):
            uids = ", ".join(self.uids[index] for index in study.tolist())
            raise LossNotFinite(f"the loss of step {step} is {value}; its batch held the studies {uids}.")
        self.progress.losses += value

    def _show(self, epoch: int) -> None:
        done = self.progress.steps_in_epoch
        mean = self.progress.losses / max(1, done - 1)
        self.log.step(
            f"{self.stage.objective} epoch {epoch + 1}/{self.stage.epochs} step {done}"
            f" loss {mean:.4f} waiting for data {self.source.wait_share():.1%}"
        )

    def _validated(self) -> float:
        """The first rank's validation loss, on every rank; its weights are kept where it is the best."""
        self.settle()
        loss = torch.zeros(1, dtype=torch.float64, device=self.device)
        if self.ranks.first:
            loss += self.validate()
        if self.ranks.world > 1:
            dist.broadcast(loss, 0)
        value = float(loss)
        if not math.isfinite(value):
            raise LossNotFinite(f"the validation loss of epoch {self.source.epoch} is {value}.")
        if value < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_epoch = value, self.source.epoch - 1
            if self.stage.keep == "best" and self.ranks.first:
                save_weights(self.run / WEIGHTS, self.network)
        return value

    def _report(self, epoch: int, loss: float, wait: float) -> None:
        progress = self.progress
        train = progress.losses / max(1, progress.steps_in_epoch)
        self.log.epoch(
            {
                "stage": self.index,
                "objective": self.stage.objective,
                "epoch": epoch,
                "step": progress.step,
                "train_loss": train,
                "validation_loss": loss,
                "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
                "wait_share": wait,
                "seconds": progress.seconds,
            }
        )
        if self.stage.epochs <= 60 or epoch % (self.stage.epochs // 30) == 0:
            self.log.say(
                f"{self.stage.objective} epoch {epoch + 1}/{self.stage.epochs}: loss {train:.4f},"
                f" validation {loss:.4f} (best {progress.best_loss:.4f} in epoch {progress.best_epoch + 1}),"
                f" {progress.seconds:.1f} s, waiting for data {wait:.1%}"
            )
        progress.losses, progress.steps_in_epoch, progress.seconds = 0.0, 0, 0.0

    def _save_due(self) -> bool:
        steps, seconds = self.progress.step - self.progress.saved_step, time.monotonic() - self._saved_at
        return steps >= self.save_every or seconds >= _LONGEST_S

    def _save(self) -> None:
        self._check_pending()
        self.progress.saved_step, self._saved_at = self.progress.step, time.monotonic()
        if self.ranks.first:
            self.save(self.state())

    def state(self) -> dict[str, Any]:
        """All that going on from here needs."""
        return {
            "stage": self.index,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "plateau": self.plateau.state_dict(),
            "source": self.source.state_dict(),
            "progress": vars(self.progress).copy(),
            "random": random_states(self.device),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.plateau.load_state_dict(state["plateau"])
        self.source.load_state_dict(state["source"])
        self.progress = Progress(**state["progress"])
        restore_random_states(state["random"], self.device)


def cosine(done: float, warmup: float) -> float:
    """The share of the learning rate when that share of all samples is ``done``: up along a line over
    ``warmup``, down to zero along a half cosine (Loshchilov and Hutter 2017)."""
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warmup) / (1 - warmup))))
