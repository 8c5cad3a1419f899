"""Errors of a run: a build, a training or a prediction."""

from __future__ import annotations

from spine_etl.errors.base import SpineError


class RunError(SpineError):
    """The run itself failed (worker, scheduler, defect); the next run retries."""


class WorkerLost(RunError, RuntimeError):
    """Several workers died while they processed this study, most often for lack of memory."""

    code = "WORKER_LOST"
    default_action = "Give the workers more memory, then run again; the study is retried."


class SchedulerLost(RunError, ConnectionError):
    """The Dask scheduler did not answer, or stopped during the run."""

    code = "SCHEDULER_LOST"
    default_action = "Start the scheduler and its workers, then run again; stored studies are kept."


class Unexpected(RunError, RuntimeError):
    """A defect in this package, or a failure of a library or service it runs on."""

    code = "UNEXPECTED"
    default_action = "Run again; if it happens again, report it with the study's header (printed by inspect)."


class TrainingError(SpineError):
    """A training or a prediction cannot continue."""


class FoldInvalid(TrainingError, ValueError):
    """The fold does not exist, or has too few labelled studies to train on or to score."""

    code = "FOLD_INVALID"
    default_action = "Choose another --fold, or build the store with more labelled studies."


class LossNotFinite(TrainingError, ArithmeticError):
    """A loss or a prediction is NaN or infinite."""

    code = "LOSS_NOT_FINITE"
    default_action = "Lower the learning rate in a recipe of your own, and train into another --out."


class CheckpointInvalid(TrainingError, ValueError):
    """The folder has no usable training, or one that does not match the store, the recipe or the options."""

    code = "CHECKPOINT_INVALID"
    default_action = "Pass the folder of a run made with this recipe and this version of the store."


class DeviceUnavailable(TrainingError, RuntimeError):
    """This machine has no such device."""

    code = "DEVICE_UNAVAILABLE"
    default_action = "Use --device cpu or --device auto."


class DeviceMemoryFull(TrainingError, MemoryError):
    """The device ran out of memory."""

    code = "DEVICE_MEMORY_FULL"
    default_action = (
        "Lower the training's --batch-size, stop other programs on the device, or use --device cpu."
    )


class OutputUnwritable(TrainingError, OSError):
    """An output file cannot be written."""

    code = "OUTPUT_UNWRITABLE"
    default_action = "Free some space or fix the permissions, then run again (a training with --resume)."
