"""Errors of a DICOM series."""

from __future__ import annotations

from spine_etl.errors.base import SpineError


class DicomError(SpineError):
    """A DICOM series cannot be read as one CT volume."""


class NoSlices(DicomError, FileNotFoundError):
    """The study folder contains no DICOM file, or only localizer images."""

    code = "NO_SLICES"
    default_action = "Put the study's DICOM files into its folder, or remove the folder."


class DicomUnreadable(DicomError, ValueError):
    """A file is truncated, is not DICOM, or cannot be read from the disk."""

    code = "DICOM_UNREADABLE"
    default_action = "Copy the file again from its origin; it is truncated or not a DICOM file."


class HeaderInvalid(DicomError, ValueError):
    """A required DICOM attribute is missing or malformed, or the file is not a CT slice in HU."""

    code = "HEADER_INVALID"
    default_action = "Export the series again with its geometry and pixel attributes."


class TransferSyntaxUnsupported(DicomError, ValueError):
    """The pixel data are encoded in a transfer syntax that no installed decoder reads."""

    code = "TRANSFER_SYNTAX_UNSUPPORTED"
    default_action = "Convert the file to Explicit VR Little Endian (for example with dcmtk's dcmdjpeg)."


class DecodeFailed(DicomError, ValueError):
    """The pixel data are damaged or truncated, or their size differs from the header's."""

    code = "DECODE_FAILED"
    default_action = "Copy the file again from its origin; its pixel data are damaged."


class MixedSeries(DicomError, ValueError):
    """The slices differ in series, size, pixel spacing or orientation."""

    code = "MIXED_SERIES"
    default_action = "Keep one series in the folder."


class DuplicatePosition(DicomError, ValueError):
    """Two slices have the same position and different pixels."""

    code = "DUPLICATE_POSITION"
    default_action = "Keep one slice for each position in the folder."


class SliceGap(DicomError, ValueError):
    """The distance between two neighbouring slices is more than 1.9 times the median distance."""

    code = "SLICE_GAP"
    default_action = "Add the missing slices, or remove the stray ones."


class GeometryInvalid(DicomError, ValueError):
    """The positions and orientations of the slices do not form a volume."""

    code = "GEOMETRY_INVALID"
    default_action = "Export the series again; its positions and orientations do not form a volume."
