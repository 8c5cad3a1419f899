"""Training of the localizer's networks on a store's overviews: one for each fold, without its studies."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model.device import choose_device
from model.localizer.folds import FoldMetadata, is_finished, save_fold
from model.localizer.level_order import LevelOrder
from model.localizer.network import FcnSettings, build_fcn, network_input
from model.localizer.overviews import Overviews, segmented_studies
from model.localizer.patches import draw_patch
from model.options import TrainLocalizerOptions
from model.output import write_errors
from model.training.schedule import warmup_cosine
from spine_etl.errors import FoldInvalid, LossNotFinite
from spine_etl.store import Store, open_store

SETTINGS = FcnSettings()
_BATCH_SIZE = 2
_LEARNING_RATE, _WEIGHT_DECAY, _WARMUP = 3e-3, 0.01, 0.1
_MIN_STUDIES = 2


def train_localizer(options: TrainLocalizerOptions) -> None:
    """Train the requested folds, skipping those that are finished.

    Raises
    ------
    FoldInvalid
        If there is no such fold, or fewer than two studies with a segmentation are outside it.
    LossNotFinite
        If a loss is NaN or infinite.
    StoreError
        If the store, or a study's objects, cannot be read.
    OutputUnwritable
        If ``out`` cannot be written.
    """
    store = open_store(options.store, cache=options.cache)
    device = choose_device(options.device)
    if options.fold is not None and options.fold not in range(store.recipe.folds):
        raise FoldInvalid(f"there is no fold {options.fold}: the store has 0 to {store.recipe.folds - 1}.")
    folds = range(store.recipe.folds) if options.fold is None else [options.fold]
    with write_errors(options.out):  # fails before the training, not after it
        options.out.mkdir(parents=True, exist_ok=True)
    overviews = Overviews(store, segmented_studies(store))
    for fold in folds:
        folder = options.out / f"fold{fold}"
        if is_finished(folder):
            print(f"fold {fold} is already finished", flush=True)
            continue
        _train_fold(store, overviews, fold, options.epochs, device, folder)


def _train_fold(
    store: Store, overviews: Overviews, fold: int, epochs: int, device: torch.device, folder: Path
) -> None:
    outside = np.flatnonzero(store.table["fold"][overviews.studies] != fold)
    if len(outside) < _MIN_STUDIES:
        raise FoldInvalid(
            f"{len(outside)} studies with a segmentation are outside fold {fold};"
            f" training needs at least {_MIN_STUDIES}."
        )
    order = LevelOrder.fit((overviews.classes[i].numpy() for i in outside), len(store.levels))
    metadata = FoldMetadata(
        fold=fold,
        levels=store.levels,
        spacing_mm=store.recipe.overview.spacing_mm,
        settings=SETTINGS,
        order=order.to_dict(),
        trained_on=len(outside),
        root_digest=store.root_digest,
    )
    torch.manual_seed(fold)
    network = build_fcn(SETTINGS, len(store.levels)).to(device)
    trainer = _Trainer(network, device, total_steps=epochs * -(-len(outside) // _BATCH_SIZE))
    for epoch in range(epochs):
        start_s = time.monotonic()
        shuffled = np.random.default_rng([fold, epoch]).permutation(outside)
        losses = [
            trainer.step(*_batch(overviews, shuffled[start : start + _BATCH_SIZE], [fold, epoch], device))
            for start in range(0, len(shuffled), _BATCH_SIZE)
        ]
        seconds = time.monotonic() - start_s
        print(
            f"fold {fold}, epoch {epoch + 1}/{epochs}: loss {np.mean(losses):.4f}, {seconds:.1f} s",
            flush=True,
        )
    save_fold(folder, metadata, network)


class _Trainer:
    """AdamW with linear warm-up and cosine decay, minimising Dice loss plus cross-entropy."""

    def __init__(self, network: nn.Module, device: torch.device, total_steps: int) -> None:
        from monai.losses.dice import DiceCELoss

        self.network = network.train()
        self.loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY
        )
        self.total_steps, self.steps_done = total_steps, 0

    def step(self, images: Tensor, classes: Tensor) -> float:
        """Take one step and return its loss. Raises LossNotFinite.

        ``images`` is float32 `network_input` and ``classes`` uint8, both (n, 1, z, y, x).
        """
        self.steps_done += 1
        for group in self.optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * warmup_cosine(self.steps_done / self.total_steps, _WARMUP)
        loss = self.loss(self.network(images), classes.float())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise LossNotFinite(f"the loss of step {self.steps_done} is {value}.")
        return value


def _batch(
    overviews: Overviews, indices: npt.NDArray[Any], seed: list[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Network input and classes, (n, 1, z, y, x) each: one patch of each of the chosen overviews."""
    patches = [
        draw_patch(overviews.images[i], overviews.classes[i], np.random.default_rng([*seed, int(i)]))
        for i in indices
    ]
    images, classes = (torch.stack(tensors).to(device) for tensors in zip(*patches, strict=True))
    return network_input(images), classes
