"""Turn a batch of crops into the network's inputs, augmented for training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.data.augment import Settings, apply, draw, mix, shuffle_slices
from model.data.loader import Batch
from model.data.views import (
    ViewSettings,
    at_positions,
    rasterize_boxes,
    slice_positions,
    stack_2_5d,
    windows,
)


@dataclass(frozen=True, eq=False)
class Inputs:
    """The network's inputs for a batch, and the labels to train on.

    Attributes
    ----------
    views
        float32 (study, level, slice, channel, y, x).
    located
        bool (study, level): whether the level has a crop that contains its label.
    labels, known
        (study, level + 1): the columns of `Targets`. Not known for a level that is not located, nor for a
        patient without a located level: no view shows them.
    slices
        float32 (study, level, slice): 1 if a fracture is marked in the slice, 0 if not, -1 unknown.
    box_masks
        uint8 (study, level, slice, y, x): 1 inside the level's fracture boxes, else 0. None if the batch is
        not augmented, or its samples are mixed.
    positions
        int64 (study, level, slice): the slice's z index in the crop, -1 if the level is not located.
    """

    views: Tensor
    located: Tensor
    labels: Tensor
    known: Tensor
    slices: Tensor
    positions: Tensor
    box_masks: Tensor | None = None


def inputs_of(
    batch: Batch, level_labels: Tensor, view: ViewSettings, augment: Settings | None = None
) -> Inputs:
    """The network's inputs for a batch, augmented if ``augment`` is given.

    ``level_labels`` is what `views.level_labels` returns.
    """
    image, mask = _crop_centre(batch.image, view.size), _crop_centre(batch.mask, view.size)
    depth, levels = image.shape[2], image.shape[1]
    parameters = draw(batch.seed, levels, view.positions, augment) if augment else None
    z = slice_positions(batch.mask, level_labels, view.positions, parameters.slide if parameters else None)
    if parameters:
        box_masks = rasterize_boxes(batch.slice_box, z, batch.image.shape[-2:])
        # Augmentation is in-plane, so the box masks are transformed as further slices of the mask.
        masks = torch.cat([mask, _crop_centre(box_masks, view.size)], dim=2)
        image, masks = apply(image, masks, parameters)
        mask, box_masks = masks[:, :, :depth], masks[:, :, depth:]
    views = _views(image, mask, level_labels, z, view)
    slices = at_positions(batch.slice_fracture, z).float()
    located = batch.located & (z >= 0).all(dim=2)
    known = batch.known & _visible_columns(located)
    labels = batch.labels.clone()
    if parameters is None or augment is None:
        return Inputs(views, located, labels, known, slices, z)
    views, slices, z, box_masks = (
        shuffle_slices(values, parameters) for values in (views, slices, z, box_masks)
    )
    if augment.mixup_alpha > 0:
        located = located & located.roll(1, 0)
        known = known & known.roll(1, 0) & _visible_columns(located)
        unknown = (slices < 0) | (slices.roll(1, 0) < 0)
        views, labels = mix(views, parameters), mix(labels, parameters)
        slices = mix(slices, parameters).masked_fill(unknown, -1.0)
        return Inputs(views, located, labels, known, slices, z)
    return Inputs(views, located, labels, known, slices, z, box_masks)


def _visible_columns(located: Tensor) -> Tensor:
    """(study, level + 1): the located levels, and the patients with at least one of them."""
    return torch.cat([located, located.any(dim=1, keepdim=True)], dim=1)


def _crop_centre(voxels: Tensor, size: tuple[int, int] | None) -> Tensor:
    """The middle ``size`` rows and columns of (..., y, x), or all if ``size`` is None."""
    if size is None:
        return voxels
    for axis, wanted in zip((-2, -1), size, strict=True):
        length = min(wanted, voxels.shape[axis])
        voxels = voxels.narrow(axis, (voxels.shape[axis] - length) // 2, length)
    return voxels


def _views(image: Tensor, mask: Tensor, level_labels: Tensor, z: Tensor, view: ViewSettings) -> Tensor:
    if view.kind == "stack":
        return stack_2_5d(image, mask, level_labels, z, neighbours=view.neighbours)
    index = z.clamp(min=0)[..., None, None].expand(*z.shape, *image.shape[-2:])
    return windows(image.gather(2, index))
