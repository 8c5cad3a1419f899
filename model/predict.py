"""Predict the studies of a store, or score a held-out fold.

    python -m model.predict --store STORE --checkpoint RUN [RUN ...] --out submission.csv
    python -m model.predict --store STORE --checkpoint RUN --out fold0.csv --fold 0 --evaluate [--json]

Exit status: 0 predicted; 1 failed; 2 invalid command line; 130 interrupted.
"""

from __future__ import annotations

from model.cli import run_command
from model.options import PredictOptions


def predict(options: PredictOptions) -> None:
    """Write the submission table, and score it if requested. Raises SpineError."""
    from model.inference.submission import predict_store

    predict_store(options)


if __name__ == "__main__":
    run_command("model.predict", PredictOptions, predict)
