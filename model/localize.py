"""Train a localizer, which finds C1-C7 in studies without a segmentation, or apply it.

    python -m model.localize train --store STORE --out LOCALIZER [--fold K] [--epochs N]
    python -m model.localize apply --store STORE --checkpoint LOCALIZER --out FILE.csv
    python -m model.localize apply --store STORE --checkpoint LOCALIZER --evaluate [--json]

Exit status: 0 done; 1 failed; 2 invalid command line; 130 interrupted (train skips finished folds).
"""

from __future__ import annotations

from model.cli import run_subcommands
from model.options import ApplyLocalizerOptions, TrainLocalizerOptions


def train(options: TrainLocalizerOptions) -> None:
    """Train a localizer. Raises SpineError."""
    from model.localizer.training import train_localizer

    train_localizer(options)


def apply(options: ApplyLocalizerOptions) -> None:
    """Write the table of levels, or score the localizer. Raises SpineError."""
    from model.localizer.apply import apply_localizer

    apply_localizer(options)


if __name__ == "__main__":
    run_subcommands(
        "model.localize", {"train": (TrainLocalizerOptions, train), "apply": (ApplyLocalizerOptions, apply)}
    )
