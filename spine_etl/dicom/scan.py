"""A fast scan of a DICOM file's first bytes: raw attribute values, and where Pixel Data begins.

The scan handles plain little endian files only. It raises `NotOnFastPath` for any other encoding, and
pydicom reads the file instead.
"""

from __future__ import annotations

import struct
from struct import unpack_from
from typing import NamedTuple, Protocol

from spine_etl.dicom.transfer_syntaxes import BIG_ENDIAN, DEFLATED, IMPLICIT

PIXEL_DATA = 0x7FE00010
MAGIC_END = 132
"""Length of the preamble with its magic, DICM (PS3.10 7.1), in bytes."""

TAGS = {
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
"""The attributes that a `Header` is read from, by keyword (PS3.6)."""

_TRANSFER_SYNTAX = 0x00020010
_WANTED = frozenset(TAGS.values())

# VRs with two reserved bytes and a four-byte length, and all other VRs (PS3.5 7.1.2).
_LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_SHORT = frozenset(
    {"AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST"}
    | {"TM", "UI", "UL", "US"}
)
_UNDEFINED = 0xFFFFFFFF

# Most headers fit into it, and the rest of the block is pixels, which are needed anyway.
_FIRST_BLOCK = 8192


class NotOnFastPath(Exception):
    """The fast path cannot read this file, so pydicom must. Never raised to a caller of this package."""


class Readable(Protocol):
    """A file that is read once, from front to back."""

    def read(self, size: int = -1, /) -> bytes: ...


class Scan(NamedTuple):
    """Raw values by tag, and the start and length in bytes of Pixel Data (length None: encapsulated)."""

    transfer_syntax: str
    values: dict[int, bytes]
    pixel_start: int
    pixel_length: int | None


def scan_file(file: Readable) -> tuple[bytes, Scan | None]:
    """Read up to Pixel Data; returns the bytes read and their scan (None: pydicom must read the file)."""
    block = file.read(_FIRST_BLOCK)
    try:
        while (scanned := scan(block)) is None:
            more = file.read(4 * len(block))
            if not more:
                return block, None
            block += more
    except NotOnFastPath:
        return block, None
    return block, scanned


def scan(block: bytes) -> Scan | None:
    """Find the attributes in `TAGS` and Pixel Data in the first bytes of a little endian file.

    Returns None if the block ends before Pixel Data begins.

    Raises
    ------
    NotOnFastPath
        If the data set is not a plain sequence of elements in ascending order with defined lengths (PS3.5 7).
    """
    if block[128:MAGIC_END] != b"DICM":
        raise NotOnFastPath
    try:
        syntax, position = _scan_meta(block)
        if syntax in (DEFLATED, BIG_ENDIAN):
            raise NotOnFastPath
        return _scan_data_set(block, position, syntax)
    except struct.error:
        return None


def _scan_meta(block: bytes) -> tuple[str, int]:
    """Transfer syntax and start of the data set; group 2 is always explicit little endian."""
    position, syntax = MAGIC_END, b""
    while unpack_from("<H", block, position)[0] == 2:
        tag, start, length = _element(block, position, explicit=True)
        position = start + length
        if tag == _TRANSFER_SYNTAX:
            syntax = block[start:position]
    return decode_text(syntax), position


def _scan_data_set(block: bytes, position: int, syntax: str) -> Scan | None:
    values: dict[int, bytes] = {}
    explicit, previous, size = syntax != IMPLICIT, 0, len(block)
    while position < size:
        tag, start, length = _element(block, position, explicit)
        if tag <= previous:
            raise NotOnFastPath
        if tag == PIXEL_DATA:
            return Scan(syntax, values, start, None if length == _UNDEFINED else length)
        if length == _UNDEFINED or tag > PIXEL_DATA:
            raise NotOnFastPath
        previous, position = tag, start + length
        if tag in _WANTED:
            values[tag] = block[start:position]
    return None


def _element(block: bytes, position: int, explicit: bool) -> tuple[int, int, int]:
    """Tag, start of the value and length of the value, for the element at ``position``."""
    if not explicit:
        group, number, length = unpack_from("<HHI", block, position)
        return group << 16 | number, position + 8, length
    group, number, vr_bytes, length = unpack_from("<HH2sH", block, position)
    if (vr := vr_bytes.decode("latin-1")) in _SHORT:
        return group << 16 | number, position + 8, length
    if vr not in _LONG:
        raise NotOnFastPath
    return group << 16 | number, position + 12, unpack_from("<I", block, position + 8)[0]


def decode_text(value: bytes) -> str:
    """A value as text, without its padding of spaces or zeros."""
    return value.decode("latin-1").strip(" \0")
