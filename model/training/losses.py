"""Losses as a sum and the weight to divide it by.

Sums and weights are added over all ranks before they are divided: each step's loss is then the same, however
many processes share its batch.
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

    ``logits``, ``labels`` (between 0 and 1 where samples are mixed) and ``known`` are (study, level + 1), the
    patient last.
    """
    weights = torch.where(known, _column_weights(labels), 0.0)
    losses = binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return Term((losses * weights).sum(), weights.sum())


def _column_weights(labels: Tensor) -> Tensor:
    patient = torch.arange(labels.shape[-1], device=labels.device) == labels.shape[-1] - 1
    negative = torch.where(patient, PATIENT_WEIGHTS[0], VERTEBRA_WEIGHTS[0])
    positive = torch.where(patient, PATIENT_WEIGHTS[1], VERTEBRA_WEIGHTS[1])
    return negative + labels * (positive - negative)


def slice_term(logits: Tensor, labels: Tensor, factor: float = 1.0) -> Term:
    """Binary cross-entropy over the slices whose label is known (not -1).

    ``logits`` and ``labels`` have the same shape; labels lie between 0 and 1 where samples are mixed.
    """
    known = labels >= 0
    losses = binary_cross_entropy_with_logits(logits, labels.clamp(min=0).to(logits.dtype), reduction="none")
    return Term((losses * known).sum(), known.sum().float(), factor)


def evidence_term(evidence: Tensor, labels: Tensor, box_masks: Tensor) -> Term:
    """Cross-entropy of the evidence inside and outside the fracture boxes.

    A fractured slice should have evidence inside its box and none outside, any other slice none at all: the
    loss is the cross-entropy of the highest evidence inside, if there is a box, plus that of the highest
    outside. A fractured slice without a visible box is ignored.

    Parameters
    ----------
    evidence
        (n, y, x) logits of `EvidenceEncoder`'s map.
    labels
        (n,): 0, 1 or -1 (unknown).
    box_masks
        (n, any y, any x): 1 inside boxes, else 0.
    """
    inside_box = adaptive_max_pool2d(box_masks[:, None].to(evidence.dtype), evidence.shape[-2:])[:, 0] > 0
    boxed = (labels > 0) & inside_box.any(dim=(1, 2))
    counted = (labels == 0) | boxed
    lowest = torch.finfo(evidence.dtype).min / 2
    inside = evidence.masked_fill(~inside_box, lowest).amax(dim=(1, 2))
    outside = evidence.masked_fill(inside_box, lowest).amax(dim=(1, 2))
    missed = softplus(-inside).masked_fill(~boxed, 0.0)
    false_alarm = softplus(outside).masked_fill(~counted, 0.0)
    return Term((missed + false_alarm).sum(), counted.sum().float())
