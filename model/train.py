"""Train on a committed store.

    python -m model.train --store STORE --out RUN [--recipe end2end|quick|seed|FILE] [--fold K] [--resume]
    torchrun --nproc-per-node N -m model.train --store STORE --out RUN

Exit status: 0 trained; 1 it cannot go on; 2 the command line is wrong; 130 interrupted (--resume goes on).
"""

from __future__ import annotations

from model.cli import run_command
from model.options import TrainOptions


def train(options: TrainOptions) -> None:
    """Train as the options say. Raises SpineError."""
    from model.training.run import run_training

    run_training(options)


if __name__ == "__main__":
    run_command("model.train", TrainOptions, train)
