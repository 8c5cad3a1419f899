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
