"""What is unusual about a study that is used nonetheless."""

from __future__ import annotations

from dataclasses import dataclass

WARNINGS: dict[str, str] = {
    "SLICE_LEFT_OUT": "A file of the series is a localizer image or a duplicate, and was not used.",
    "SLICES_OFF_LINE": "Slices are up to 0.1 mm off the line from the first slice to the last.",
    "SLICES_UNEVEN": "The distances between the slices differ; each slice keeps its own position.",
    "SINGLE_SLICE": "The series has only one slice, so its thickness is used as the distance between slices.",
    "BOX_WITHOUT_SLICE": "A fracture box refers to a slice that the series does not contain.",
    "LABEL_ISLANDS": "Voxels far from the vertebra of their label were removed from the segmentation.",
    "VERTEBRA_AMBIGUOUS": "Two large parts of a label are far apart, so the level has no crop.",
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
