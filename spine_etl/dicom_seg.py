"""DICOM segmentations (PS3.3 A.51 and A.87), read with highdicom: binary segments and label maps.

A segment's level is that of its SegmentedPropertyType, a SNOMED code of one vertebra (CID 7602). If the code
is a general one, it is that of the anatomic region or of the SegmentLabel. If no segment has a level that
way, the SegmentNumbers are labels as in a NIfTI file, named by the label names.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from spine_etl.errors import (
    ClassesConflict,
    LabelUnknown,
    MaskUnreadable,
    SourceError,
    SourceNotFound,
    StudyWarning,
)
from spine_etl.geometry import Grid
from spine_etl.recipe import Recipe
from spine_etl.source.digest import HashingReader
from spine_etl.source.files import FileOrPath, as_file, unchanged_while_reading
from spine_etl.source.label_names import LabelNames, looks_like_level
from spine_etl.volume import LabelMap

if TYPE_CHECKING:
    from highdicom.seg import Segmentation

_GENERAL_CODES = ("Vertebra", "Bone")
_MAX_VOXELS = 2**31


def read_dicom_seg(path: FileOrPath, names: LabelNames, recipe: Recipe) -> LabelMap:
    """Read a DICOM segmentation, with the recipe's label numbers, on the even grid of its frames.

    Positions without a frame are background.

    Raises
    ------
    SourceNotFound
        If the file does not exist.
    SourceChanged, SourceUnreachable
        If it changes while it is read, or its archive or bucket cannot be reached.
    MaskUnreadable
        If the file is damaged, is not a segmentation, is fractional, or its frames do not form a volume.
    LabelUnknown
        If a segment is neither a level nor ignored.
    ClassesConflict
        If segments overlap, two are the same level, or a segment's code and label are different levels.
    """
    file = as_file(path)
    try:
        with unchanged_while_reading(file), file.open() as content:
            reader = HashingReader(content, file.listed_digest)
            return _read(reader.read(), file.name, names, recipe, reader)
    except SourceError:
        raise
    except FileNotFoundError as error:
        raise SourceNotFound(f"{file.name} does not exist.") from error
    except OSError as error:
        raise MaskUnreadable(f"{file.name} cannot be read: {error.strerror}.") from error


def _read(content: bytes, name: str, names: LabelNames, recipe: Recipe, reader: HashingReader) -> LabelMap:
    segmentation = _open(content, name)
    if segmentation.segmentation_type.value == "FRACTIONAL":
        raise MaskUnreadable(
            f"{name} has fractional segments.",
            action="Write it again with binary segments or as a label map.",
        )
    levels, warnings = _levels(segmentation, name, names)
    wanted = {**recipe.levels, **recipe.other_labels}
    numbers = {number: wanted[level] for number, level in levels.items() if level in wanted}
    if not numbers:
        raise LabelUnknown(f"{name} has no segment that is one of the recipe's levels.")
    labels, affine = _voxels(segmentation, list(numbers), name)
    table = np.array([0, *numbers.values()], np.uint8)
    z, y, x = map(int, labels.shape)
    return LabelMap(table[labels], Grid((z, y, x), affine), reader.digest, {}, tuple(warnings))


def _open(content: bytes, name: str) -> Segmentation:
    import warnings

    import highdicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about values that only the writer can correct
            segmentation = highdicom.seg.segread(io.BytesIO(content))
            frames = int(segmentation.NumberOfFrames)
            # Frames without a position of their own, as in a slide, have no place in a patient.
            if frames * segmentation.Rows * segmentation.Columns > _MAX_VOXELS * len(
                segmentation.segment_numbers
            ):
                raise ValueError("too large")
            return segmentation
    # Any exception may come from a damaged file; its message may quote the header.
    except Exception as error:
        raise MaskUnreadable(
            f"{name} is not a readable DICOM segmentation ({type(error).__name__}).",
            action="Copy the file again from its origin, or write it as NIfTI.",
        ) from error


def _voxels(
    segmentation: Segmentation, numbers: Sequence[int], name: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """Index of each voxel's segment in ``numbers``, from 1, and the affine to LPS."""
    try:
        volume = segmentation.get_volume(
            segment_numbers=numbers, combine_segments=True, relabel=True, dtype=np.uint8
        )
    except Exception as error:
        # highdicom raises RuntimeError for several faults; only its texts tell them apart.
        if "overlap" in str(error).lower():
            raise ClassesConflict(f"Segments of {name} overlap.") from error
        raise MaskUnreadable(
            f"The frames of {name} do not form an even volume ({type(error).__name__}).",
            action="Write the segmentation again with all frames, or as NIfTI.",
        ) from error
    if str(volume.coordinate_system.value) != "PATIENT":
        raise MaskUnreadable(f"{name} is not in a patient's coordinates.")
    return np.asarray(volume.array, np.uint8), np.asarray(volume.affine, np.float64)


def _levels(
    segmentation: Segmentation, name: str, names: LabelNames
) -> tuple[dict[int, str], list[StudyWarning]]:
    """The level of each segment that has one, by SegmentNumber."""
    # A label map may list its background as segment 0.
    segments = [int(number) for number in segmentation.segment_numbers if number]
    descriptions = {number: segmentation.get_segment_description(number) for number in segments}
    levels = {
        number: level
        for number, description in descriptions.items()
        if (level := _level(description, number, name, names))
    }
    warnings = []
    if levels:
        unknown = [
            number
            for number in descriptions.keys() - levels.keys()
            if not names.ignores_class(descriptions[number].segment_label)
        ]
        lookalikes = [
            number
            for number in sorted(descriptions.keys() - levels.keys() - set(unknown))
            if looks_like_level(descriptions[number].segment_label)
        ]
        if lookalikes:
            text = f"Segments {lookalikes} are ignored, although their labels look like a vertebra's."
            warnings.append(StudyWarning("CLASS_NAME_IGNORED", text))
    else:
        by_number = {number: level for level, number in names.labels.items()}
        levels = {number: by_number[number] for number in descriptions if number in by_number}
        unknown = [
            number for number in descriptions if number not in levels and not names.ignores_number(number)
        ]
    if unknown:
        raise LabelUnknown(
            f"{name} has segments {sorted(unknown)}, which {names.name} neither names nor ignores.",
            action="List their labels under ignore_classes in a file of label names.",
        )
    shown = list(levels.values())
    twice = sorted({level for level in shown if shown.count(level) > 1})
    if twice:
        raise ClassesConflict(f"Several segments of {name} are {', '.join(twice)}.")
    return levels, warnings


def _level(description: Any, number: int, name: str, names: LabelNames) -> str | None:
    from pydicom.sr.codedict import codes as dictionary

    kind = _code(description.segmented_property_type)
    coded = _vertebra(kind)
    if coded is None and any(kind == getattr(dictionary.SCT, general) for general in _GENERAL_CODES):
        regions = {_vertebra(_code(region)) for region in description.anatomic_regions} - {None}
        coded = regions.pop() if len(regions) == 1 else None
    labelled = names.level_of(description.segment_label)
    if coded and labelled and coded != labelled:
        raise ClassesConflict(
            f"Segment {number} of {name} is {coded} by its code and {labelled} by its label."
        )
    return coded or labelled


def _code(concept: Any) -> Any:
    """The concept as pydicom's Code, which equates retired SRT codes with those of SNOMED CT."""
    from pydicom.sr.coding import Code

    return Code(concept.value, concept.scheme_designator, concept.meaning)


def _vertebra(code: Any) -> str | None:
    """The level that a code means, if it is that of one vertebra."""
    from pydicom.sr.codedict import codes

    for part, count in (("C", 7), ("T", 12), ("L", 5)):
        for number in range(1, count + 1):
            if code == getattr(codes.SCT, f"{part}{number}Vertebra"):
                return f"{part}{number}"
    return None
