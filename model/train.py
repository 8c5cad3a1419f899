"""Train on a committed store.

    python -m model.train --store STORE --out RUN [--recipe end2end|quick|seed|FILE] [--fold K] [--resume]
    torchrun --nproc-per-node N -m model.train --store STORE --out RUN

Exit status: 0 trained; 1 it cannot go on; 2 the command line is wrong; 130 interrupted (--resume goes on).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model.command import run_command


@dataclass(frozen=True)
class Options:
    """Train the CNN-LSTM on a committed store."""

    store: str
    """The store: a folder or a URL."""
    out: Path
    """Folder of this run: weights, checkpoints, logs."""
    recipe: str = "end2end"
    """end2end, quick, seed, or a TOML file."""
    fold: int = 0
    """The fold that is held out: nothing of it is trained on, nor chosen by."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    weights: Path | None = None
    """Weights for the slice encoder, safetensors or a torch state dict under torchvision's names."""
    epochs: int | None = None
    """Epochs of every stage, instead of the recipe's."""
    epochs_scale: float = 1.0
    """Factor on the recipe's epochs and patience."""
    batch_size: int | None = None
    """Batch size of every stage, over all processes, instead of the recipe's."""
    compile: bool = False
    """Compile the slice encoder (torch.compile)."""
    save_every: int = 200
    """Optimizer steps between two checkpoints."""
    resume: bool = False
    """Go on from the last checkpoint in --out."""


def train(options: Options) -> None:
    """Train as the options say. Raises SpineError."""
    from model.fit import fit

    fit(options)


if __name__ == "__main__":
    run_command("model.train", Options, train)
