"""One study, from its folder to its row in the store: the place to start reading.

The stages (`dicom`, `masks`, `segmentation`, `crops`, `boxes`, `resample`) do not import each other. They
meet here and exchange positions in LPS millimetres only. `spine_etl.study_record` makes the study's record.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spine_etl import resample, segmentation
from spine_etl.crops import crop_grids, overview_grid
from spine_etl.dicom import read_series
from spine_etl.errors import (
    MaskImplausible,
    SourceChanged,
    SourceUnreachable,
    SpineError,
    StoreError,
    StudyWarning,
    Unexpected,
)
from spine_etl.geometry import Grid
from spine_etl.localization import Localizer
from spine_etl.masks import read_mask
from spine_etl.recipe import Recipe
from spine_etl.resample import sample_image, sample_labels
from spine_etl.segmentation import (
    Vertebrae,
    check_alignment,
    check_complete,
    check_labels,
    check_plausible,
    check_structure,
    find_vertebrae,
)
from spine_etl.source.layout import Study
from spine_etl.store.arrays import row_arrays
from spine_etl.store.record import Record
from spine_etl.store.writer import StoreWriter
from spine_etl.study_record import refusal_record, study_record
from spine_etl.volume import AIR_HU, LabelMap, Volume


def process_study(
    study: Study,
    writer: StoreWriter,
    row: int = 0,
    *,
    threads: int = 1,
    localizer: Localizer | None = None,
) -> Record:
    """Read a study, sample its crops, store its row, then store and return its record.

    Parameters
    ----------
    study
        One of `spine_etl.source.layout.discover_studies`.
    writer
        The store to build into; its recipe defines the crops.
    row
        The first row to try; the next free one is used.
    threads
        Threads for reading and resampling: 1 if each study has a worker process.
    localizer
        Finds the levels if the study has no segmentation; without it such a study has no crops.

    Returns
    -------
    Record
        With ``refusal`` set if the study cannot be used: a refusal is a result, not an exception.

    Raises
    ------
    StoreError
        If the store cannot be written, which is not the study's fault.
    """
    try:
        crops = crop_study(study, writer.recipe, threads=threads, localizer=localizer)
        stored_row, objects = writer.write_row(row, crops.voxels)
        record = crops.record.model_copy(update={"row": stored_row, "objects": objects})
    except StoreError:
        raise
    except SpineError as error:
        transient = isinstance(error, SourceChanged | SourceUnreachable)  # the next build retries the study
        record = refusal_record(
            study, writer.recipe, error, transient=transient, threads=threads, localizer=localizer
        )
    except Exception as error:  # a bug must not stop the other studies
        # The message may quote the DICOM header, so only the exception's type is recorded.
        bug = Unexpected(f"{type(error).__name__} while the study was read or cropped.", study=study.uid)
        record = refusal_record(
            study, writer.recipe, bug, transient=True, threads=threads, localizer=localizer
        )
    writer.write_record(record)
    return record


@dataclass(frozen=True)
class StudyCrops:
    """The crops of one study. The CT itself is not kept.

    ``voxels`` are the row's arrays by name (`spine_etl.store.arrays.ARRAY_NAMES`); the crop of a level
    without a grid is air without labels. ``grids`` are those of the levels that have a crop, by level name.
    ``record`` has no row and no objects yet.
    """

    voxels: dict[str, npt.NDArray[Any]]
    grids: dict[str, Grid]
    record: Record


def crop_study(
    study: Study, recipe: Recipe, *, threads: int = 1, localizer: Localizer | None = None
) -> StudyCrops:
    """Read a study and sample its crops and its overview, each straight from the native grids.

    Without a segmentation, the levels are those that the localizer finds in the overview with enough
    confidence.

    Raises
    ------
    SpineError
        With the code of the study's fault.
    """
    if study.problem:
        raise study.problem
    volume, mask = _read(study, recipe, threads)
    vertebrae, warnings = None, list[StudyWarning]()
    if mask:
        check_labels(mask, recipe)
        warnings += [*check_alignment(mask, volume), *check_structure(mask, volume, recipe)]
        vertebrae = find_vertebrae(mask, recipe)
        warnings += vertebrae.warnings
        warnings += check_plausible(vertebrae.label_map, volume, recipe, vertebrae.ambiguous)
        warnings += check_complete(vertebrae.label_map, volume, recipe, vertebrae.ambiguous)
    overview = overview_grid(volume.grid, recipe)
    voxels = {name: np.empty(array.row_shape, array.dtype) for name, array in row_arrays(recipe).items()}
    sample_image(volume, overview, out=voxels["overview/image"], threads=threads)
    localization = None
    if localizer and mask is None:
        localization = localizer.localize(voxels["overview/image"], recipe)
        predicted = LabelMap(localization.confident_labels(recipe), overview, localizer.digest)
        vertebrae = find_vertebrae(predicted, recipe)
        warnings += [*vertebrae.warnings, *_prediction_warnings(vertebrae.label_map, volume, recipe)]
    grids = crop_grids(vertebrae.crop_centers_mm(recipe), recipe) if vertebrae else {}
    _sample_crops(volume, vertebrae, recipe, grids, voxels, threads)
    _sample_overview_mask(vertebrae, overview, voxels["overview/mask"], threads)
    record = study_record(study, recipe, volume, vertebrae, localization, grids, overview, warnings)
    return StudyCrops(voxels, grids, record)


def _prediction_warnings(predicted: LabelMap, volume: Volume, recipe: Recipe) -> tuple[StudyWarning, ...]:
    """What is unusual about predicted labels; implausible ones do not make the study unusable."""
    if not predicted.labels.any():
        return ()
    try:
        return check_plausible(predicted, volume, recipe)
    except MaskImplausible as error:
        return (StudyWarning("PREDICTION_IMPLAUSIBLE", error.reason),)


def warm_up() -> None:
    """Compile every kernel, or load it from numba's cache, so that no worker compiles during a study."""
    segmentation.warm_up()
    resample.warm_up()


def _read(study: Study, recipe: Recipe, threads: int) -> tuple[Volume, LabelMap | None]:
    """The CT and its mask, read concurrently if there is more than one thread."""
    if threads == 1:
        return read_series(study.folder, threads=threads), read_mask(study, recipe)
    with ThreadPoolExecutor(1) as pool:
        mask = pool.submit(read_mask, study, recipe)
        return read_series(study.folder, threads=threads), mask.result()


def _sample_crops(
    volume: Volume,
    vertebrae: Vertebrae | None,
    recipe: Recipe,
    grids: Mapping[str, Grid],
    voxels: dict[str, npt.NDArray[Any]],
    threads: int,
) -> None:
    """Fill the row's crops, writing each voxel once: sampled, or air without a label."""
    for index, level in enumerate(recipe.levels):
        image, labels = voxels["image"][index], voxels["mask"][index]
        if vertebrae and level in grids:
            sample_image(volume, grids[level], out=image, threads=threads)
            sample_labels(vertebrae.label_map, grids[level], out=labels, threads=threads)
        else:
            image.fill(AIR_HU)
            labels.fill(0)


def _sample_overview_mask(
    vertebrae: Vertebrae | None, overview: Grid, out: npt.NDArray[np.uint8], threads: int
) -> None:
    if vertebrae:
        sample_labels(vertebrae.label_map, overview, out=out, threads=threads)
    else:
        out.fill(0)
