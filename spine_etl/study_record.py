"""What the store records about a study, and the digest of the source that the record depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from spine_etl.boxes import box_levels, boxes_in_crop, count_boxes_in_slices, count_boxes_without_slice
from spine_etl.dicom import series_files
from spine_etl.errors import SpineError, StudyWarning
from spine_etl.geometry import Grid
from spine_etl.localization import MIN_CONFIDENCE, Localization, Localizer
from spine_etl.recipe import Recipe
from spine_etl.resample import coverage
from spine_etl.segmentation import Islands, Vertebrae, label_share, shown_labels, slice_range, slice_runs
from spine_etl.source.digest import combine_digests, file_digest
from spine_etl.source.layout import Study
from spine_etl.store.record import UNKNOWN, BoxRecord, LevelRecord, MaskSource, Record
from spine_etl.volume import LabelMap, Volume

MIN_LABEL_SHARE = 0.99
"""A vertebra with less of its voxels in its crop gets a warning."""


def source_digest(study: Study, *, threads: int = 1, localizer: Localizer | None = None) -> str:
    """Digest of everything that a study's row depends on, computed from the files without decoding them.

    It equals the ``source_digest`` of the study's record until a byte of these files changes or, for a study
    without a segmentation, the localizer does.
    """
    files = series_files(study.folder)
    with ThreadPoolExecutor(threads) as pool:
        digests = list(pool.map(file_digest, files))
    series = combine_digests((file.name, digest) for file, digest in zip(files, digests, strict=True))
    if study.mask:
        return _combine_parts(study, series, file_digest(study.mask))
    if study.external_mask:
        return _combine_parts(study, series, study.external_mask.digest())
    return _combine_parts(study, series, localizer.digest if localizer else "")


def study_record(
    study: Study,
    recipe: Recipe,
    volume: Volume,
    vertebrae: Vertebrae | None,
    localization: Localization | None,
    crops: Mapping[str, Grid],
    overview: Grid,
    warnings: Sequence[StudyWarning] = (),
) -> Record:
    """The record of a study whose crops were sampled.

    ``row`` and ``objects`` are not set: they are known once the row has been written. ``vertebrae`` are those
    of the study's segmentation, or of the labels of the ``localization`` if there is one. ``crops`` are the
    grids of the levels that have a crop, by level name. ``warnings`` are those of the segmentation's checks.
    """
    mask = vertebrae.label_map if vertebrae else None
    shown = core_shown = None
    if vertebrae:
        shown = shown_labels(vertebrae.label_map, volume)
        cores = {vertebra.label: vertebra.core for vertebra in vertebrae.levels.values()}
        core_shown = shown_labels(vertebrae.label_map, volume, cores)
    levels = {
        level: _level_record(level, recipe, volume, vertebrae, localization, crops.get(level), core_shown)
        for level in recipe.levels
    }
    mask_source, mask_name = _mask_origin(study, mask if localization else None)
    return Record(
        uid=study.uid,
        fingerprint=recipe.fingerprint,
        source_digest=_combine_parts(study, volume.source_digest, mask.source_digest if mask else ""),
        mask_source=mask_source,
        mask_name=mask_name,
        levels=levels,
        slice_runs=_slice_runs(shown, volume, recipe),
        overview_origin_mm=overview.origin_mm,
        fracture=study.labels or {},
        boxes=_box_records(study, recipe, volume, mask, crops),
        facts=dict(volume.facts),
        warnings=(
            *volume.warnings,
            *(mask.warnings if mask else ()),
            *warnings,
            *_no_level_warnings(vertebrae, localization, recipe),
            *_share_warnings(levels),
            *_box_warnings(study, recipe, volume, None if localization else shown),
        ),
    )


def refusal_record(
    study: Study,
    recipe: Recipe,
    error: SpineError,
    *,
    transient: bool = False,
    threads: int = 1,
    localizer: Localizer | None = None,
) -> Record:
    """The record of a study that cannot be used, with the reason."""
    try:
        digest = source_digest(study, threads=threads, localizer=localizer)
    except Exception:  # a source that cannot be read must not prevent the refusal
        digest = ""  # differs from every later digest, so the next build tries the study again
    return Record.refused(study.uid, recipe.fingerprint, digest, error, transient=transient)


def _no_level_warnings(
    vertebrae: Vertebrae | None, localization: Localization | None, recipe: Recipe
) -> list[StudyWarning]:
    """A segmentation without any level of the recipe: of another part of the spine, or of other numbers."""
    if vertebrae is None or localization or set(recipe.levels) & {*vertebrae.levels, *vertebrae.ambiguous}:
        return []
    shown = ", ".join(vertebrae.levels) or "no vertebra"
    return [
        StudyWarning("NO_LEVEL_SHOWN", f"The segmentation shows none of the recipe's levels, but {shown}.")
    ]


def _mask_origin(study: Study, predicted: LabelMap | None) -> tuple[MaskSource, str]:
    """``mask_source`` and ``mask_name`` of a study."""
    if study.mask:
        return "given", ""
    if study.external_mask:
        return "external", study.external_mask.names.name
    return ("predicted", predicted.source_digest[:16]) if predicted else ("none", "")


def _combine_parts(study: Study, series: str, mask: str) -> str:
    tables = hashlib.sha256(study.table_content.encode()).hexdigest()
    return combine_digests([("series", series), ("mask", mask), ("tables", tables)])


def _level_record(
    level: str,
    recipe: Recipe,
    volume: Volume,
    vertebrae: Vertebrae | None,
    localization: Localization | None,
    crop: Grid | None,
    core_shown: npt.NDArray[np.bool_] | None,
) -> LevelRecord:
    """A level that the mask does not show is absent; one with too little confidence is unlocated.

    ``core_shown`` (slice, 256) are the labels whose vertebra's core each slice shows.
    """
    confidence = localization.confidence[level] if localization else 1.0
    if (
        vertebrae is None
        or core_shown is None
        or (crop is None and localization and 0 < confidence < MIN_CONFIDENCE)
    ):
        return LevelRecord(status="unlocated", confidence=confidence if localization else 0.0)
    islands = vertebrae.islands.get(level, Islands(0, 0.0))
    if level in vertebrae.ambiguous:
        return LevelRecord(
            status="ambiguous",
            confidence=confidence,
            volume_mm3=vertebrae.ambiguous[level].volume_mm3,
            island_voxels=islands.voxel_count,
            island_distance_mm=islands.distance_mm,
        )
    if crop is None:
        return LevelRecord(status="absent")
    vertebra = vertebrae.levels[level]
    return LevelRecord(
        status="located",
        confidence=confidence,
        slices=slice_range(core_shown[:, vertebra.label], volume),
        origin_mm=crop.origin_mm,
        coverage=coverage(volume.grid, crop),
        volume_mm3=vertebra.volume_mm3,
        label_share=label_share(vertebrae.label_map, vertebra.label, crop),
        island_voxels=islands.voxel_count,
        island_distance_mm=islands.distance_mm,
    )


def _slice_runs(
    shown: npt.NDArray[np.bool_] | None, volume: Volume, recipe: Recipe
) -> dict[str, tuple[tuple[int, int], ...]]:
    """The runs of file numbers that show each level and other label of the recipe, by name."""
    if shown is None:
        return {}
    labels = {**recipe.levels, **recipe.other_labels}
    runs = {name: slice_runs(shown[:, label], volume) for name, label in labels.items()}
    return {name: of_name for name, of_name in runs.items() if of_name}


def _share_warnings(levels: Mapping[str, LevelRecord]) -> list[StudyWarning]:
    return [
        StudyWarning(
            "LABEL_SHARE_LOW",
            f"Only {100 * record.label_share:.1f} % of the voxels of {level} are in its crop.",
        )
        for level, record in levels.items()
        if record.status == "located" and record.label_share < MIN_LABEL_SHARE
    ]


def _box_records(
    study: Study, recipe: Recipe, volume: Volume, mask: LabelMap | None, crops: Mapping[str, Grid]
) -> tuple[BoxRecord, ...]:
    no_levels: Sequence[str | None] = [None] * len(study.boxes)
    levels = box_levels(study.boxes, volume, mask, recipe) if mask else no_levels
    bounds = {level: boxes_in_crop(study.boxes, volume, grid) for level, grid in crops.items()}
    return tuple(
        BoxRecord(
            x=box.x,
            y=box.y,
            width=box.width,
            height=box.height,
            slice_number=box.slice_number,
            level=levels[index],
            in_crops={
                level: tuple(rows[index].tolist())
                for level, rows in bounds.items()
                if np.isfinite(rows[index]).all()
            },
        )
        for index, box in enumerate(study.boxes)
    )


def _box_warnings(
    study: Study, recipe: Recipe, volume: Volume, shown: npt.NDArray[np.bool_] | None
) -> list[StudyWarning]:
    """``shown`` are the labels that each slice shows, if there is a segmentation."""
    warnings = []
    unmatched = count_boxes_without_slice(study.boxes, volume)
    total = len(study.boxes)
    if unmatched:
        warnings.append(
            StudyWarning(
                "BOX_WITHOUT_SLICE", f"{unmatched} of {total} fracture boxes name no slice of the series."
            )
        )
    if study.labels and shown is not None:
        # A level whose label is unknown may be fractured.
        fractured = [label for level, label in recipe.levels.items() if study.labels.get(level, UNKNOWN) != 0]
        without_fracture = np.logical_not(shown[:, fractured].any(axis=1))
        unmarked = count_boxes_in_slices(study.boxes, volume, without_fracture)
        if unmarked:
            warnings.append(
                StudyWarning(
                    "BOX_WITHOUT_FRACTURE",
                    f"{unmarked} of {total} fracture boxes are in slices that show no fractured level.",
                )
            )
    return warnings
