"""From a batch of crops to what the network sees, augmented where it trains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.data.augment import Settings, apply, draw, mix, shuffle_slices
from model.data.loader import Batch
from model.data.views import ViewSettings, at_positions, box_marks, slice_positions, stack_2_5d, windows


@dataclass(frozen=True, eq=False)
class Inputs:
    """A batch as the network sees it.

    Attributes
    ----------
    views
        float32 (study, level, slice, channel, y, x).
    located
        bool (study, level): whether the level has a crop with voxels of its own.
    labels, known
        (study, level + 1). Of a level that is not located, and of a patient without any, nothing is known:
        no picture could tell it.
    slices
        float32 (study, level, slice): 1 fracture marked, 0 none, -1 unknown.
    marks
        uint8 (study, level, slice, y, x): 1 within the fracture boxes of the level. None where nothing is
        trained, or samples are mixed.
    positions
        int64 (study, level, slice): the slice's z index in the crop, -1 where there is none.
    """

    views: Tensor
    located: Tensor
    labels: Tensor
    known: Tensor
    slices: Tensor
    positions: Tensor
    marks: Tensor | None = None


def inputs_of(batch: Batch, own: Tensor, view: ViewSettings, augment: Settings | None = None) -> Inputs:
    """What the network sees of a batch; ``own`` is `views.own_labels`. Without ``augment``, as it is."""
    image, mask = _middle(batch.image, view.size), _middle(batch.mask, view.size)
    depth, levels = image.shape[2], image.shape[1]
    parameters = draw(batch.seed, levels, view.positions, augment) if augment else None
    z = slice_positions(batch.mask, own, view.positions, parameters.slide if parameters else None)
    if parameters:
        marks = _middle(box_marks(batch.slice_box, z, batch.image.shape[-2:]), view.size)
        # In-plane, each slice for itself: the marks go through it as further slices of the mask.
        image, labelled = apply(image, torch.cat([mask, marks], dim=2), parameters)
        mask, marks = labelled[:, :, :depth], labelled[:, :, depth:]
    views = _views(image, mask, own, z, view)
    slices = at_positions(batch.slice_fracture, z).float()
    located = batch.located & (z >= 0).all(dim=2)
    known = batch.known & _to_be_seen(located)
    labels = batch.labels.clone()
    if parameters is None or augment is None:
        return Inputs(views, located, labels, known, slices, z)
    views, slices, z, marks = (shuffle_slices(values, parameters) for values in (views, slices, z, marks))
    if augment.mixup_alpha > 0:
        located = located & located.roll(1, 0)
        known = known & known.roll(1, 0) & _to_be_seen(located)
        unknown = (slices < 0) | (slices.roll(1, 0) < 0)
        views, labels = mix(views, parameters), mix(labels, parameters)
        slices = mix(slices, parameters).masked_fill(unknown, -1.0)
        return Inputs(views, located, labels, known, slices, z)
    return Inputs(views, located, labels, known, slices, z, marks)


def _to_be_seen(located: Tensor) -> Tensor:
    """(study, level + 1): the levels that are located, and the patients who have one."""
    return torch.cat([located, located.any(dim=1, keepdim=True)], dim=1)


def _middle(voxels: Tensor, size: tuple[int, int] | None) -> Tensor:
    """The middle ``size`` rows and columns of (..., y, x)."""
    if size is None:
        return voxels
    for axis, wanted in zip((-2, -1), size, strict=True):
        kept = min(wanted, voxels.shape[axis])
        voxels = voxels.narrow(axis, (voxels.shape[axis] - kept) // 2, kept)
    return voxels


def _views(image: Tensor, mask: Tensor, own: Tensor, z: Tensor, view: ViewSettings) -> Tensor:
    if view.kind == "stack":
        return stack_2_5d(image, mask, own, z, neighbours=view.neighbours)
    place = z.clamp(min=0)[..., None, None].expand(*z.shape, *image.shape[-2:])
    return windows(image.gather(2, place))
