"""The pictures of a study, as it lies in its source folder and as it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spine_etl.geometry import FloatArray
from spine_etl.report.describe import label_names
from spine_etl.report.drawing import BONE, Style, Window, draw
from spine_etl.report.panels import (
    Panel,
    block_panels,
    choose_slices,
    reslice_panels,
    slice_panels,
)
from spine_etl.source.layout import PATIENT, Study
from spine_etl.store import Store
from spine_etl.store.schema import LEVEL_STATUS
from spine_etl.volume import LabelMap, Volume

_WHY_NO_CROP = {"unlocated": "not located:\nno segmentation", "absent": "absent from\nthe segmentation"}
_NO_BOXES = np.empty((0, 6))
_FRACTURE = {1: "fractured", 0: "no fracture", -1: "label unknown"}


def draw_study(
    out: Path,
    study: Study,
    volume: Volume,
    mask: LabelMap | None,
    *,
    names: Mapping[int, str],
    window: Window = BONE,
    start: int | None = None,
) -> list[Path]:
    """Draw a study of a source folder; the files written.

    ``<uid>_slices.png``: 18 consecutive slices with the fracture boxes that name them; ``<uid>_mask.png``:
    the segmentation on the same slices, where there is one; ``<uid>_reslices.png``: sagittal and coronal.

    Raises
    ------
    SourceNotFound
        If no slice has the number ``start``.
    """
    panels = slice_panels(volume, choose_slices(volume, study.boxes, mask, start), study.boxes, mask)
    plain = Style(_study_title(study, volume), window, names)
    pictures = [out / f"{study.uid}_slices.png"]
    draw(pictures[0], [replace(panel, mask=None) for panel in panels], 6, plain)
    if mask is not None:
        pictures.append(out / f"{study.uid}_mask.png")
        draw(pictures[-1], panels, 6, replace(plain, mask="filled"))
    pictures.append(out / f"{study.uid}_reslices.png")
    draw(pictures[-1], reslice_panels(volume, mask), 2, replace(plain, mask="outlined"), inches_wide=14)
    return pictures


def draw_stored(out: Path, store: Store, uid: str, *, window: Window = BONE) -> list[Path]:
    """Draw a stored study; the files written.

    ``<uid>_crops.png``: each level's crop in three planes; ``<uid>_overview.png``: the whole neck.

    Raises
    ------
    StudyNotInStore
        If the version does not hold it.
    ChunkMissing, ChunkCorrupt
        If one of its objects is not as it was committed.
    """
    study = store.index(uid)
    title = f"{uid}  |  version {store.version}  |  {_overall(int(store.table['patient_overall'][study]))}"
    style = Style(title, window, label_names(store.recipe), "outlined")
    by_level = _level_cells(store, study)
    pictures = [out / f"{uid}_crops.png", out / f"{uid}_overview.png"]
    rows = max(map(len, by_level))
    cells = [column[row] if row < len(column) else "" for row in range(rows) for column in by_level]
    draw(pictures[0], cells, len(by_level), style, inches_wide=3.2 * len(by_level))
    draw(pictures[1], _overview_panels(store, study), 2, style, inches_wide=11)
    return pictures


def _study_title(study: Study, volume: Volume) -> str:
    z, y, x = volume.grid.spacing_mm
    return f"{study.uid}  |  {z:.3g} x {y:.3g} x {x:.3g} mm  |  {_labels_text(study)}"


def _labels_text(study: Study) -> str:
    if study.labels is None:
        return "no labels"
    broken = [level for level, value in study.labels.items() if value and level != PATIENT]
    return f"fractured: {', '.join(broken)}" if broken else _overall(study.labels[PATIENT])


def _overall(label: int) -> str:
    return f"patient: {_FRACTURE[label]}"


def _level_cells(store: Store, study: int) -> list[list[Panel | str]]:
    """For each level its sagittal, coronal and axial panel, or why there are none."""
    image, mask = store.image(study), store.mask(study)
    ours = store.table["box_study"] == study
    boxes, box_levels = store.table["box_crop"][ours], store.table["box_level"][ours]
    cells: list[list[Panel | str]] = []
    for index, level in enumerate(store.levels):
        status = LEVEL_STATUS[int(store.table["level_status"][study, index])]
        if status != "located":
            cells.append([f"{level}\n{_WHY_NO_CROP[status]}"])
            continue
        inside = ~np.isnan(boxes[:, index, 0])
        groups = {int(k): boxes[inside & (box_levels == k), index] for k in np.unique(box_levels)}
        center = _center(image[index].shape, groups.get(index, _NO_BOXES))
        spacing = store.recipe.crop.spacing_mm
        panels = block_panels(image[index], mask[index], spacing, center, list(groups.values()))
        first = replace(panels[0], title=f"{_level_title(store, study, index)}\n{panels[0].title}")
        cells.append([first, *panels[1:]])
    return cells


def _level_title(store: Store, study: int, index: int) -> str:
    covered = float(store.table["coverage"][study, index])
    part = "" if covered > 0.9995 else f", {covered:.1%} covered"
    return f"{store.levels[index]}: {_FRACTURE[int(store.table['fracture'][study, index])]}{part}"


def _center(shape: tuple[int, ...], own_boxes: FloatArray) -> list[int]:
    """The middle voxel of a crop, at the height of its level's middle box where it has boxes."""
    middle = [n // 2 for n in shape]
    if len(own_boxes):
        heights = np.sort((own_boxes[:, 0] + own_boxes[:, 3]) / 2)
        middle[0] = int(np.clip(np.rint(heights[len(heights) // 2]), 0, shape[0] - 1))
    return middle


def _overview_panels(store: Store, study: int) -> list[Panel]:
    image, mask = store.read("overview/image", study), store.read("overview/mask", study)
    return block_panels(image, mask, store.recipe.overview.spacing_mm, _mask_center(mask))[:2]


def _mask_center(mask: npt.NDArray[np.uint8]) -> list[int]:
    places = np.argwhere(mask) if mask.any() else (np.array([mask.shape]) - 1) / 2
    center: list[int] = np.rint(places.mean(axis=0)).astype(int).tolist()
    return center
