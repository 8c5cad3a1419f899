"""Predict the studies of a store, or score a held-out fold.

    python -m model.predict --store STORE --checkpoint RUN [RUN ...] --out submission.csv
    python -m model.predict --store STORE --checkpoint RUN --out fold0.csv --fold 0 --evaluate [--json]

Exit status: 0 predicted; 1 it cannot be done; 2 the command line is wrong; 130 interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model.command import run_command


@dataclass(frozen=True)
class Options:
    """Write the competition's submission table; with --evaluate, score a held-out fold."""

    store: str
    """The store: a folder or a URL."""
    checkpoint: tuple[Path, ...]
    """Folders of finished runs; their probabilities are averaged."""
    out: Path
    """The table to write: row_id,fractured."""
    fold: int | None = None
    """Only the studies of this fold."""
    evaluate: bool = False
    """Score the fold against its labels; every run must have held it out."""
    json: bool = False
    """End with one line of JSON on standard output."""
    pictures: Path | None = None
    """With --evaluate: folder for the ROC and reliability curves."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


def predict(options: Options) -> None:
    """Predict as the options say. Raises SpineError."""
    from model.submission import predict_store

    predict_store(options)


if __name__ == "__main__":
    run_command("model.predict", Options, predict)
