"""One stage of a training: epochs of steps, validation after each epoch, checkpoints in between.

Everything that determines the next step is in `StageRun.state`: a run that is killed and resumed takes the
same steps, bit for bit on a CPU.
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
from torch import Tensor, nn

from model.data.loader import Batches
from model.distributed import Ranks, all_reduce_sum, broadcast_object, data_parallel
from model.inference.weights import WEIGHTS, save_weights
from model.networks.cnn_lstm import CnnLstm
from model.training.cached_features import CachedBatches
from model.training.checkpoint import random_states, restore_random_states
from model.training.losses import Term
from model.training.objectives import Objective
from model.training.recipe import Stage
from model.training.runlog import RunLog
from model.training.schedule import LearningRate
from spine_etl.errors import LossNotFinite

_CHECKPOINT_SECONDS = 300.0
"""A checkpoint is due after this time, however few steps were taken."""
_LOGGED_EPOCHS = 30
"""About how many epochs of a stage of more than twice as many print a line."""


@dataclass
class Progress:
    """How far a stage has come: counters and sums, all plain numbers.

    ``losses``, ``steps_in_epoch`` and ``seconds`` are of the current epoch. Epochs count from 0.
    """

    step: int = 0
    saved_step: int = 0
    best_loss: float = math.inf
    best_epoch: int = -1
    losses: float = 0.0
    steps_in_epoch: int = 0
    seconds: float = 0.0


@dataclass(eq=False)
class StageRun:
    """A stage while it trains.

    Parameters
    ----------
    index, stage
        Position of the stage in the recipe, and its settings.
    source
        Batches; iterating continues from the current position to the end of the epoch.
    inputs
        Turns a batch into the inputs that the objective splits into steps.
    measure_batch_norms
        Measures the network's batch norms before it is validated or kept; called on every rank.
    validate
        Returns the network's validation loss; called on rank 0.
    save
        Called with `state` when a checkpoint is due.
    save_every
        Optimizer steps between two checkpoints.
    uids
        StudyInstanceUID of each index that a batch names, for errors.
    clock
        Seconds, for the times that are logged and for checkpoints that are due by time; a parameter so that
        a test need not wait.
    """

    index: int
    stage: Stage
    network: CnnLstm
    objective: Objective
    source: Batches | CachedBatches
    inputs: Callable[[Any], Any]
    measure_batch_norms: Callable[[], None]
    validate: Callable[[], float]
    save: Callable[[dict[str, Any]], None]
    save_every: int
    device: torch.device
    ranks: Ranks
    bf16: bool
    log: RunLog
    run: Path
    uids: list[str]
    clock: Callable[[], float] = time.monotonic
    progress: Progress = field(default_factory=Progress)
    _unchecked: tuple[Tensor, Tensor, int] | None = None
    """Loss, studies and number of the last step, whose loss has not been copied from the device yet."""

    def __post_init__(self) -> None:
        self._saved_at = self.clock()
        self.module = data_parallel(self.objective.trained, self.device, self.ranks)
        parameters = self.objective.trained.parameters()
        optimizer = torch.optim.AdamW if self.stage.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = optimizer(
            parameters, lr=self.stage.learning_rate, betas=(0.9, 0.999), eps=1e-8,
            weight_decay=self.stage.weight_decay,
        )  # fmt: skip
        self.learning_rate = LearningRate(self.optimizer, self.stage)

    def train(self) -> None:
        """Train to the last epoch, then leave the weights that the stage keeps in the run's folder."""
        while self.source.epoch < self.stage.epochs:
            self._train_epoch()
        if self.stage.keep == "last" and self.ranks.is_main:
            save_weights(self.run / WEIGHTS, self.network)
        self.log.message(self._kept_weights())

    def _train_epoch(self) -> None:
        epoch = self.source.epoch
        self._set_train_mode()
        started = self.clock()
        for batch in self.source:
            for step_inputs in self.objective.steps(self.inputs(batch), int(batch.seed.sum())):
                self._step(step_inputs, batch.study)
                self._log_step(epoch)
            # Not after the last batch: a run resumed from there would skip the epoch's validation.
            if self._checkpoint_is_due() and self.source.epoch == epoch:
                self.progress.seconds += self.clock() - started
                started = self.clock()
                self._save_checkpoint()
        self._check_loss()
        wait = self.source.wait_share()
        loss = self._validate()
        self.learning_rate.after_epoch(loss)
        self.progress.seconds += self.clock() - started
        self._log_epoch(epoch, loss, wait)
        if self._checkpoint_is_due() or self.source.epoch == self.stage.epochs:
            self._save_checkpoint()

    def _set_train_mode(self) -> None:
        self.network.eval()  # parts that the objective does not train stay fixed, batch norms included
        self.objective.trained.train()

    def _step(self, inputs: Any, study: Tensor) -> None:
        self.learning_rate.before_step(self._share_done())
        with self._autocast():
            terms = self.objective.terms(self.module, inputs)
        loss, joint_loss = self._losses(terms)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.stage.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.objective.trained.parameters(), self.stage.clip_norm)
        self.optimizer.step()
        # Reading a loss waits for the device, so each is read once the next step has been queued.
        self._check_loss()
        # Cloned because a batch's tensors are only valid until the next batch is requested.
        self._unchecked = (joint_loss, study.clone(), self.progress.step)
        self.progress.step += 1
        self.progress.steps_in_epoch += 1

    def _autocast(self) -> Any:
        if self.bf16 and self.device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()

    def _losses(self, terms: list[Term]) -> tuple[Tensor, Tensor]:
        """The loss to differentiate on this rank, and the step's loss over all ranks.

        Gradients are averaged over ranks, so each rank's loss is multiplied by the number of ranks.
        """
        loss, joint_loss = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for term in terms:
            weight = all_reduce_sum(term.weight, self.ranks).clamp(min=1e-6)
            loss = loss + term.factor * self.ranks.world_size * term.total / weight
            joint_loss = joint_loss + term.factor * all_reduce_sum(term.total, self.ranks) / weight
        return loss, joint_loss

    def _share_done(self) -> float:
        """Share of the stage's samples in the batches so far, the current one included."""
        samples = len(self.source.order)
        # After an epoch's last batch the source is already at position 0 of the next epoch.
        epoch = self.source.epoch - (self.source.position == 0)
        return (epoch + (self.source.position or samples) / samples) / self.stage.epochs

    def _check_loss(self) -> None:
        """Add the last step's loss to the epoch's. Raises LossNotFinite."""
        if self._unchecked is None:
            return
        loss, study, step = self._unchecked
        self._unchecked = None
        value = float(loss)
        if not math.isfinite(value):
            uids = ", ".join(self.uids[index] for index in study.tolist())
            raise LossNotFinite(f"the loss of step {step} is {value}; its batch had the studies {uids}.")
        self.progress.losses += value

    def _validate(self) -> float:
        """Rank 0's validation loss, on every rank; the weights are saved if it is the lowest so far."""
        self.measure_batch_norms()
        loss = broadcast_object(self.validate() if self.ranks.is_main else math.nan, self.ranks)
        if not math.isfinite(loss):
            # The source is already in the next epoch: its index is this epoch's number, counted from 1.
            raise LossNotFinite(f"the validation loss of epoch {self.source.epoch} is {loss}.")
        if loss < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_epoch = loss, self.source.epoch - 1
            if self.stage.keep == "best" and self.ranks.is_main:
                save_weights(self.run / WEIGHTS, self.network)
        return loss

    def _log_step(self, epoch: int) -> None:
        steps = self.progress.steps_in_epoch
        mean = self.progress.losses / max(1, steps - 1)  # the last step's loss is not read yet
        self.log.step(
            f"{self.stage.objective} epoch {epoch + 1}/{self.stage.epochs} step {steps}"
            f" loss {mean:.4f} waiting for data {self.source.wait_share():.1%}"
        )

    def _log_epoch(self, epoch: int, loss: float, wait: float) -> None:
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
                "learning_rate": self.learning_rate.value,
                "wait_share": wait,
                "seconds": progress.seconds,
            }
        )
        epochs = self.stage.epochs
        if epochs <= 2 * _LOGGED_EPOCHS or epoch % (epochs // _LOGGED_EPOCHS) == 0:
            self.log.message(
                f"{self.stage.objective} epoch {epoch + 1}/{epochs}: loss {train:.4f},"
                f" validation {loss:.4f} (lowest {progress.best_loss:.4f}, epoch {progress.best_epoch + 1}),"
                f" {progress.seconds:.1f} s, waiting for data {wait:.1%}"
            )
        progress.losses, progress.steps_in_epoch, progress.seconds = 0.0, 0, 0.0

    def _kept_weights(self) -> str:
        """Which epoch's weights the stage keeps, and why."""
        lowest, epoch = self.progress.best_loss, self.progress.best_epoch + 1
        if self.stage.keep == "best":
            return (
                f"{self.stage.objective}: keeping the weights of epoch {epoch}, which has the lowest"
                f" validation loss ({lowest:.4f})"
            )
        return (
            f"{self.stage.objective}: keeping the weights of the last epoch, {self.stage.epochs}, as the"
            f' recipe asks (keep = "last"); the lowest validation loss was {lowest:.4f} in epoch {epoch}'
        )

    def _checkpoint_is_due(self) -> bool:
        steps, seconds = self.progress.step - self.progress.saved_step, self.clock() - self._saved_at
        return steps >= self.save_every or seconds >= _CHECKPOINT_SECONDS

    def _save_checkpoint(self) -> None:
        self._check_loss()
        self.progress.saved_step, self._saved_at = self.progress.step, self.clock()
        if self.ranks.is_main:
            self.save(self.state())

    def state(self) -> dict[str, Any]:
        """Everything needed to resume from here."""
        return {
            "stage": self.index,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "plateau": self.learning_rate.state_dict(),
            "source": self.source.state_dict(),
            "progress": vars(self.progress).copy(),
            "random": random_states(self.device),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from what `state` returned. Raises CheckpointInvalid if its loader had other studies."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.learning_rate.load_state_dict(state["plateau"])
        self.source.load_state_dict(state["source"])
        self.progress = Progress(**state["progress"])
        restore_random_states(state["random"], self.device)
