"""A picture of how a network judged one study: `model.explain` without the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from model.device import choose_device
from model.inference.calibration import probabilities
from model.inference.metrics import FloatArray
from model.inference.predictor import Predictor
from model.inference.weights import ModelDescription, constant_prediction, load_model
from model.options import ExplainOptions
from model.output import write_figure
from spine_etl.store import Store, open_store
from spine_etl.windows import BONE

_LABEL_TEXTS = {0: "not fractured", 1: "fractured", -1: "unknown"}


@dataclass(frozen=True, eq=False)
class ExplainedLevel:
    """A located vertebra, and what the network made of it.

    Attributes
    ----------
    image, mask
        (z, y, x) HU of the crop, and whether a voxel is the vertebra's own.
    positions, slice_probabilities
        (n,) z index of each slice that the network saw, and its probability.
    boxes
        (k, 6) fracture boxes z0, y0, x0, z1, y1, x1 in voxels of the crop.
    label
        0, 1 or -1 (unknown).
    """

    name: str
    image: npt.NDArray[np.int16]
    mask: npt.NDArray[np.bool_]
    positions: npt.NDArray[np.int64]
    slice_probabilities: FloatArray
    probability: float
    boxes: FloatArray
    label: int

    @property
    def most_suspicious_z(self) -> int:
        """z index of the slice with the highest probability."""
        return int(self.positions[int(np.argmax(self.slice_probabilities))])


def explain_study(options: ExplainOptions) -> None:
    """Write `study_figure` to ``options.out``.

    Raises
    ------
    StudyNotInStore, StoreError
        If the study is not in the store, or its objects cannot be read.
    CheckpointInvalid
        If the run has not finished, is damaged, or was trained on a store of another recipe.
    OutputUnwritable
        If the picture cannot be written, or its name does not end in .png.
    """
    write_figure(options.out, study_figure(options))


def study_figure(options: ExplainOptions) -> Figure:
    """The figure of a study, with the patient's probability in its title.

    The curves are the CNN's slice probabilities without a temperature; those of the vertebrae and of the
    patient use the run's. A patient without a located vertebra has the run's `constant_prediction`, as in
    the submission table. Errors are those of `explain_study`, except for the picture's.
    """
    store = open_store(options.store, cache=options.cache)
    study = store.index(options.study)
    network, model = load_model(options.checkpoint, store)
    levels: list[ExplainedLevel | None] = [None] * len(store.levels)
    patient = float(constant_prediction([model])[-1])
    if store.located()[study].any():
        device = choose_device(options.device)
        predictor = Predictor(network.to(device), model.view, store, device)
        levels, patient = _explained_levels(predictor, study, model.temperature)
    title = _title(store, study, model, patient)
    return draw_study(title, levels, store.levels, store.recipe.crop.spacing_mm)


def _explained_levels(
    predictor: Predictor, study: int, temperature: float
) -> tuple[list[ExplainedLevel | None], float]:
    """The study's levels, None where not located, and the patient's probability."""
    store = predictor.store
    ((_, inputs, logits),) = predictor.logits(np.array([study], dtype=np.int64))
    columns = probabilities(logits.columns[0].cpu().numpy(), temperature)
    slices = probabilities(logits.slices[0].float().cpu().numpy())
    positions = inputs.positions[0].cpu().numpy()
    image, mask = store.image(study), store.mask(study)
    levels: list[ExplainedLevel | None] = [None] * len(store.levels)
    for k in inputs.located[0].nonzero()[:, 0].tolist():
        levels[k] = ExplainedLevel(
            name=store.levels[k],
            image=image[k],
            mask=mask[k] == store.recipe.levels[store.levels[k]],
            positions=positions[k],
            slice_probabilities=slices[k],
            probability=float(columns[k]),
            boxes=level_boxes(store, study, k),
            label=int(store.table["fracture"][study, k]),
        )
    return levels, float(columns[-1])


def level_boxes(store: Store, study: int, level: int) -> npt.NDArray[Any]:
    """(k, 6) boxes of the level, and those assigned to no level, if they touch the level's crop."""
    assigned = np.isin(store.table["box_level"], [level, -1]) & (store.table["box_study"] == study)
    boxes = store.table["box_crop"][assigned, level]
    touching: npt.NDArray[Any] = boxes[~np.isnan(boxes).any(axis=1)]
    return touching


def _title(store: Store, study: int, model: ModelDescription, patient: float) -> str:
    held_out = int(store.table["fold"][study]) == model.fold
    part = "held out from training" if held_out else "in a training fold"
    return f"{store.study_uids[study]}, {part}: patient {patient:.2f} ({model.recipe})"


def draw_study(
    title: str, levels: Sequence[ExplainedLevel | None], names: Sequence[str], spacing_mm: float
) -> Figure:
    """The vertebrae side by side: a sagittal and an axial tile, and the slices' probabilities below them.

    The axial tile is the most suspicious slice; the sagittal tile runs through the middle of the vertebra.
    Outlines: the vertebra's mask in green, fracture boxes in red. A level that is not located is None.
    """
    first = next((level for level in levels if level), None)
    z, y, x = first.image.shape if first else (3, 5, 6)
    heights = [z / y, y / x, 0.8]  # relative to the tiles' width, so that no tile leaves a gap
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
        label = _LABEL_TEXTS[level.label]
        grid[0, column].set_title(f"{name}: {level.probability:.2f}\ntrue: {label}", fontsize=8)
        _draw_sagittal(grid[0, column], level)
        _draw_axial(grid[1, column], level)
        _draw_slice_probabilities(grid[2, column], level, spacing_mm, is_first=level is first)
    return figure


def _draw_sagittal(axes: Axes, level: ExplainedLevel) -> None:
    """Superior is up, anterior is left."""
    x = round(float(np.mean(np.nonzero(level.mask.any(axis=(0, 1)))[0])))
    _draw_tile(axes, level.image[:, :, x], level.mask[:, :, x], origin="lower")
    for z0, y0, _, z1, y1, _ in level.boxes.tolist():
        axes.add_patch(Rectangle((y0, z0), y1 - y0, z1 - z0, fill=False, edgecolor="red", linewidth=0.8))
    axes.axhline(level.most_suspicious_z, color="yellow", linewidth=0.6)


def _draw_axial(axes: Axes, level: ExplainedLevel) -> None:
    """Anterior is up, the patient's left is right."""
    z = level.most_suspicious_z
    _draw_tile(axes, level.image[z], level.mask[z], origin="upper")
    for z0, y0, x0, z1, y1, x1 in level.boxes.tolist():
        if z0 - 0.5 <= z <= z1 + 0.5:
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="red", linewidth=0.8))


def _draw_tile(axes: Axes, image: npt.NDArray[np.int16], mask: npt.NDArray[np.bool_], origin: Any) -> None:
    low, high = BONE.limits
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, origin=origin, interpolation="nearest")
    if mask.any() and not mask.all():
        axes.contour(mask, levels=[0.5], colors="lime", linewidths=0.4)


def _draw_slice_probabilities(
    axes: Axes, level: ExplainedLevel, spacing_mm: float, *, is_first: bool
) -> None:
    order = np.argsort(level.positions, kind="stable")
    heights_mm = level.positions[order] * spacing_mm
    axes.plot(heights_mm, level.slice_probabilities[order], color="black", linewidth=1)
    for box in level.boxes.tolist():
        axes.axvspan((box[0] - 0.5) * spacing_mm, (box[3] + 0.5) * spacing_mm, color="red", alpha=0.08)
    axes.set(ylim=(0, 1))
    axes.set_xlabel("height in the crop (mm)", fontsize=7)
    axes.tick_params(labelsize=6, labelleft=is_first)
    if is_first:
        axes.set_ylabel("slice probability", fontsize=7)
