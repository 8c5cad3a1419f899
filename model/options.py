"""What the commands can be told, one dataclass each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainOptions:
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
    """Optimizer steps between two checkpoints; slow steps are kept every five minutes."""
    resume: bool = False
    """Go on from the last checkpoint in --out."""
    cache: Path | None = None
    """Folder of this machine that keeps what is read of the store: for a store on S3."""


@dataclass(frozen=True)
class PredictOptions:
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
    cache: Path | None = None
    """Folder of this machine that keeps what is read of the store: for a store on S3."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass(frozen=True)
class ExplainOptions:
    """Draw a study's vertebrae with each slice's probability under them and the true boxes in them."""

    store: str
    """The store: a folder or a URL."""
    checkpoint: Path
    """Folder of a finished run."""
    study: str
    """StudyInstanceUID."""
    out: Path
    """The picture to write (PNG)."""
    cache: Path | None = None
    """Folder of this machine that keeps what is read of the store: for a store on S3."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass(frozen=True)
class TrainLocalizerOptions:
    """Train a network for each fold to find C1-C7 in overviews, and what their order is like."""

    store: str
    """The store: a folder or a URL."""
    out: Path
    """Folder of the localizer; folds that are finished there are left alone."""
    fold: int | None = None
    """Only the network that holds this fold out; all by default."""
    epochs: int = 40
    """Times that each study is seen."""
    cache: Path | None = None
    """Folder of this machine that keeps what is read of the store: for a store on S3."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass(frozen=True)
class ApplyLocalizerOptions:
    """Localize the studies without a mask; with --evaluate, score those that have one."""

    store: str
    """The store: a folder or a URL."""
    checkpoint: Path
    """Folder of the localizer."""
    out: Path | None = None
    """The table to write: study, level, centre in LPS millimetres, confidence."""
    evaluate: bool = False
    """Score every study with a mask by the network that never saw it."""
    json: bool = False
    """End with one line of JSON on standard output."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
