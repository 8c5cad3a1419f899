"""Train the localizer's networks on a store's overviews: one for each fold, which never sees that fold."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from model.data.targets import Indices
from model.distributed import choose_device
from model.localizer.level_order import LevelOrder
from model.localizer.localizer import Fold, is_finished, save_member
from model.localizer.network import FcnSettings, build_fcn, class_of_label, network_input, scanned_block
from model.options import TrainLocalizerOptions
from model.output import writing
from model.training.schedule import warmup_cosine
from spine_etl.errors import FoldInvalid, LossNotFinite
from spine_etl.store import Store, open_store
from spine_etl.store.schema import MASK_SOURCE
from spine_etl.volume import AIR_HU

SETTINGS = FcnSettings()
PATCH = (64, 48, 48)
"""Voxels (z, y, x) of a training patch: at 3 mm the height of a neck, and room around the spine."""
_BATCH = 2
_LEARNING_RATE, _WEIGHT_DECAY, _WARMUP = 3e-3, 0.01, 0.1
_LEAST_STUDIES = 2


@dataclass(frozen=True)
class Distortion:
    """How far a patch is distorted: uniform between minus and plus, or from 0 up to, these numbers."""

    degrees: float = 10.0
    scale: float = 0.15
    gain: float = 0.1
    offset_hu: float = 40.0
    noise_hu: float = 40.0
    truncated: float = 0.4
    """Probability that the field of view ends within the patch."""


DISTORTION = Distortion()


def with_masks(store: Store) -> Indices:
    """Studies whose own segmentation is in the store."""
    return np.flatnonzero(store.table["mask_source"] == MASK_SOURCE.index("given"))


def train_localizer(options: TrainLocalizerOptions) -> None:
    """Train what is not finished yet of the folds asked for.

    Raises
    ------
    FoldInvalid
        If there is no such fold, or fewer than two studies with a mask are outside it.
    LossNotFinite
        If a loss is no number.
    StoreError
        If the store, or a study's objects, cannot be read.
    OutputUnwritable
        If ``out`` cannot be written.
    """
    store = open_store(options.store, cache=options.cache)
    device = choose_device(options.device)
    folds = range(store.recipe.folds) if options.fold is None else [options.fold]
    with writing(options.out):  # before the training, not after it
        options.out.mkdir(parents=True, exist_ok=True)
    masked = with_masks(store)
    overviews = Overviews(store, masked)
    for fold in folds:
        if fold not in range(store.recipe.folds):
            raise FoldInvalid(f"there is no fold {fold}: the store has 0 to {store.recipe.folds - 1}.")
        folder = options.out / f"fold{fold}"
        if is_finished(folder):
            print(f"fold {fold} is finished already", flush=True)
            continue
        _train_fold(store, overviews, fold, options.epochs, device, folder)


class Overviews:
    """Overviews of studies with masks, in memory: int16 HU and class maps, (z, y, x) each."""

    def __init__(self, store: Store, studies: Indices) -> None:
        classes = class_of_label(store.recipe)
        self.studies = studies
        self.images = [torch.from_numpy(store.read("overview/image", int(i))) for i in studies]
        self.classes = [torch.from_numpy(classes[store.read("overview/mask", int(i))]) for i in studies]


def _train_fold(
    store: Store, overviews: Overviews, fold: int, epochs: int, device: torch.device, folder: Path
) -> None:
    outside = np.flatnonzero(store.table["fold"][overviews.studies] != fold)
    if len(outside) < _LEAST_STUDIES:
        raise FoldInvalid(f"{len(outside)} studies with a mask are outside fold {fold}; two are the least.")
    order_of_levels = LevelOrder.fit((overviews.classes[i].numpy() for i in outside), len(store.levels))
    about = Fold(
        fold=fold,
        levels=store.levels,
        spacing_mm=store.recipe.overview.spacing_mm,
        settings=SETTINGS,
        order=order_of_levels.to_dict(),
        trained_on=len(outside),
        root_digest=store.root_digest,
    )
    torch.manual_seed(fold)
    network = build_fcn(SETTINGS, len(store.levels)).to(device)
    trainer = _Trainer(network, device, steps=epochs * -(-len(outside) // _BATCH))
    for epoch in range(epochs):
        began = time.monotonic()
        order = np.random.default_rng([fold, epoch]).permutation(outside)
        losses = [
            trainer.step(*_batch(overviews, order[start : start + _BATCH], [fold, epoch], device))
            for start in range(0, len(order), _BATCH)
        ]
        seconds = time.monotonic() - began
        print(
            f"fold {fold}, epoch {epoch + 1}/{epochs}: loss {np.mean(losses):.4f}, {seconds:.1f} s",
            flush=True,
        )
    save_member(folder, about, network)


class _Trainer:
    """AdamW with warm-up and cosine towards Dice and cross-entropy."""

    def __init__(self, network: nn.Module, device: torch.device, steps: int) -> None:
        from monai.losses.dice import DiceCELoss

        self.network = network.train()
        self.loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY
        )
        self.steps, self.done = steps, 0

    def step(self, images: Tensor, classes: Tensor) -> float:
        """One step on float32 (n, 1, z, y, x) and uint8 (n, 1, z, y, x). Raises LossNotFinite."""
        self.done += 1
        for group in self.optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * warmup_cosine(self.done / self.steps, _WARMUP)
        loss = self.loss(self.network(images), classes.float())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise LossNotFinite(f"the loss of step {self.done} is {value}.")
        return value


def _batch(
    overviews: Overviews, chosen: npt.NDArray[Any], seed: list[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    parts = [
        draw_patch(overviews.images[i], overviews.classes[i], np.random.default_rng([*seed, int(i)]))
        for i in chosen
    ]
    images, classes = (torch.stack(tensors).to(device) for tensors in zip(*parts, strict=True))
    return network_input(images), classes


def draw_patch(
    image: Tensor, classes: Tensor, random: np.random.Generator, distortion: Distortion = DISTORTION
) -> tuple[Tensor, Tensor]:
    """A distorted patch of what was scanned: float32 HU and uint8 classes, (1, z, y, x) of `PATCH`.

    A left-right flip changes no class: every level lies on the midline.
    """
    image, classes = _cut_out(image.float(), classes, random)
    image, classes = _warped(image, classes, random, distortion)
    if random.random() < 0.5:
        image, classes = image.flip(-1), classes.flip(-1)
    air = image <= AIR_HU + 100
    gain, offset = random.uniform(-1, 1, 2)
    image = (image - AIR_HU) * (1 + gain * distortion.gain) + AIR_HU + offset * distortion.offset_hu
    noise = torch.from_numpy(random.normal(0, 1, image.shape).astype(np.float32))
    image = image + noise * (random.random() * distortion.noise_hu)
    image[air] = AIR_HU
    if random.random() < distortion.truncated:
        _truncate(image, classes, random)
    return image, classes


def _cut_out(image: Tensor, classes: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """(1, z, y, x) somewhere in the scanned block; air around it where that is smaller."""
    patch = torch.full((1, *PATCH), float(AIR_HU)), torch.zeros((1, *PATCH), dtype=torch.uint8)
    places: list[slice] = []
    room: list[slice] = []
    for block, wanted in zip(scanned_block(image), PATCH, strict=True):
        length = block.stop - block.start
        shift = int(random.integers(abs(length - wanted) + 1))
        size = min(length, wanted)
        start = block.start + (shift if length > wanted else 0)
        into = 0 if length > wanted else shift
        places.append(slice(start, start + size))
        room.append(slice(into, into + size))
    for whole, part in zip((image, classes), patch, strict=True):
        z, y, x = room
        part[0, z, y, x] = whole[tuple(places)]
    return patch


def _warped(
    image: Tensor, classes: Tensor, random: np.random.Generator, distortion: Distortion
) -> tuple[Tensor, Tensor]:
    """Turned about the three axes and scaled, about the patch's centre."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(random.uniform(-1, 1, 3) * distortion.degrees)):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        part = np.eye(3)
        part[a, a] = part[b, b] = np.cos(angle)
        part[a, b], part[b, a] = -np.sin(angle), np.sin(angle)
        turn = turn @ part
    turn /= 1 + random.uniform(-1, 1) * distortion.scale
    size = np.array(PATCH[::-1], np.float64)  # affine_grid counts x, y, z, each from -1 to 1
    theta = np.zeros((1, 3, 4), np.float32)
    theta[0, :, :3] = turn * size[None, :] / size[:, None]
    grid = affine_grid(torch.from_numpy(theta), [1, 1, *PATCH], align_corners=False)
    # Air is zero beyond the patch.
    values = grid_sample((image - AIR_HU)[None], grid, mode="bilinear", align_corners=False)[0] + AIR_HU
    labels = grid_sample(classes[None].float(), grid, mode="nearest", align_corners=False)[0]
    return values, labels.to(torch.uint8)


def _truncate(image: Tensor, classes: Tensor, random: np.random.Generator) -> None:
    """End the field of view within the patch, at the head, the foot or both, in place."""
    depth = image.shape[1]
    low = int(random.integers(depth // 2)) if random.random() < 0.5 else 0
    high = depth - int(random.integers(depth // 2)) if low == 0 or random.random() < 0.3 else depth
    for part in (slice(0, low), slice(high, depth)):
        image[:, part] = AIR_HU
        classes[:, part] = 0
