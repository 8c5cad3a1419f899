"""The pictures of one study, from its source folder or from a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spine_etl.geometry import FloatArray
from spine_etl.report.describe import label_names
from spine_etl.report.drawing import Style, draw
from spine_etl.report.panels import (
    Panel,
    block_panels,
    choose_slices,
    reslice_panels,
    slice_panels,
)
from spine_etl.source.layout import Study
from spine_etl.source.tables import PATIENT_OVERALL
from spine_etl.store import Store
from spine_etl.store.schema import LEVEL_STATUS
from spine_etl.volume import LabelMap, Volume
from spine_etl.windows import BONE, Window

_NO_CROP_TEXT = {
    "unlocated": "not located:\nno segmentation",
    "absent": "absent from\nthe segmentation",
}
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
    """Draw a study of a source folder and return the files written.

    - ``<uid>_slices.png``: 18 consecutive slices with their fracture boxes.
    - ``<uid>_mask.png``: the segmentation on the same slices, if the study has one.
    - ``<uid>_reslices.png``: a sagittal and a coronal plane.

    Raises
    ------
    SourceNotFound
        If no slice has the file number ``start``.
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
    """Draw a study of a store and return the files written.

    - ``<uid>_crops.png``: each level's crop in three planes.
    - ``<uid>_overview.png``: the entire neck in two planes.

    Raises
    ------
    StudyNotInStore
        If this version of the store does not contain it.
    ChunkMissing, ChunkCorrupt
        If one of its objects is missing or differs from what was committed.
    """
    study = store.index(uid)
    title = (
        f"{uid}  |  version {store.version}  |  {_patient_title(int(store.table['patient_overall'][study]))}"
    )
    style = Style(title, window, label_names(store.recipe), "outlined")
    level_columns = level_cells(store, study)
    pictures = [out / f"{uid}_crops.png", out / f"{uid}_overview.png"]
    rows = max(map(len, level_columns))
    cells = [column[row] if row < len(column) else "" for row in range(rows) for column in level_columns]
    draw(pictures[0], cells, len(level_columns), style, inches_wide=3.2 * len(level_columns))
    draw(pictures[1], overview_panels(store, study), 2, style, inches_wide=11)
    return pictures


def _study_title(study: Study, volume: Volume) -> str:
    z, y, x = volume.grid.spacing_mm
    return f"{study.uid}  |  {z:.3g} x {y:.3g} x {x:.3g} mm  |  {_labels_title(study)}"


def _labels_title(study: Study) -> str:
    if study.labels is None:
        return "no labels"
    fractured = [level for level, value in study.labels.items() if value and level != PATIENT_OVERALL]
    return (
        f"fractured: {', '.join(fractured)}" if fractured else _patient_title(study.labels[PATIENT_OVERALL])
    )


def _patient_title(label: int) -> str:
    return f"patient: {_FRACTURE[label]}"


def level_cells(store: Store, study: int) -> list[list[Panel | str]]:
    """For each level its sagittal, coronal and axial panel, or the reason why it has no crop."""
    image, mask = store.image(study), store.mask(study)
    of_study = store.table["box_study"] == study
    boxes, box_levels = store.table["box_crop"][of_study], store.table["box_level"][of_study]
    cells: list[list[Panel | str]] = []
    for index, level in enumerate(store.levels):
        status = LEVEL_STATUS[int(store.table["level_status"][study, index])]
        if status != "located":
            cells.append([f"{level}\n{_NO_CROP_TEXT[status]}"])
            continue
        in_crop = ~np.isnan(boxes[:, index, 0])
        boxes_by_level = {int(k): boxes[in_crop & (box_levels == k), index] for k in np.unique(box_levels)}
        center = _crop_center(image[index].shape, boxes_by_level.get(index, _NO_BOXES))
        spacing = store.recipe.crop.spacing_mm
        panels = block_panels(image[index], mask[index], spacing, center, list(boxes_by_level.values()))
        first = replace(panels[0], title=f"{_level_title(store, study, index)}\n{panels[0].title}")
        cells.append([first, *panels[1:]])
    return cells


def _level_title(store: Store, study: int, index: int) -> str:
    coverage = float(store.table["coverage"][study, index])
    note = "" if coverage > 0.9995 else f", {coverage:.1%} covered"
    return f"{store.levels[index]}: {_FRACTURE[int(store.table['fracture'][study, index])]}{note}"


def _crop_center(shape: tuple[int, ...], own_boxes: FloatArray) -> list[int]:
    """The middle voxel of a crop; if its level has boxes, z is that of the median box."""
    middle = [n // 2 for n in shape]
    if len(own_boxes):
        heights = np.sort((own_boxes[:, 0] + own_boxes[:, 3]) / 2)
        middle[0] = int(np.clip(np.rint(heights[len(heights) // 2]), 0, shape[0] - 1))
    return middle


def overview_panels(store: Store, study: int) -> list[Panel]:
    """The sagittal and the coronal plane of a study's overview through the middle of its mask."""
    image, mask = store.read("overview/image", study), store.read("overview/mask", study)
    return block_panels(image, mask, store.recipe.overview.spacing_mm, _mask_center(mask))[:2]


def _mask_center(mask: npt.NDArray[np.uint8]) -> list[int]:
    voxels = np.argwhere(mask) if mask.any() else (np.array([mask.shape]) - 1) / 2
    center: list[int] = np.rint(voxels.mean(axis=0)).astype(int).tolist()
    return center
