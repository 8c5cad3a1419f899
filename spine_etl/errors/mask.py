"""Errors of a segmentation."""

from __future__ import annotations

from spine_etl.errors.base import SpineError


class MaskError(SpineError):
    """A segmentation cannot be used with its CT."""


class MaskUnreadable(MaskError, ValueError):
    """The segmentation is truncated or damaged, is not a 3D NIfTI label map, or has no usable affine."""

    code = "MASK_UNREADABLE"
    default_action = "Copy the file again from its origin; it is truncated or not a 3D NIfTI label map."


class LabelUnknown(MaskError, ValueError):
    """The segmentation contains a label that the recipe does not name, or one outside 0 to 255."""

    code = "LABEL_UNKNOWN"
    default_action = "Name the label in the recipe, under levels or other_labels."


class MaskOutsideVolume(MaskError, ValueError):
    """The segmentation or a label of it is outside the CT, or has the CT's size but not its position."""

    code = "MASK_OUTSIDE_VOLUME"
    default_action = "Check that the segmentation belongs to this study and that its affine is correct."


class MaskImplausible(MaskError, ValueError):
    """The labels contradict the CT or the anatomy, for example numbers out of order or no bone under them."""

    code = "MASK_IMPLAUSIBLE"
    default_action = (
        "Check that the segmentation belongs to this study and that its axes and labels are right."
    )


class MaskAmbiguous(MaskError, ValueError):
    """Several segmentations belong to the same study, and nothing shows which of them is right."""

    code = "MASK_AMBIGUOUS"
    default_action = "Keep one segmentation for each study in the folder of masks."


class ClassesConflict(MaskError, ValueError):
    """The class files or segments of a segmentation overlap, have different grids, or are one level twice."""

    code = "CLASSES_CONFLICT"
    default_action = "Write the segmentation again, on one grid and with each voxel in one class only."


class LabelNamesDiffer(MaskError, ValueError):
    """The segmentation file names its own labels, and they contradict the label names of --masks-from."""

    code = "LABEL_NAMES_DIFFER"
    default_action = (
        "Pass the label names of the version that made the masks, for example totalsegmentator-v1."
    )


class LabelNamesInvalid(MaskError, ValueError):
    """There are no such label names, or they contain an invalid value or none of the recipe's levels."""

    code = "LABEL_NAMES_INVALID"
    default_action = "Correct the file; spine_etl/source/numberings contains examples."
