"""One study from its folder to its row: the place to start reading.

The stages know nothing of each other; they meet here, in millimetres.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spine_etl.crops import (
    box_levels,
    boxes_in_crop,
    boxes_without_slice,
    check_labels,
    check_overlap,
    check_slices,
    crop_grids,
    find_levels,
    overview_grid,
    shown_slices,
)
from spine_etl.dicom import read_series, series_files
from spine_etl.errors import SourceChanged, SourceUnreachable, SpineError, StoreError, Unexpected
from spine_etl.geometry import Grid
from spine_etl.localization import LEAST_CONFIDENCE, Localization, Localizer
from spine_etl.nifti import read_label_map
from spine_etl.recipe import Recipe
from spine_etl.resample import coverage, sample_image, sample_labels
from spine_etl.source.digest import combine_digests, file_digest
from spine_etl.source.layout import Study
from spine_etl.store.record import BoxRecord, LevelRecord, MaskSource, Record
from spine_etl.store.schema import row_arrays
from spine_etl.store.writer import StoreWriter
from spine_etl.volume import AIR_HU, LabelMap, Volume


def process_study(
    study: Study,
    writer: StoreWriter,
    row: int = 0,
    *,
    threads: int = 1,
    localizer: Localizer | None = None,
) -> Record:
    """Read a study, cut its crops, store its row, and return (and store) its record.

    Parameters
    ----------
    study
        One of `spine_etl.source.layout.discover_studies`.
    writer
        The store to build into; its recipe says what is cut.
    row
        The first row to try; the next free one is taken.
    threads
        Threads for reading and resampling: 1 where each study has a worker process.
    localizer
        Finds the levels where the study has no segmentation; without it such a study has no crops.

    Returns
    -------
    Record
        With ``refusal`` set where the study cannot be used: that is an answer, not an exception.

    Raises
    ------
    StoreError
        Where the store cannot be written: that is no fault of the study.
    """
    try:
        crops = crop_study(study, writer.recipe, threads=threads, localizer=localizer)
        taken, digests = writer.write_row(row, crops.voxels)
        record = _record(study, writer.recipe, crops, taken, digests)
    except StoreError:
        raise
    except SpineError as error:
        passing = isinstance(error, SourceChanged | SourceUnreachable)  # tried again by the next build
        record = refuse(study, writer.recipe, error, transient=passing, threads=threads, localizer=localizer)
    except Exception as error:  # a defect of ours must not stop the other studies
        # The message may quote the header, so only the kind of error is told.
        fault = Unexpected(f"{type(error).__name__} while it was read or cropped.", study=study.uid)
        record = refuse(study, writer.recipe, fault, transient=True, threads=threads, localizer=localizer)
    writer.write_record(record)
    return record


@dataclass(frozen=True)
class StudyCrops:
    """What is cut from one study; the CT itself is let go.

    ``voxels`` holds the row's arrays by name (`spine_etl.store.schema.ARRAY_NAMES`); a level without a crop
    is air without labels there. ``grids`` holds the levels that the mask shows, by name.
    """

    voxels: dict[str, npt.NDArray[Any]]
    grids: dict[str, Grid]
    overview: Grid
    levels: dict[str, LevelRecord]
    boxes: tuple[BoxRecord, ...]
    mask_source: MaskSource
    facts: Mapping[str, object]
    warnings: tuple[str, ...]
    source_digest: str


def crop_study(
    study: Study, recipe: Recipe, *, threads: int = 1, localizer: Localizer | None = None
) -> StudyCrops:
    """Read a study and sample its crops and its overview, each straight from the native grids.

    Without a segmentation the levels are those that the localizer finds in the overview and is sure of.

    Raises
    ------
    SpineError
        With the code of what is wrong with the study.
    """
    if study.problem:
        raise study.problem
    volume, mask = _read(study, threads)
    if mask:
        check_labels(mask, recipe)
        check_overlap(mask, volume.grid)
        check_slices(mask, volume)
    overview = overview_grid(volume.grid, recipe)
    voxels = {name: np.empty(array.row_shape, array.dtype) for name, array in row_arrays(recipe).items()}
    sample_image(volume, overview, out=voxels["overview/image"], threads=threads)
    mask_source: MaskSource = "given" if mask else "none"
    digest = mask.source_digest if mask else ""
    found = None
    if localizer and mask is None:
        found = localizer.localize(voxels["overview/image"], recipe)
        mask_source, digest = "predicted", localizer.digest
        mask = LabelMap(found.sure(recipe), overview)
    grids = crop_grids(mask, recipe) if mask else {}
    _sample(volume, mask, recipe, grids, overview, voxels, threads)
    return StudyCrops(
        voxels=voxels,
        grids=grids,
        overview=overview,
        levels={level: _level_record(level, recipe, volume, mask, grids, found) for level in recipe.levels},
        boxes=_box_records(study, recipe, volume, mask, grids),
        mask_source=mask_source,
        facts=volume.facts,
        warnings=(*volume.warnings, *_box_warnings(study, volume)),
        source_digest=_combined(study, volume.source_digest, digest),
    )


def _read(study: Study, threads: int) -> tuple[Volume, LabelMap | None]:
    """The CT and its mask, side by side where there are threads for both."""
    if study.mask is None or threads == 1:
        volume = read_series(study.folder, threads=threads)
        return volume, read_label_map(study.mask) if study.mask else None
    with ThreadPoolExecutor(1) as pool:
        mask = pool.submit(read_label_map, study.mask)
        return read_series(study.folder, threads=threads), mask.result()


def _sample(
    volume: Volume,
    mask: LabelMap | None,
    recipe: Recipe,
    grids: Mapping[str, Grid],
    overview: Grid,
    voxels: dict[str, npt.NDArray[Any]],
    threads: int,
) -> None:
    """Fill the row's other arrays, each voxel written once: sampled, or air without a label."""
    for index, level in enumerate(recipe.levels):
        image, labels = voxels["image"][index], voxels["mask"][index]
        if mask and level in grids:
            sample_image(volume, grids[level], out=image, threads=threads)
            sample_labels(mask, grids[level], out=labels, threads=threads)
        else:
            image.fill(AIR_HU)
            labels.fill(0)
    if mask:
        sample_labels(mask, overview, out=voxels["overview/mask"], threads=threads)
    else:
        voxels["overview/mask"].fill(0)


def source_digest(study: Study, *, threads: int = 1, localizer: Localizer | None = None) -> str:
    """Digest of all that the study's row depends on, from its files alone: nothing is decoded.

    Equal to the ``source_digest`` of its record as long as no byte of them changed, nor, for a study
    without a segmentation, the localizer.
    """
    files = series_files(study.folder)
    with ThreadPoolExecutor(threads) as pool:
        digests = list(pool.map(file_digest, files))
    series = combine_digests((file.name, digest) for file, digest in zip(files, digests, strict=True))
    if study.mask:
        return _combined(study, series, file_digest(study.mask))
    return _combined(study, series, localizer.digest if localizer else "")


def refuse(
    study: Study,
    recipe: Recipe,
    error: SpineError,
    *,
    transient: bool = False,
    threads: int = 1,
    localizer: Localizer | None = None,
) -> Record:
    """The record of a study that cannot be used, and why."""
    try:
        digest = source_digest(study, threads=threads, localizer=localizer)
    except Exception:  # whatever it is, the study has its refusal
        digest = ""  # never equal to a later digest: the study is looked at again next time
    return Record.refused(study.uid, recipe.fingerprint, digest, error, transient=transient)


def _combined(study: Study, series: str, mask: str) -> str:
    tables = hashlib.sha256(study.table_content.encode()).hexdigest()
    return combine_digests([("series", series), ("mask", mask), ("tables", tables)])


def _record(study: Study, recipe: Recipe, crops: StudyCrops, row: int, digests: dict[str, str]) -> Record:
    return Record(
        uid=study.uid,
        fingerprint=recipe.fingerprint,
        source_digest=crops.source_digest,
        row=row,
        digests=digests,
        mask_source=crops.mask_source,
        levels=crops.levels,
        overview_origin_mm=crops.overview.origin_mm,
        fracture=study.labels or {},
        boxes=crops.boxes,
        facts=dict(crops.facts),
        warnings=crops.warnings,
    )


def _level_record(
    level: str,
    recipe: Recipe,
    volume: Volume,
    mask: LabelMap | None,
    grids: Mapping[str, Grid],
    found: Localization | None,
) -> LevelRecord:
    """Absent is what the mask does not show; a level that was found, but not for sure, is unlocated."""
    confidence = found.confidence[level] if found else 1.0
    if mask is None or (level not in grids and found and 0 < confidence < LEAST_CONFIDENCE):
        return LevelRecord(status="unlocated", confidence=confidence if found else 0.0)
    if level not in grids:
        return LevelRecord(status="absent")
    return LevelRecord(
        status="located",
        confidence=confidence,
        slices=shown_slices(recipe.levels[level], volume, mask),
        origin_mm=grids[level].origin_mm,
        coverage=coverage(volume.grid, grids[level]),
        volume_mm3=find_levels(mask)[recipe.levels[level]].volume_mm3,
    )


def _box_warnings(study: Study, volume: Volume) -> list[str]:
    lost = boxes_without_slice(study.boxes, volume)
    return [f"{lost} of {len(study.boxes)} fracture boxes name no slice of the series."] if lost else []


def _box_records(
    study: Study, recipe: Recipe, volume: Volume, mask: LabelMap | None, grids: Mapping[str, Grid]
) -> tuple[BoxRecord, ...]:
    none: Sequence[str | None] = [None] * len(study.boxes)
    levels = box_levels(study.boxes, volume, mask, recipe) if mask else none
    corners = {level: boxes_in_crop(study.boxes, volume, grid) for level, grid in grids.items()}
    return tuple(
        BoxRecord(
            x=box.x,
            y=box.y,
            width=box.width,
            height=box.height,
            slice_number=box.slice_number,
            level=levels[index],
            in_crops={
                level: tuple(values[index].tolist())
                for level, values in corners.items()
                if np.isfinite(values[index]).all()
            },
        )
        for index, box in enumerate(study.boxes)
    )
