"""Draw the predictions of a network for a study.

    python -m model.explain --store STORE --checkpoint RUN --study UID --out FILE.png

Exit status: 0 drawn; 1 failed; 2 invalid command line; 130 interrupted.
"""

from __future__ import annotations

from model.cli import run_command
from model.options import ExplainOptions


def explain(options: ExplainOptions) -> None:
    """Draw one study. Raises SpineError."""
    from model.inference.explanation import explain_study

    explain_study(options)
    print(f"Wrote {options.out}")


if __name__ == "__main__":
    run_command("model.explain", ExplainOptions, explain)
