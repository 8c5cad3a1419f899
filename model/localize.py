"""Find C1-C7 in studies without a segmentation.

    python -m model.localize train --store STORE --out LOCALIZER [--fold K] [--epochs N]
    python -m model.localize apply --store STORE --checkpoint LOCALIZER --out FILE.csv
    python -m model.localize apply --store STORE --checkpoint LOCALIZER --evaluate [--json]

Exit status: 0 done; 1 it cannot be done; 2 the command line is wrong; 130 interrupted (train goes on with the
folds that are not finished).
"""

from __future__ import annotations

from model.cli import run_commands
from model.options import ApplyLocalizerOptions, TrainLocalizerOptions


def train(options: TrainLocalizerOptions) -> None:
    """Train as the options say. Raises SpineError."""
    from model.localizer.training import train_localizer

    train_localizer(options)


def apply(options: ApplyLocalizerOptions) -> None:
    """Localize, or score, as the options say. Raises SpineError."""
    from model.localizer.apply import apply_localizer

    apply_localizer(options)


if __name__ == "__main__":
    run_commands(
        "model.localize", {"train": (TrainLocalizerOptions, train), "apply": (ApplyLocalizerOptions, apply)}
    )
