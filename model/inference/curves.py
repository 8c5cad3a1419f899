"""ROC and reliability curves of a scored fold, and their figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binned_statistic
from torchmetrics.functional.classification import binary_roc

from model.inference.metrics import FloatArray
from model.output import write_figure

_BINS = 10


def roc_curve(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """False and true positive rates from (0, 0) to (1, 1), one point for each distinct probability.

    ``labels`` (n,) are 0 or 1, and both occur.
    """
    # As float64, so that probabilities that differ only beyond float32 are no ties.
    scores = torch.as_tensor(np.asarray(probabilities, dtype=np.float64))
    truth = torch.as_tensor(np.asarray(labels, dtype=np.int64))
    false_positive, true_positive, _ = binary_roc(scores, truth)
    return false_positive.numpy(), true_positive.numpy()


def reliability_curve(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = _BINS
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.int64]]:
    """For each non-empty bin of equal width: mean probability, share of positives, number of labels."""
    labels, scores = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    values = np.stack([scores, labels == 1])
    means, _, index = binned_statistic(scores, values, statistic="mean", bins=bins, range=(0, 1))
    count = np.bincount(index - 1, minlength=bins)
    occupied = count > 0
    return means[0][occupied], means[1][occupied], count[occupied]


def draw_curves(
    labels: npt.NDArray[Any], probabilities: npt.NDArray[Any], columns: Sequence[str], folder: Path
) -> list[Path]:
    """Write ``roc.png`` and ``reliability.png`` and return their paths.

    Parameters
    ----------
    labels, probabilities
        (studies, levels + 1), the patient last; labels are 0, 1 or -1 (unknown). A column without both
        kinds of labels has no ROC curve.
    columns
        Names of the columns.

    Raises
    ------
    OutputUnwritable
        If a file cannot be written.
    """
    known = labels >= 0
    vertebrae, patient = (slice(None), slice(0, -1)), (slice(None), slice(-1, None))
    pooled = [("vertebrae", vertebrae), (columns[-1], patient)]
    levels = [(name, (slice(None), slice(k, k + 1))) for k, name in enumerate(columns[:-1])]
    roc, reliability = Figure((5, 5), layout="constrained"), Figure((5, 5), layout="constrained")
    roc_axes, reliability_axes = roc.add_subplot(), reliability.add_subplot()
    for name, part in [*pooled, *levels]:
        truth, scores = labels[part][known[part]], probabilities[part][known[part]]
        is_pooled = (name, part) in pooled
        if len(np.unique(truth)) == 2:
            width = 2.0 if is_pooled else 0.7
            rates = roc_curve(truth, scores)
            roc_axes.step(*rates, where="post", label=f"{name} ({len(truth)})", linewidth=width)
        if is_pooled and len(truth):
            _draw_reliability(reliability_axes, name, truth, scores)
    _finish(roc_axes, "false positive rate", "true positive rate")
    _finish(reliability_axes, "predicted probability", "share fractured (numbers: labels in the bin)")
    paths = [folder / "roc.png", folder / "reliability.png"]
    for figure, path in zip((roc, reliability), paths, strict=True):
        write_figure(path, figure)
    return paths


def _draw_reliability(axes: Axes, name: str, labels: npt.NDArray[Any], scores: npt.NDArray[Any]) -> None:
    predicted, observed, counts = reliability_curve(labels, scores)
    axes.plot(predicted, observed, marker="o", label=name)
    for x, y, count in zip(predicted, observed, counts, strict=True):
        axes.text(x + 0.01, y + 0.01, str(count), fontsize=7)


def _finish(axes: Axes, x: str, y: str) -> None:
    """Add the diagonal, the labels of the axes and a legend."""
    axes.plot([0, 1], [0, 1], color="0.8", linewidth=1, zorder=0)
    axes.set(xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)
