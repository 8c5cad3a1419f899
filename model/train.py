"""Train on a committed store.

    python -m model.train --store STORE --out RUN [--recipe end2end|quick|seed|FILE] [--fold K] [--resume]
    torchrun --nproc-per-node N -m model.train --store STORE --out RUN

Exit status: 0 trained; 1 failed; 2 invalid command line; 130 interrupted (--resume continues the run).
"""

from __future__ import annotations

from model.cli import run_command
from model.options import TrainOptions


def train(options: TrainOptions) -> None:
    """Train a network. Raises SpineError."""
    from model.training.run import run_training

    run_training(options)


if __name__ == "__main__":
    run_command("model.train", TrainOptions, train)
