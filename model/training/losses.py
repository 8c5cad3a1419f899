"""What training minimises, as sums and the weights to divide them by.

A sum and its weight are kept apart until those of all ranks are added: each step's loss is then the same,
however many processes share its batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, binary_cross_entropy_with_logits, softplus

from model.inference.metrics import PATIENT_WEIGHTS, VERTEBRA_WEIGHTS


class Term(NamedTuple):
    """One part of a loss: ``factor * total / weight``; ``total`` and ``weight`` are scalars."""

    total: Tensor
    weight: Tensor
    factor: float = 1.0


def column_term(logits: Tensor, labels: Tensor, known: Tensor) -> Term:
    """The competition's weighted log loss, global convention.

    ``logits``, ``labels`` (mixed samples lie between 0 and 1), ``known``: (study, level + 1), patient last.
    """
    weights = torch.where(known, _column_weights(labels), 0.0)
    losses = binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return Term((losses * weights).sum(), weights.sum())


def _column_weights(labels: Tensor) -> Tensor:
    patient = torch.arange(labels.shape[-1], device=labels.device) == labels.shape[-1] - 1
    negative = torch.where(patient, PATIENT_WEIGHTS[0], VERTEBRA_WEIGHTS[0])
    positive = torch.where(patient, PATIENT_WEIGHTS[1], VERTEBRA_WEIGHTS[1])
    return negative + labels * (positive - negative)


def place_term(places: Tensor, labels: Tensor, marks: Tensor) -> Term:
    """What `slice_term` says of slices, and where in them: (n, y, x) evidence, (n,) labels 0, 1 or -1.

    A fractured slice should have evidence within its box and none elsewhere, any other slice none at all:
    cross-entropy of the greatest within, where there is a box, plus that of the greatest elsewhere.
    ``marks`` (n, any y, any x) is 1 within boxes. A fractured slice whose box is out of sight is left out.
    """
    within = adaptive_max_pool2d(marks[:, None].to(places.dtype), places.shape[-2:])[:, 0] > 0
    boxed = (labels > 0) & within.any(dim=(1, 2))
    counted = (labels == 0) | boxed
    nothing = torch.finfo(places.dtype).min / 2
    inside = places.masked_fill(~within, nothing).amax(dim=(1, 2))
    outside = places.masked_fill(within, nothing).amax(dim=(1, 2))
    missed = softplus(-inside).masked_fill(~boxed, 0.0)
    wrong = softplus(outside).masked_fill(~counted, 0.0)
    return Term((missed + wrong).sum(), counted.sum().float())


def slice_term(logits: Tensor, labels: Tensor, factor: float = 1.0) -> Term:
    """Binary cross-entropy over the slices whose label is known (not -1); both of one shape.

    Labels may lie between 0 and 1 where samples were mixed.
    """
    known = labels >= 0
    losses = binary_cross_entropy_with_logits(logits, labels.clamp(min=0).to(logits.dtype), reduction="none")
    return Term((losses * known).sum(), known.sum().float(), factor)
