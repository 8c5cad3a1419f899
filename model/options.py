"""Command-line options: one dataclass for each command; the docstrings are the help texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainOptions:
    """Train the CNN-LSTM on a committed store."""

    store: str
    """Folder or URL of the store."""
    out: Path
    """Folder of this run: weights, checkpoints, logs."""
    recipe: str = "end2end"
    """end2end, quick, seed, or the path of a TOML file."""
    fold: int = 0
    """Held-out fold: its studies are used neither for training nor for choosing an epoch."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    weights: Path | None = None
    """Initial weights of the slice encoder: safetensors or a torch state dict, with torchvision's names."""
    epochs: int | None = None
    """Number of epochs of every stage; replaces the recipe's."""
    epochs_scale: float = 1.0
    """Multiply the recipe's epochs and patience by this."""
    batch_size: int | None = None
    """Batch size of every stage, over all processes; replaces the recipe's."""
    compile: bool = False
    """Compile the slice encoder (torch.compile)."""
    save_every: int = 200
    """Save a checkpoint after this many optimizer steps, or after five minutes if that is sooner."""
    resume: bool = False
    """Resume from the last checkpoint in --out."""
    cache: Path | None = None
    """Local folder that caches what is read from a store on S3."""


@dataclass(frozen=True)
class PredictOptions:
    """Write the competition's submission table; with --evaluate, score a held-out fold."""

    store: str
    """Folder or URL of the store."""
    checkpoint: tuple[Path, ...]
    """Folders of finished runs; their probabilities are averaged."""
    out: Path
    """Table to write (CSV: row_id,fractured)."""
    fold: int | None = None
    """Predict only the studies of this fold."""
    evaluate: bool = False
    """Score the fold against its labels; every run must have held it out."""
    json: bool = False
    """End standard output with one line of JSON."""
    pictures: Path | None = None
    """With --evaluate: folder for the ROC and reliability curves."""
    cache: Path | None = None
    """Local folder that caches what is read from a store on S3."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass(frozen=True)
class ExplainOptions:
    """Draw a study's vertebrae with each slice's predicted probability and the labelled fracture boxes."""

    store: str
    """Folder or URL of the store."""
    checkpoint: Path
    """Folder of a finished run."""
    study: str
    """StudyInstanceUID."""
    out: Path
    """Picture to write (PNG)."""
    cache: Path | None = None
    """Local folder that caches what is read from a store on S3."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass(frozen=True)
class TrainLocalizerOptions:
    """Train a localizer: for each fold a network that finds C1-C7 in overviews, and a model of their
    order."""

    store: str
    """Folder or URL of the store."""
    out: Path
    """Folder of the localizer; folds already finished in it are skipped."""
    fold: int | None = None
    """Train only the network of this fold, the one that never sees its studies; by default all."""
    epochs: int = 40
    """Number of epochs."""
    cache: Path | None = None
    """Local folder that caches what is read from a store on S3."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass(frozen=True)
class ApplyLocalizerOptions:
    """Localize the studies without a mask; with --evaluate, score the localizer on those with one."""

    store: str
    """Folder or URL of the store."""
    checkpoint: Path
    """Folder of the localizer."""
    out: Path | None = None
    """Table to write (CSV): study, level, centre in LPS millimetres, confidence."""
    evaluate: bool = False
    """Score every study with a mask, each with the network trained without its fold."""
    json: bool = False
    """End standard output with one line of JSON."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
