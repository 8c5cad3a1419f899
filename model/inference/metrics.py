"""The competition's weighted log loss, the scores of constants, and the area under the ROC curve.

Arrays are (studies, levels + 1): a column for each level from head to foot (C1..C7), then patient_overall.
Labels are 0, 1 or -1 (unknown); unknown labels are ignored.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Convention = Literal["global", "per_study"]

VERTEBRA_WEIGHTS = (1.0, 2.0)
"""Weights of a negative and of a positive vertebra (RSNA 2022, evaluation page)."""
PATIENT_WEIGHTS = (7.0, 14.0)
"""Weights of a negative and of a positive patient: as much as those of all seven vertebrae together."""
CLIP = 1e-7
"""Distance that probabilities keep from 0 and 1, so that a certain mistake costs 16 and not infinity."""


def label_weights(labels: npt.ArrayLike) -> FloatArray:
    """The weight of each label, 0 where it is unknown; shaped as the labels (..., levels + 1)."""
    labels = np.asarray(labels)
    patient = np.arange(labels.shape[-1]) == labels.shape[-1] - 1
    negative = np.where(patient, PATIENT_WEIGHTS[0], VERTEBRA_WEIGHTS[0])
    positive = np.where(patient, PATIENT_WEIGHTS[1], VERTEBRA_WEIGHTS[1])
    weights: FloatArray = np.where(labels == 1, positive, np.where(labels == 0, negative, 0.0))
    return weights


def weighted_log_loss(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, convention: Convention = "global"
) -> float:
    """The weighted multi-label log loss of RSNA 2022, natural logarithm.

    Parameters
    ----------
    labels, probabilities
        (studies, levels + 1). A probability may be anything where the label is unknown.
    convention
        ``global``: the sum of all weighted losses over the sum of all weights. ``per_study``: each study's
        sum over its own weights, then the mean over the studies that have a known label. Teams use both.

    Raises
    ------
    ValueError
        If the shapes differ, no label is known, or a known label has a probability outside 0 to 1.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if labels.ndim != 2 or labels.shape != probabilities.shape:
        raise ValueError(
            f"labels {labels.shape} and probabilities {probabilities.shape} must have the same 2D shape"
        )
    weights = label_weights(labels)
    known = weights > 0
    if not known.any():
        raise ValueError("no label is known, so there is nothing to score")
    if not ((probabilities[known] >= 0) & (probabilities[known] <= 1)).all():
        raise ValueError("a known label has a probability outside 0 to 1")
    likelihood = np.where(labels == 1, probabilities, 1 - probabilities)
    losses = -weights * np.log(np.clip(np.where(known, likelihood, 1.0), CLIP, 1 - CLIP))
    if convention == "global":
        return float(losses.sum() / weights.sum())
    if convention == "per_study":
        counted = known.any(axis=1)
        return float((losses[counted].sum(axis=1) / weights[counted].sum(axis=1)).mean())
    raise ValueError(f"convention must be global or per_study, not {convention!r}")


def constant_baselines(train_labels: npt.ArrayLike) -> dict[str, FloatArray]:
    """Constant predictions, which need no image: a probability (levels + 1,) for each column.

    ``half`` is 0.5 everywhere; ``prevalence`` is the mean of the column's known labels;
    ``weighted_prevalence`` is their mean under the weights, the constant that minimises the global loss and
    the one to beat. A column without any known label has 0.5.
    """
    labels = np.asarray(train_labels)
    weights, known = label_weights(labels), labels >= 0
    half = np.full(labels.shape[1], 0.5)
    positive = labels == 1
    return {
        "half": half,
        "prevalence": _weighted_mean(positive, known.astype(np.float64), half),
        "weighted_prevalence": _weighted_mean(positive, weights, half),
    }


def _weighted_mean(positive: npt.NDArray[np.bool_], weights: FloatArray, default: FloatArray) -> FloatArray:
    total = weights.sum(axis=0)
    mean = (positive * weights).sum(axis=0) / np.maximum(total, 1e-9)
    result: FloatArray = np.where(total > 0, mean, default)
    return result


def auroc(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> FloatArray:
    """(levels + 1,): the area under each column's ROC curve, NaN where its known labels are all the same."""
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    return np.array([_area(labels[:, k], probabilities[:, k]) for k in range(labels.shape[1])])


def pooled_auroc(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """The area under the ROC curve of all vertebrae together, NaN if all labels are the same.

    With few studies most levels have at most one fracture, so their own areas are NaN or mostly chance.
    """
    return _area(np.asarray(labels)[:, :-1].ravel(), np.asarray(probabilities)[:, :-1].ravel())


def _area(labels: npt.NDArray[Any], probabilities: npt.NDArray[Any]) -> float:
    known = labels >= 0
    if len(np.unique(labels[known])) < 2:
        return float("nan")
    import torch
    from torchmetrics.functional.classification import binary_auroc

    # As float64: probabilities that differ only beyond float32 would be ties.
    scores = torch.as_tensor(probabilities[known], dtype=torch.float64)
    return float(binary_auroc(scores, torch.as_tensor(labels[known], dtype=torch.int64)))
