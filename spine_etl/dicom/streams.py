"""Encapsulated pixels (PS3.5 A.4) and their JPEG, JPEG-LS and JPEG 2000 streams, checked before decoding.

A decoder receives complete streams only: libjpeg fills missing data with a constant, without an error.
"""

from __future__ import annotations

import struct
from struct import unpack_from

from spine_etl.dicom.header import Header
from spine_etl.dicom.scan import NotOnFastPath
from spine_etl.dicom.transfer_syntaxes import JPEG_2000
from spine_etl.errors import DecodeFailed

_ITEM, _SEQUENCE_END = 0xE000FFFE, 0xE0DDFFFE  # tags, read as little endian
_END_OF_IMAGE = b"\xff\xd9"
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}


def single_fragment(content: bytes, position: int) -> memoryview:
    """The fragment of encapsulated pixels that have only one: an offset table, one item, the delimiter.

    Raises
    ------
    NotOnFastPath
        If there are several fragments, or the offset table does not point to the first.
    """
    try:
        tag, table = unpack_from("<II", content, position)
        if tag != _ITEM or table not in (0, 4) or any(content[position + 8 : position + 8 + table]):
            raise NotOnFastPath
        tag, length = unpack_from("<II", content, position + 8 + table)
        start = position + 16 + table
        if tag != _ITEM or unpack_from("<I", content, start + length)[0] != _SEQUENCE_END:
            raise NotOnFastPath
    except struct.error as error:
        raise NotOnFastPath from error
    return memoryview(content)[start : start + length]


def check_stream(stream: bytes | memoryview, header: Header, name: str) -> int:
    """Check a JPEG, JPEG-LS or JPEG 2000 stream against the header; returns its bits per sample.

    Raises
    ------
    DecodeFailed
        If the stream is cut short, has no image header, or is an image of another size or depth.
    """
    view = memoryview(stream)
    if not bytes(view[-4:]).rstrip(b"\0").endswith(_END_OF_IMAGE):
        raise DecodeFailed(f"{name}: Pixel Data is cut short, its last marker is missing.")
    read_image_size = _read_siz if header.transfer_syntax in JPEG_2000 else _read_start_of_frame
    try:
        bits, rows, columns = read_image_size(view)
    except (struct.error, IndexError) as error:
        raise DecodeFailed(f"{name}: Pixel Data has no image header.") from error
    if (rows, columns) != (header.rows, header.columns):
        raise DecodeFailed(
            f"{name}: Pixel Data is {rows}x{columns}, Rows and Columns say {header.rows}x{header.columns}."
        )
    if header.signed and bits < header.bits_stored:
        raise DecodeFailed(
            f"{name}: Pixel Data has {bits} bits per sample, too few for {header.bits_stored} signed."
        )
    return bits


def _read_start_of_frame(stream: memoryview) -> tuple[int, int, int]:
    """Bits per sample, rows and columns of a JPEG or JPEG-LS stream (ITU-T T.81 B.2.2, T.87 C.2.2)."""
    position = 2
    while True:
        prefix, marker, length = unpack_from(">BBH", stream, position)
        if prefix != 0xFF:
            raise IndexError
        if marker in _START_OF_FRAME:
            bits, rows, columns = unpack_from(">BHH", stream, position + 4)
            return bits, rows, columns
        position += 1 if marker == 0xFF else 2 + length


def _read_siz(stream: memoryview) -> tuple[int, int, int]:
    """Bits per sample, rows and columns of a JPEG 2000 codestream (ITU-T T.800 A.5.1)."""
    if bytes(stream[:4]) != b"\xff\x4f\xff\x51":
        raise IndexError
    right, bottom, left, top = unpack_from(">IIII", stream, 8)
    return (stream[42] & 0x7F) + 1, bottom - top, right - left
