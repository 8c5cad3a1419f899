"""What is unusual about a study that is used nonetheless."""

from __future__ import annotations

from dataclasses import dataclass

WARNINGS: dict[str, str] = {
    "SLICE_LEFT_OUT": "A file of the series is a localizer image or a duplicate, and was not used.",
    "SLICES_OFF_LINE": "Slices are up to 0.1 mm off the line from the first slice to the last.",
    "SLICES_UNEVEN": "The distances between the slices differ; each slice keeps its own position.",
    "SINGLE_SLICE": "The series has only one slice, so its thickness is used as the distance between slices.",
    "MASK_SHIFTED": "The segmentation has the CT's size but is up to 0.75 of a voxel away from its position.",
    "MASK_UNCHECKED": "The segmentation was not compared with the bone, of which the CT shows too little.",
    "PREDICTION_IMPLAUSIBLE": "The labels that the localizer predicted contradict the CT or the anatomy.",
    "BONE_FAINT": "Labels are hardly brighter than their surroundings: low bone density, noise or a tumour.",
    "METAL": "There is metal in the labels or beside them.",
    "LEVEL_MISSING": "A vertebra between two others, or above the first in a CT that shows it, has no label.",
    "LEVEL_SIZE": "A label is unusually large or small for a vertebra, or much larger than those beside it.",
    "LEVEL_DISTANCE": "Two neighbouring levels are unusually close together or far apart for this neck.",
    "LEVEL_CUT": "A level was cut off in a plane, at the edge of the segmentation or the CT, or elsewhere.",
    "LEVEL_OFF_CURVE": "The centre of a level is out of line with its neighbours, as if a part had no label.",
    "LEVELS_FUSED": "The labels of two vertebrae touch over a large area.",
    "NUMBERING_UNUSUAL": "Heights or sizes do not fit C2, which has the dens, as if levels were miscounted.",
    "BOX_WITHOUT_SLICE": "A fracture box refers to a slice that the series does not contain.",
    "LABEL_ISLANDS": "Voxels far from the vertebra of their label were removed from the segmentation.",
    "VERTEBRA_AMBIGUOUS": "Two large parts of a label are far apart, so the level has no crop.",
    "NO_LEVEL_SHOWN": "The segmentation shows none of the recipe's levels, so the study has no crop.",
    "CLASSES_OVERLAP": "Class files overlap in up to 1 % of a class; a shared voxel went to the upper one.",
    "CLASS_NAME_IGNORED": "A class that is ignored has a name like a vertebra's, so it may be misspelt.",
    "LABEL_SHARE_LOW": "Less than 99 % of a vertebra's voxels are inside its crop.",
    "BOX_WITHOUT_FRACTURE": "A fracture box is in a slice that shows no level labelled as fractured.",
}
"""The meaning of each warning's code, in the order of docs/errors.md."""


@dataclass(frozen=True)
class StudyWarning:
    """One irregularity of a study that was tolerated.

    ``code`` is stable, for machines: a key of `WARNINGS`, or of those of a newer release. ``text`` is one
    sentence, with what was found and where, without patient data.
    """

    code: str
    text: str

    def __str__(self) -> str:
        return f"[{self.code}] {self.text}"
