"""The mask of a study with the recipe's label numbers, whatever it is stored as."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from spine_etl.dicom_seg import read_dicom_seg
from spine_etl.errors import LabelUnknown, StudyWarning
from spine_etl.nifti import read_label_map
from spine_etl.recipe import Recipe
from spine_etl.segmentation import combine_classes, translate_labels
from spine_etl.source.digest import file_digest
from spine_etl.source.external_mask import ExternalMask
from spine_etl.source.label_names import looks_like_level
from spine_etl.source.layout import Study
from spine_etl.volume import LabelMap


def read_mask(study: Study, recipe: Recipe) -> LabelMap | None:
    """The study's own segmentation, else its external one, else None.

    Raises
    ------
    MaskError, SourceError
        If it cannot be read, or has labels that are neither named nor ignored.
    """
    if study.mask:
        return read_label_map(study.mask)
    mask = study.external_mask
    if mask is None:
        return None
    if mask.form == "dicom":
        label_map = read_dicom_seg(mask.files[0], mask.names, recipe)
        return replace(label_map, source_digest=mask.combine([label_map.source_digest]))
    if mask.form == "labels":
        label_map = translate_labels(read_label_map(mask.files[0]), mask.names, recipe)
        return replace(label_map, source_digest=mask.combine([label_map.source_digest]))
    return _read_classes(mask, recipe)


def _read_classes(mask: ExternalMask, recipe: Recipe) -> LabelMap:
    unknown = [name for name in mask.other_classes if not mask.names.ignores_class(name)]
    if unknown:
        raise LabelUnknown(
            f"There are class files that {mask.names.name} neither names nor ignores: {', '.join(unknown)}.",
            action="List them under ignore_classes in a file of label names, or move them.",
        )
    digests: list[str] = []

    def classes() -> Iterator[tuple[str, LabelMap]]:
        """The classes that the recipe contains, one in memory at a time; the digest covers the others too."""
        for level, file in zip(mask.levels, mask.files, strict=True):
            if level not in recipe.levels and level not in recipe.other_labels:
                digests.append(file_digest(file))
                continue
            label_map = read_label_map(file)
            digests.append(label_map.source_digest)
            yield level, label_map

    label_map = combine_classes(classes(), recipe)
    return replace(
        label_map,
        source_digest=mask.combine(digests),
        warnings=(*label_map.warnings, *_lookalike_warnings(mask)),
    )


def _lookalike_warnings(mask: ExternalMask) -> list[StudyWarning]:
    lookalikes = [name for name in mask.other_classes if looks_like_level(name)]
    if not lookalikes:
        return []
    listed = ", ".join(lookalikes)
    text = f"Class files with names like a vertebra's are ignored: {listed}."
    return [StudyWarning("CLASS_NAME_IGNORED", text)]
