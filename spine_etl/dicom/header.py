"""The header of one DICOM file: found by a small scan, or by pydicom where the scan meets a surprise.

Only attributes that CT slices of the RSNA 2022 layout carry are relied on: neither Modality nor
PatientPosition stands there, and SOPClassUID only in the file meta information.
"""

from __future__ import annotations

import io
import logging
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from struct import unpack_from
from typing import Any, NamedTuple, Protocol

from spine_etl.errors import DicomUnreadable, HeaderInvalid, SourceError, TransferSyntaxUnsupported
from spine_etl.source.files import FileOrPath, as_file

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
JPEG_LOSSY = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"})
JPEG_LOSSLESS = frozenset({"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"})
JPEG_LS = frozenset({"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"})
JPEG_2000 = frozenset({"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"})
NATIVE = frozenset({IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN})
SUPPORTED = NATIVE | {RLE} | JPEG_LOSSY | JPEG_LOSSLESS | JPEG_LS | JPEG_2000

PIXEL_DATA = 0x7FE00010
MAGIC_END = 132
"""Bytes up to the end of the preamble and its magic, DICM (PS3.10 7.1)."""

_TRANSFER_SYNTAX = 0x00020010
_ATTRIBUTES = {
    "ImageType": 0x00080008,
    "Modality": 0x00080060,
    "SliceThickness": 0x00180050,
    "SpacingBetweenSlices": 0x00180088,
    "SeriesInstanceUID": 0x0020000E,
    "ImagePositionPatient": 0x00200032,
    "ImageOrientationPatient": 0x00200037,
    "SamplesPerPixel": 0x00280002,
    "PhotometricInterpretation": 0x00280004,
    "NumberOfFrames": 0x00280008,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "PixelSpacing": 0x00280030,
    "BitsAllocated": 0x00280100,
    "BitsStored": 0x00280101,
    "HighBit": 0x00280102,
    "PixelRepresentation": 0x00280103,
    "PixelPaddingValue": 0x00280120,
    "PixelPaddingRangeLimit": 0x00280121,
    "WindowCenter": 0x00281050,
    "WindowWidth": 0x00281051,
    "RescaleIntercept": 0x00281052,
    "RescaleSlope": 0x00281053,
    "RescaleType": 0x00281054,
    "ModalityLUTSequence": 0x00283000,
}
_WANTED = frozenset(_ATTRIBUTES.values())

# The VRs whose length takes four bytes, after two that are reserved, and all others (PS3.5 7.1.2).
_LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_SHORT = frozenset(
    {"AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST"}
    | {"TM", "UI", "UL", "US"}
)
_UNDEFINED = 0xFFFFFFFF

# PS3.5 6.2, DS; float() would also take nan, inf and underscores.
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_LARGEST = 1e6  # no millimetre, slope, intercept or window of a CT comes near

# Most headers end within it, and the rest of it is pixels that are needed anyway.
_FIRST_BLOCK = 8192


class Surprise(Exception):
    """A file is not as the fast path expects it, so pydicom is asked; this never reaches a caller."""


class Readable(Protocol):
    """What a header is read from: a file that is read once, from front to back."""

    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True)
class Header:
    """The attributes of one slice, named as in DICOM PS3.6; lengths are millimetres, LPS.

    ``pixel_spacing`` is (between rows, between columns), ``image_orientation_patient`` the cosines of the
    row, then of the column direction. ``pixel_padding_value`` and its limit are the 16 bits as they stand.
    None or an empty tuple stands for an attribute that is absent.
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


class Scan(NamedTuple):
    """What the scan found: raw values by tag, and where Pixel Data begins (length None: encapsulated)."""

    transfer_syntax: str
    values: dict[int, bytes]
    pixel_start: int
    pixel_length: int | None


def read_header(place: FileOrPath) -> Header:
    """Read one file's header, checked, without decoding its pixels.

    Raises
    ------
    DicomUnreadable
        If the file cannot be read or is no DICOM file.
    HeaderInvalid
        If an attribute is missing, malformed, or not that of a CT slice.
    TransferSyntaxUnsupported
        If the pixels are coded in a way that nothing here decodes.
    SourceError
        If what the file lies in changed, or cannot be reached.
    """
    file = as_file(place)
    try:
        with file.open() as content:
            block, found = scan_file(content)
            if found is None:
                return header_of(read_dataset(block + content.read(), file.name), file.name)
            return parse(found.values, found.transfer_syntax, name=file.name)
    except SourceError:
        raise
    except OSError as error:
        raise DicomUnreadable(f"{file.name} cannot be read: {error.strerror}.") from error


def scan_file(file: Readable) -> tuple[bytes, Scan | None]:
    """Read up to Pixel Data: the bytes read so far and what the scan found, None for a surprise."""
    block = file.read(_FIRST_BLOCK)
    try:
        while (found := scan(block)) is None:
            more = file.read(4 * len(block))
            if not more:
                return block, None
            block += more
    except Surprise:
        return block, None
    return block, found


def scan(block: bytes) -> Scan | None:
    """Find the wanted attributes and Pixel Data in the first bytes of a little endian file.

    Returns None where the block ends before Pixel Data begins.

    Raises
    ------
    Surprise
        Where the data set is not a plain ascending run of elements with defined lengths (PS3.5 7).
    """
    if block[128:MAGIC_END] != b"DICM":
        raise Surprise
    try:
        syntax, position = _scan_meta(block)
        if syntax in (DEFLATED, BIG_ENDIAN):
            raise Surprise
        return _scan_data_set(block, position, syntax)
    except struct.error:
        return None


def _scan_meta(block: bytes) -> tuple[str, int]:
    """Transfer syntax and where the data set begins; group 2 is always explicit little endian."""
    position, syntax = MAGIC_END, b""
    while unpack_from("<H", block, position)[0] == 2:
        tag, start, length = _element(block, position, explicit=True)
        position = start + length
        if tag == _TRANSFER_SYNTAX:
            syntax = block[start:position]
    return _text(syntax), position


def _scan_data_set(block: bytes, position: int, syntax: str) -> Scan | None:
    values: dict[int, bytes] = {}
    explicit, previous, size = syntax != IMPLICIT, 0, len(block)
    while position < size:
        tag, start, length = _element(block, position, explicit)
        if tag <= previous:
            raise Surprise
        if tag == PIXEL_DATA:
            return Scan(syntax, values, start, None if length == _UNDEFINED else length)
        if length == _UNDEFINED or tag > PIXEL_DATA:
            raise Surprise
        previous, position = tag, start + length
        if tag in _WANTED:
            values[tag] = block[start:position]
    return None


def _element(block: bytes, position: int, explicit: bool) -> tuple[int, int, int]:
    """Tag, start of the value and its length, of the element at that position."""
    if not explicit:
        group, number, length = unpack_from("<HHI", block, position)
        return group << 16 | number, position + 8, length
    group, number, vr, length = unpack_from("<HH2sH", block, position)
    if (kind := vr.decode("latin-1")) in _SHORT:
        return group << 16 | number, position + 8, length
    if kind not in _LONG:
        raise Surprise
    return group << 16 | number, position + 12, unpack_from("<I", block, position + 8)[0]


def read_dataset(content: bytes, name: str) -> Any:
    """A file's bytes as a `pydicom.Dataset`, its elements still raw.

    Raises
    ------
    DicomUnreadable
        If pydicom cannot make a data set of it.
    """
    try:
        return _silent_pydicom().dcmread(io.BytesIO(content))
    except Exception as error:  # pydicom raises what it stumbles over: struct.error, KeyError, zlib.error
        raise DicomUnreadable(
            f"{name} is no DICOM file that can be read ({type(error).__name__})."
        ) from error


def _silent_pydicom() -> Any:
    """pydicom, kept from warning and logging with the text it stumbles over, which may be a patient's name.

    Each time anew, since who called may have put its own filters in place or taken ours away.
    """
    import pydicom

    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    return pydicom


def header_of(dataset: Any, name: str) -> Header:
    """The `Header` of a pydicom data set whose elements are still raw; raises as `read_header` does."""
    try:
        syntax = str(dataset.file_meta.TransferSyntaxUID)
        values = {tag: _raw(dataset, tag) for tag in _WANTED if tag in dataset}
    except Exception as error:
        raise DicomUnreadable(f"{name} holds elements that cannot be read.") from error
    return parse(values, syntax, name=name, order=">" if syntax == BIG_ENDIAN else "<")


def _raw(dataset: Any, tag: int) -> bytes:
    value = dataset.get_item(tag).value
    return value if isinstance(value, bytes) else b""  # a sequence, or an element without value


def parse(values: Mapping[int, bytes], syntax: str, *, name: str, order: str = "<") -> Header:
    """Turn raw values into a checked `Header`; ``order`` is the byte order of the numbers, < or >."""
    if syntax not in SUPPORTED:
        shown = syntax if re.fullmatch(r"[0-9.]{1,64}", syntax) else "missing or malformed"
        raise TransferSyntaxUnsupported(f"{name}: TransferSyntaxUID {shown} is not supported.")
    have = _Values(values, name, order)
    header = Header(
        transfer_syntax=syntax,
        series_instance_uid=have.texts("SeriesInstanceUID")[0],
        rows=have.short("Rows"),
        columns=have.short("Columns"),
        pixel_spacing=have.pair("PixelSpacing"),
        image_position_patient=have.triple("ImagePositionPatient"),
        image_orientation_patient=have.six("ImageOrientationPatient"),
        bits_allocated=have.short("BitsAllocated"),
        bits_stored=have.short("BitsStored"),
        signed=have.short("PixelRepresentation") == 1,
        photometric_interpretation=have.texts("PhotometricInterpretation")[0],
        rescale_slope=have.numbers("RescaleSlope", 1)[0],
        rescale_intercept=have.numbers("RescaleIntercept", 1)[0],
        pixel_padding_value=have.short_if("PixelPaddingValue"),
        pixel_padding_range_limit=have.short_if("PixelPaddingRangeLimit"),
        slice_thickness=next(iter(have.numbers_if("SliceThickness")), None),
        spacing_between_slices=next(iter(have.numbers_if("SpacingBetweenSlices")), None),
        image_type=have.texts_if("ImageType"),
        modality=next(iter(have.texts_if("Modality")), None),
        window_center=have.numbers_if("WindowCenter"),
        window_width=have.numbers_if("WindowWidth"),
    )
    _check(header, have)
    return header


def _check(header: Header, have: _Values) -> None:
    """Refuse what is no single-frame CT slice with HU by slope and intercept (PS3.3 C.8.2.1, C.7.6.3)."""
    if header.modality not in (None, "CT"):
        raise have.invalid("Modality", "is not CT")
    _check_photometric_interpretation(header, have)
    if have.short("SamplesPerPixel") != 1:
        raise have.invalid("SamplesPerPixel", "is not 1")
    if have.texts_if("NumberOfFrames") not in ((), ("1",)):
        raise have.invalid("NumberOfFrames", "is not 1")
    if header.rows < 1 or header.columns < 1:
        raise have.invalid("Rows or Columns", "is 0")
    if min(header.pixel_spacing) <= 0:
        raise have.invalid("PixelSpacing", f"is not positive: {header.pixel_spacing}")
    if header.bits_allocated not in (8, 16) or not 1 <= header.bits_stored <= header.bits_allocated:
        raise have.invalid(
            "BitsAllocated", f"{header.bits_allocated} does not go with {header.bits_stored} stored"
        )
    if have.short_if("HighBit") not in (None, header.bits_stored - 1):
        raise have.invalid("HighBit", f"is not BitsStored - 1, which is {header.bits_stored - 1}")
    if have.short("PixelRepresentation") > 1:
        raise have.invalid("PixelRepresentation", "is neither 0 nor 1")
    _check_rescale(header, have)


def _check_photometric_interpretation(header: Header, have: _Values) -> None:
    """MONOCHROME1 is for display and leaves HU as they are (C.7.6.3.1.2), but not all programs hold to it.

    ITK inverts the pixels and pydicom does not; nothing in a file says which of them its writer meant.
    """
    if header.photometric_interpretation == "MONOCHROME1":
        raise have.invalid(
            "PhotometricInterpretation",
            "is MONOCHROME1, which leaves open whether pixels are inverted",
            action="Convert the series to MONOCHROME2 from the original.",
        )
    if header.photometric_interpretation != "MONOCHROME2":
        raise have.invalid("PhotometricInterpretation", "is not MONOCHROME2")


def _check_rescale(header: Header, have: _Values) -> None:
    """Slope and intercept must lead to HU (C.11.1); US, unspecified, is what some scanners write."""
    if header.rescale_slope == 0:
        raise have.invalid("RescaleSlope", "is 0")
    if have.texts_if("RescaleType") not in ((), ("HU",), ("US",)):
        raise have.invalid("RescaleType", "is not HU")
    if have.holds("ModalityLUTSequence"):
        raise have.invalid("ModalityLUTSequence", "stands in place of a slope and intercept")


def _text(value: bytes) -> str:
    return value.decode("latin-1").strip(" \0")


# Most values are the same in all slices of a series.
@lru_cache(maxsize=256)
def _texts(value: bytes) -> tuple[str, ...]:
    text = _text(value)
    return tuple(part.strip(" \0") for part in text.split("\\")) if text else ()


@lru_cache(maxsize=256)
def _decimals(texts: tuple[str, ...]) -> tuple[float, ...] | None:
    """The numbers of a DS value, None where one is malformed or beyond all reason."""
    if not all(map(_DECIMAL.fullmatch, texts)):
        return None
    numbers = tuple(map(float, texts))
    return numbers if all(abs(number) <= _LARGEST for number in numbers) else None


class _Values:
    """Raw values by keyword, turned into what their VR says; a fault names the attribute, never its text."""

    def __init__(self, values: Mapping[int, bytes], name: str, order: str) -> None:
        self._values, self._name, self._order = values, name, order

    def invalid(self, keyword: str, fault: str, *, action: str | None = None) -> HeaderInvalid:
        return HeaderInvalid(f"{self._name}: {keyword} {fault}.", action=action)

    def holds(self, keyword: str) -> bool:
        return _ATTRIBUTES[keyword] in self._values

    def texts_if(self, keyword: str) -> tuple[str, ...]:
        return _texts(self._values.get(_ATTRIBUTES[keyword], b""))

    def texts(self, keyword: str) -> tuple[str, ...]:
        texts = self.texts_if(keyword)
        if not texts:
            raise self.invalid(keyword, "is missing")
        return texts

    def numbers(self, keyword: str, count: int) -> tuple[float, ...]:
        numbers = _decimals(self.texts(keyword))
        if numbers is None or len(numbers) != count:
            raise self.invalid(keyword, f"is not {count} decimal number(s) up to {_LARGEST:.0f}")
        return numbers

    def numbers_if(self, keyword: str) -> tuple[float, ...]:
        """Numbers that nothing depends on: where they are malformed they count as absent."""
        return _decimals(self.texts_if(keyword)) or ()

    def pair(self, keyword: str) -> tuple[float, float]:
        a, b = self.numbers(keyword, 2)
        return a, b

    def triple(self, keyword: str) -> tuple[float, float, float]:
        a, b, c = self.numbers(keyword, 3)
        return a, b, c

    def six(self, keyword: str) -> tuple[float, float, float, float, float, float]:
        a, b, c, d, e, f = self.numbers(keyword, 6)
        return a, b, c, d, e, f

    def short_if(self, keyword: str) -> int | None:
        value = self._values.get(_ATTRIBUTES[keyword], b"")
        if len(value) not in (0, 2):
            raise self.invalid(keyword, "is not one 16-bit number")
        return int(unpack_from(f"{self._order}H", value)[0]) if value else None

    def short(self, keyword: str) -> int:
        number = self.short_if(keyword)
        if number is None:
            raise self.invalid(keyword, "is missing")
        return number
