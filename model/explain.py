"""Draw what a network saw in a study.

    python -m model.explain --store STORE --checkpoint RUN --study UID --out FILE.png

Exit status: 0 drawn; 1 it cannot be done; 2 the command line is wrong; 130 interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model.command import run_command


@dataclass(frozen=True)
class Options:
    """Draw a study's vertebrae with each slice's probability under them and the true boxes in them."""

    store: str
    """The store: a folder or a URL."""
    checkpoint: Path
    """Folder of a finished run."""
    study: str
    """StudyInstanceUID."""
    out: Path
    """The picture to write (PNG)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


def explain(options: Options) -> None:
    """Draw as the options say. Raises SpineError."""
    from model.explanation import draw

    draw(options)
    print(f"Wrote {options.out}")


if __name__ == "__main__":
    run_command("model.explain", Options, explain)
