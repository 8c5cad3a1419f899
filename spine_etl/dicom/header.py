"""The header of one CT slice, parsed and checked.

Only attributes that slices of the RSNA 2022 layout have are required: those files have neither Modality nor
PatientPosition, and SOPClassUID only in their file meta information.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spine_etl.dicom.pydicom_reader import quiet_pydicom, raw_values, read_dataset
from spine_etl.dicom.scan import TAGS, scan_file
from spine_etl.dicom.transfer_syntaxes import BIG_ENDIAN, SUPPORTED
from spine_etl.dicom.values import RawValues
from spine_etl.errors import DicomUnreadable, SourceError, TransferSyntaxUnsupported
from spine_etl.source.files import FileOrPath, as_file


@dataclass(frozen=True)
class Header:
    """The attributes of one slice, named as in DICOM PS3.6; lengths are millimetres, LPS.

    ``pixel_spacing`` is (between rows, between columns), ``image_orientation_patient`` the cosines of the
    row, then of the column direction. ``pixel_padding_value`` and its limit are the 16 bits as unsigned
    numbers, whatever the sign of the pixels. An absent attribute is None or an empty tuple.
    """

    transfer_syntax: str
    series_instance_uid: str
    rows: int
    columns: int
    pixel_spacing: tuple[float, float]
    image_position_patient: tuple[float, float, float]
    image_orientation_patient: tuple[float, float, float, float, float, float]
    bits_allocated: int
    bits_stored: int
    signed: bool
    photometric_interpretation: str
    rescale_slope: float
    rescale_intercept: float
    pixel_padding_value: int | None = None
    pixel_padding_range_limit: int | None = None
    slice_thickness: float | None = None
    spacing_between_slices: float | None = None
    image_type: tuple[str, ...] = ()
    modality: str | None = None
    window_center: tuple[float, ...] = ()
    window_width: tuple[float, ...] = ()


def read_header(file: FileOrPath) -> Header:
    """Read and check the header of one file, without decoding its pixels.

    Raises
    ------
    DicomUnreadable
        If the file cannot be read or is not a DICOM file.
    HeaderInvalid
        If an attribute is missing, malformed, or not that of a CT slice.
    TransferSyntaxUnsupported
        If there is no decoder for the encoding of the pixels.
    SourceError
        If the file's folder or archive has changed, or cannot be reached.
    """
    file = as_file(file)
    try:
        with file.open() as content:
            block, scanned = scan_file(content)
            if scanned is not None:
                return parse_header(scanned.values, scanned.transfer_syntax, name=file.name)
            rest = content.read()
    except SourceError:
        raise
    except OSError as error:
        raise DicomUnreadable(f"{file.name} cannot be read: {error.strerror}.") from error
    with quiet_pydicom():
        return header_from_dataset(read_dataset(block + rest, file.name), file.name)


def header_from_dataset(dataset: Any, name: str) -> Header:
    """The `Header` of a pydicom data set with raw elements; raises as `read_header` does."""
    syntax, values = raw_values(dataset, TAGS.values(), name)
    return parse_header(values, syntax, name=name, order=">" if syntax == BIG_ENDIAN else "<")


def parse_header(values: Mapping[int, bytes], syntax: str, *, name: str, order: str = "<") -> Header:
    """Convert raw values to a checked `Header`; ``order`` is the byte order of the numbers, < or >."""
    if syntax not in SUPPORTED:
        shown = syntax if re.fullmatch(r"[0-9.]{1,64}", syntax) else "missing or malformed"
        raise TransferSyntaxUnsupported(f"{name}: TransferSyntaxUID {shown} is not supported.")
    raw = RawValues(values, name, order)
    header = Header(
        transfer_syntax=syntax,
        series_instance_uid=raw.texts("SeriesInstanceUID")[0],
        rows=raw.short("Rows"),
        columns=raw.short("Columns"),
        pixel_spacing=raw.pair("PixelSpacing"),
        image_position_patient=raw.triple("ImagePositionPatient"),
        image_orientation_patient=raw.six("ImageOrientationPatient"),
        bits_allocated=raw.short("BitsAllocated"),
        bits_stored=raw.short("BitsStored"),
        signed=raw.short("PixelRepresentation") == 1,
        photometric_interpretation=raw.texts("PhotometricInterpretation")[0],
        rescale_slope=raw.numbers("RescaleSlope", 1)[0],
        rescale_intercept=raw.numbers("RescaleIntercept", 1)[0],
        pixel_padding_value=raw.optional_short("PixelPaddingValue"),
        pixel_padding_range_limit=raw.optional_short("PixelPaddingRangeLimit"),
        slice_thickness=next(iter(raw.optional_numbers("SliceThickness")), None),
        spacing_between_slices=next(iter(raw.optional_numbers("SpacingBetweenSlices")), None),
        image_type=raw.optional_texts("ImageType"),
        modality=next(iter(raw.optional_texts("Modality")), None),
        window_center=raw.optional_numbers("WindowCenter"),
        window_width=raw.optional_numbers("WindowWidth"),
    )
    _check(header, raw)
    return header


def _check(header: Header, raw: RawValues) -> None:
    """Require a single-frame CT slice with HU by slope and intercept (PS3.3 C.8.2.1, C.7.6.3)."""
    if header.modality not in (None, "CT"):
        raise raw.invalid("Modality", "is not CT")
    _check_photometric_interpretation(header, raw)
    if raw.short("SamplesPerPixel") != 1:
        raise raw.invalid("SamplesPerPixel", "is not 1")
    if raw.optional_texts("NumberOfFrames") not in ((), ("1",)):
        raise raw.invalid("NumberOfFrames", "is not 1")
    if header.rows < 1 or header.columns < 1:
        raise raw.invalid("Rows or Columns", "is 0")
    if min(header.pixel_spacing) <= 0:
        raise raw.invalid("PixelSpacing", f"is not positive: {header.pixel_spacing}")
    if header.bits_allocated not in (8, 16) or not 1 <= header.bits_stored <= header.bits_allocated:
        raise raw.invalid(
            "BitsAllocated", f"{header.bits_allocated} does not match BitsStored, {header.bits_stored}"
        )
    if raw.optional_short("HighBit") not in (None, header.bits_stored - 1):
        raise raw.invalid("HighBit", f"is not BitsStored - 1, which is {header.bits_stored - 1}")
    if raw.short("PixelRepresentation") > 1:
        raise raw.invalid("PixelRepresentation", "is neither 0 nor 1")
    _check_rescale(header, raw)


def _check_photometric_interpretation(header: Header, raw: RawValues) -> None:
    """Require MONOCHROME2. MONOCHROME1 concerns display only (C.7.6.3.1.2), but not all programs follow that.

    ITK inverts the pixels and pydicom does not, and no attribute shows which one the file's writer meant.
    """
    if header.photometric_interpretation == "MONOCHROME1":
        raise raw.invalid(
            "PhotometricInterpretation",
            "is MONOCHROME1, so its pixels may or may not be inverted",
            action="Convert the series to MONOCHROME2 from the original.",
        )
    if header.photometric_interpretation != "MONOCHROME2":
        raise raw.invalid("PhotometricInterpretation", "is not MONOCHROME2")


def _check_rescale(header: Header, raw: RawValues) -> None:
    """Require a slope and an intercept to HU (C.11.1); some scanners write the type US, unspecified."""
    if header.rescale_slope == 0:
        raise raw.invalid("RescaleSlope", "is 0")
    if raw.optional_texts("RescaleType") not in ((), ("HU",), ("US",)):
        raise raw.invalid("RescaleType", "is not HU")
    if "ModalityLUTSequence" in raw:
        raise raw.invalid("ModalityLUTSequence", "replaces slope and intercept")
