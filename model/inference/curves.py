"""ROC and reliability curves, and what a network saw in a study."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from model.inference.metrics import FloatArray
from model.output import write_atomically
from spine_etl.errors import OutputUnwritable

_BINS = 10
_WINDOW_HU = (-500, 1300)
"""The bone window that the network sees, lower and upper end."""


def roc_curve(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """False and true positive rates from (0, 0) to (1, 1), one point for each different probability."""
    labels, scores = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    cuts = np.concatenate([[np.inf], np.unique(scores)[::-1]])
    above = scores[None, :] >= cuts[:, None]
    positive, negative = labels == 1, labels == 0
    false = (above & negative).sum(axis=1) / negative.sum()
    true = (above & positive).sum(axis=1) / positive.sum()
    return false, true


def reliability_curve(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = _BINS
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.int64]]:
    """For each bin of equal width that holds any: mean probability, share of positives, number."""
    labels, scores = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    place = np.minimum((scores * bins).astype(int), bins - 1)
    number = np.bincount(place, minlength=bins)
    some = number > 0
    said = np.bincount(place, scores, bins)[some] / number[some]
    true = np.bincount(place, labels == 1, bins)[some] / number[some]
    return said, true, number[some]


def draw_curves(
    labels: npt.NDArray[Any], probabilities: npt.NDArray[Any], columns: Sequence[str], folder: Path
) -> list[Path]:
    """Write ``roc.png`` and ``reliability.png``; columns whose labels are all alike have no ROC curve."""
    known = labels >= 0
    vertebrae, patient = (slice(None), slice(0, -1)), (slice(None), slice(-1, None))
    parts = [("vertebrae", vertebrae), (columns[-1], patient)]
    parts += [(name, (slice(None), slice(k, k + 1))) for k, name in enumerate(columns[:-1])]
    roc, reliability = Figure((5, 5), layout="constrained"), Figure((5, 5), layout="constrained")
    roc_axes, reliability_axes = roc.add_subplot(), reliability.add_subplot()
    for number, (name, part) in enumerate(parts):
        truth, said = labels[part][known[part]], probabilities[part][known[part]]
        if len(np.unique(truth)) == 2:
            wide = 2.0 if number < 2 else 0.7
            rates = roc_curve(truth, said)
            roc_axes.step(*rates, where="post", label=f"{name} ({len(truth)})", linewidth=wide)
        if number < 2 and len(truth):
            mean, share, count = reliability_curve(truth, said)
            reliability_axes.plot(mean, share, marker="o", label=name)
            for x, y, n in zip(mean, share, count, strict=True):
                reliability_axes.text(x + 0.01, y + 0.01, str(n), fontsize=7)
    _finish(roc_axes, "false positive rate", "true positive rate")
    _finish(reliability_axes, "probability said", "share fractured (figures: how many)")
    paths = [folder / "roc.png", folder / "reliability.png"]
    for figure, path in zip((roc, reliability), paths, strict=True):
        save_picture(figure, path)
    return paths


def save_picture(figure: Figure, path: Path) -> None:
    """Write it as PNG. Raises OutputUnwritable, for a file of another name too."""
    if path.suffix.lower() != ".png":
        raise OutputUnwritable(f"{path.name}: pictures are PNG.", action="Name a file that ends in .png.")
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png")
    write_atomically(path, content.getvalue())


def _finish(axes: Axes, x: str, y: str) -> None:
    axes.plot([0, 1], [0, 1], color="0.8", linewidth=1, zorder=0)
    axes.set(xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)


@dataclass(frozen=True, eq=False)
class LevelView:
    """A vertebra as `draw_study` shows it.

    ``image`` (z, y, x) HU and ``own`` its mask; ``positions`` (n,) the slices that the network saw and
    ``slices`` their probabilities; ``boxes`` (k, 6) z0, y0, x0, z1, y1, x1 in voxels; ``truth`` 0, 1 or -1.
    """

    name: str
    image: npt.NDArray[np.int16]
    own: npt.NDArray[np.bool_]
    positions: npt.NDArray[np.int64]
    slices: FloatArray
    probability: float
    boxes: FloatArray
    truth: int


_TRUTH = {0: "not fractured", 1: "fractured", -1: "unknown"}


def draw_study(
    title: str, levels: Sequence[LevelView | None], names: Sequence[str], spacing_mm: float
) -> Figure:
    """The vertebrae side by side: sagittal and axial tile, and each slice's probability under them.

    The axial tile is the most suspicious slice, the sagittal one runs through the middle of the vertebra.
    Outlines: green the vertebra's mask, red the boxes that were marked. A level that is not located is None.
    """
    first = next((level for level in levels if level), None)
    z, y, x = first.image.shape if first else (3, 5, 6)
    heights = [z / y, y / x, 0.8]  # of the tiles' width, so that none leaves a gap
    figure = Figure((2.1 * len(names), 2.0 * sum(heights) + 1.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(3, len(names), squeeze=False, height_ratios=heights)
    for column, (name, level) in enumerate(zip(names, levels, strict=True)):
        for axes in grid[:2, column]:
            axes.set_axis_off()
        if level is None:
            grid[0, column].set_title(f"{name}\nnot located", fontsize=8)
            grid[2, column].set_axis_off()
            continue
        grid[0, column].set_title(f"{name}: {level.probability:.2f}\ntrue: {_TRUTH[level.truth]}", fontsize=8)
        _sagittal(grid[0, column], level)
        _axial(grid[1, column], level)
        _curve(grid[2, column], level, spacing_mm, first=level is first)
    return figure


def _sagittal(axes: Axes, level: LevelView) -> None:
    """Superior up, anterior to the left."""
    x = round(float(np.mean(np.nonzero(level.own.any(axis=(0, 1)))[0])))
    _tile(axes, level.image[:, :, x], level.own[:, :, x], origin="lower")
    for z0, y0, _, z1, y1, _ in level.boxes.tolist():
        axes.add_patch(Rectangle((y0, z0), y1 - y0, z1 - z0, fill=False, edgecolor="red", linewidth=0.8))
    axes.axhline(_suspect(level), color="yellow", linewidth=0.6)


def _axial(axes: Axes, level: LevelView) -> None:
    """Anterior up, the patient's left on the right."""
    z = _suspect(level)
    _tile(axes, level.image[z], level.own[z], origin="upper")
    for z0, y0, x0, z1, y1, x1 in level.boxes.tolist():
        if z0 - 0.5 <= z <= z1 + 0.5:
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="red", linewidth=0.8))


def _tile(axes: Axes, image: npt.NDArray[np.int16], own: npt.NDArray[np.bool_], origin: Any) -> None:
    low, high = _WINDOW_HU
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, origin=origin, interpolation="nearest")
    if own.any() and not own.all():
        axes.contour(own, levels=[0.5], colors="lime", linewidths=0.4)


def _suspect(level: LevelView) -> int:
    return int(level.positions[int(np.argmax(level.slices))])


def _curve(axes: Axes, level: LevelView, spacing_mm: float, *, first: bool) -> None:
    order = np.argsort(level.positions, kind="stable")
    axes.plot(level.positions[order] * spacing_mm, level.slices[order], color="black", linewidth=1)
    for box in level.boxes.tolist():
        axes.axvspan((box[0] - 0.5) * spacing_mm, (box[3] + 0.5) * spacing_mm, color="red", alpha=0.08)
    axes.set(ylim=(0, 1))
    axes.set_xlabel("mm up", fontsize=7)
    axes.tick_params(labelsize=6, labelleft=first)
    if first:
        axes.set_ylabel("probability of the slice", fontsize=7)
