"""One file to one slice in HU: opened once, read once, its digest kept on the way.

What is plain goes the fast way: uncompressed pixels are read straight into their place, JPEG Lossless and
JPEG-LS are decoded there by imagecodecs, which releases the interpreter lock. All else goes to pydicom.

A decoder is given only streams that are whole: libjpeg fills what is missing with a constant, and says
nothing. For the same reason a decoder's refusal is final: others would decode the damaged stream.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from struct import unpack_from
from typing import Any

import numpy as np
import numpy.typing as npt

from spine_etl.dicom.header import (
    EXPLICIT,
    IMPLICIT,
    JPEG_2000,
    JPEG_LOSSLESS,
    JPEG_LS,
    NATIVE,
    PIXEL_DATA,
    RLE,
    Header,
    Scan,
    Surprise,
    header_of,
    parse,
    read_dataset,
    scan_file,
)
from spine_etl.dicom.hounsfield import Hounsfield, Pixels, to_hounsfield
from spine_etl.errors import DecodeFailed, DicomUnreadable, SourceError
from spine_etl.source.digest import HashingReader
from spine_etl.source.files import FileOrPath, as_file

_ITEM, _SEQUENCE_END = 0xE000FFFE, 0xE0DDFFFE  # as read little endian
_END_OF_IMAGE = b"\xff\xd9"
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True, eq=False)
class Slice:
    """One file: its header, its HU (rows, columns), which decoder gave them, the digest of its bytes."""

    name: str
    header: Header
    hu: Hounsfield
    decoder: str
    digest: str


def read_slice(place: FileOrPath, slot: Hounsfield | None = None) -> Slice:
    """Read one file.

    ``slot`` (rows, columns) is where the HU belong; they are put there if shape and dtype allow, else the
    slice brings an array of its own.

    Raises
    ------
    DicomUnreadable, HeaderInvalid, TransferSyntaxUnsupported
        As `spine_etl.dicom.header.read_header`, or if the file ends within its pixels, or if these are wider
        than BitsStored.
    DecodeFailed
        If the pixels are damaged or are not as many as the header says.
    SourceError
        If what the file lies in changed, or cannot be reached.
    """
    file = as_file(place)
    name = file.name
    try:
        with file.open() as raw:
            content = HashingReader(raw, file.listed_digest)
            header, pixels, decoder = _read(content, name, slot)
            hu = _place(to_hounsfield(pixels, header, name), slot)
            return Slice(name, header, hu, decoder, content.digest)
    except SourceError:
        raise
    except OSError as error:
        raise DicomUnreadable(f"{name} cannot be read: {error.strerror}.") from error


def _read(file: HashingReader, name: str, slot: Hounsfield | None) -> tuple[Header, Pixels, str]:
    block, found = scan_file(file)
    header = None if found is None else parse(found.values, found.transfer_syntax, name=name)
    if header is not None and found is not None and _is_plain(found, header):
        return header, _read_plain(file, block, found, header, name, slot), "fast"
    content = block + file.read()
    if header is not None and found is not None:
        try:
            return header, _decode_fast(content, found, header, name, slot), "fast"
        except Surprise:
            pass
    dataset = read_dataset(content, name)
    header = header_of(dataset, name)
    return header, _decode_with_pydicom(dataset, header, name, slot), "pydicom"


def _room(slot: Hounsfield | None, header: Header) -> Pixels:
    """The slot where it can hold the stored pixels, else a new array."""
    shape = (header.rows, header.columns)
    if slot is not None and slot.shape == shape and slot.dtype == np.int16:
        return slot.view(np.int16)
    return np.empty(shape, np.int16)


def _place(hu: Hounsfield, slot: Hounsfield | None) -> Hounsfield:
    """Bring HU that were computed elsewhere into the slot, where that changes none of them."""
    if slot is None or np.may_share_memory(hu, slot):
        return hu
    if hu.shape != slot.shape or not np.can_cast(hu.dtype, slot.dtype):
        return hu
    slot[...] = hu
    return slot


def _is_plain(found: Scan, header: Header) -> bool:
    native = header.transfer_syntax in (IMPLICIT, EXPLICIT) and header.bits_allocated == 16
    return native and found.pixel_length == header.rows * header.columns * 2


def _read_plain(
    file: HashingReader, block: bytes, found: Scan, header: Header, name: str, slot: Hounsfield | None
) -> Pixels:
    """Uncompressed pixels straight into their place: the end of the block first, then from the file."""
    expected = header.rows * header.columns * 2
    there = file.size - found.pixel_start
    # Asked before room is made, which a damaged header might want to have of gigabytes.
    if there < expected:
        raise DicomUnreadable(f"{name} ends after {max(there, 0)} of {expected} bytes of Pixel Data.")
    pixels = _room(slot, header)
    room = pixels.reshape(-1).view(np.uint8).data
    begun = block[found.pixel_start : found.pixel_start + expected]
    room[: len(begun)] = begun
    filled = len(begun) + file.read_into(room[len(begun) :])
    if filled < expected:  # it shrank meanwhile
        raise DicomUnreadable(f"{name} ends after {filled} of {expected} bytes of Pixel Data.")
    file.read()  # what follows the pixels belongs to the digest
    return pixels


def _decode_fast(content: bytes, found: Scan, header: Header, name: str, slot: Hounsfield | None) -> Pixels:
    """One JPEG Lossless or JPEG-LS frame; raises Surprise where it is anything else."""
    decode = _fast_decoder(header)
    if found.pixel_length is not None:
        raise Surprise
    stream = _single_fragment(content, found.pixel_start)
    if _check_stream(stream, header, name) <= 8:
        raise Surprise  # such streams decode to uint8
    pixels = _room(slot, header)
    try:
        decode(stream, out=pixels.view(np.uint16))
    except Exception as error:
        raise DecodeFailed(f"{name}: Pixel Data cannot be decoded ({type(error).__name__}).") from error
    return pixels


def _fast_decoder(header: Header) -> Callable[..., object]:
    import imagecodecs

    if header.bits_allocated == 16 and header.transfer_syntax in JPEG_LOSSLESS:
        return imagecodecs.jpeg8_decode
    if header.bits_allocated == 16 and header.transfer_syntax in JPEG_LS:
        return imagecodecs.jpegls_decode
    raise Surprise


def _single_fragment(content: bytes, position: int) -> memoryview:
    """The one fragment of encapsulated pixels (PS3.5 A.4): an offset table, an item, the end."""
    try:
        tag, table = unpack_from("<II", content, position)
        if tag != _ITEM or table not in (0, 4) or any(content[position + 8 : position + 8 + table]):
            raise Surprise
        tag, length = unpack_from("<II", content, position + 8 + table)
        start = position + 16 + table
        if tag != _ITEM or unpack_from("<I", content, start + length)[0] != _SEQUENCE_END:
            raise Surprise
    except struct.error as error:
        raise Surprise from error
    return memoryview(content)[start : start + length]


def _check_stream(stream: bytes | memoryview, header: Header, name: str) -> int:
    """Refuse a JPEG stream that is cut short or is not the header's image; returns its bits a sample."""
    view = memoryview(stream)
    if not bytes(view[-4:]).rstrip(b"\0").endswith(_END_OF_IMAGE):
        raise DecodeFailed(f"{name}: Pixel Data is cut short, its last marker is missing.")
    try:
        bits, rows, columns = (_siz if header.transfer_syntax in JPEG_2000 else _start_of_frame)(view)
    except (struct.error, IndexError) as error:
        raise DecodeFailed(f"{name}: Pixel Data holds no image header.") from error
    if (rows, columns) != (header.rows, header.columns):
        raise DecodeFailed(
            f"{name}: Pixel Data is {rows}x{columns}, Rows and Columns say {header.rows}x{header.columns}."
        )
    if header.signed and bits < header.bits_stored:
        raise DecodeFailed(
            f"{name}: Pixel Data has {bits} bits a sample, too few for {header.bits_stored} signed."
        )
    return bits


def _start_of_frame(stream: memoryview) -> tuple[int, int, int]:
    """Bits a sample, rows and columns of a JPEG or JPEG-LS stream (ITU-T T.81 B.2.2, T.87 C.2.2)."""
    position = 2
    while True:
        prefix, marker, length = unpack_from(">BBH", stream, position)
        if prefix != 0xFF:
            raise IndexError
        if marker in _START_OF_FRAME:
            bits, rows, columns = unpack_from(">BHH", stream, position + 4)
            return bits, rows, columns
        position += 1 if marker == 0xFF else 2 + length


def _siz(stream: memoryview) -> tuple[int, int, int]:
    """Bits a sample, rows and columns of a JPEG 2000 codestream (ITU-T T.800 A.5.1)."""
    if bytes(stream[:4]) != b"\xff\x4f\xff\x51":
        raise IndexError
    right, bottom, left, top = unpack_from(">IIII", stream, 8)
    return (stream[42] & 0x7F) + 1, bottom - top, right - left


def _plugins(syntax: str) -> tuple[str, ...]:
    """pydicom's decoders for a transfer syntax, in the order they are tried."""
    if syntax in NATIVE:
        return ("",)
    if syntax == RLE:
        return ("pylibjpeg",)
    # On a damaged JPEG-LS stream pylibjpeg gives wrong pixels; GDCM (CharLS) refuses it.
    return ("gdcm",) if syntax in JPEG_LS else ("pylibjpeg", "gdcm")


def _decode_with_pydicom(dataset: Any, header: Header, name: str, slot: Hounsfield | None) -> Pixels:
    value, vr = _pixel_data(dataset, header, name)
    decoded = _first_decoded(value, vr, header, name)
    if decoded.shape != (header.rows, header.columns) or decoded.dtype.itemsize > 2:
        raise DecodeFailed(f"{name}: Pixel Data decodes to {decoded.shape} of {decoded.dtype}.")
    pixels = _room(slot, header)
    # Bits, not values: uint16 goes through a view of its kind.
    pixels.view(np.int16 if decoded.dtype.kind == "i" else np.uint16)[...] = decoded
    return pixels


def _pixel_data(dataset: Any, header: Header, name: str) -> tuple[bytes, str]:
    """Raw Pixel Data that is as long, or as whole, as it must be, and its VR."""
    from pydicom.encaps import get_frame

    try:
        element = dataset.get_item(PIXEL_DATA)
        value, vr = bytes(element.value), element.VR or "OW"
    except Exception as error:
        raise DicomUnreadable(f"{name} holds no Pixel Data.") from error
    if header.transfer_syntax in NATIVE:
        expected = header.rows * header.columns * header.bits_allocated // 8
        if len(value) not in (expected, expected + expected % 2):
            raise DecodeFailed(f"{name}: Pixel Data holds {len(value)} bytes, not {expected}.")
    elif header.transfer_syntax != RLE:
        try:
            stream = get_frame(value, 0, number_of_frames=1)
        except Exception as error:
            raise DecodeFailed(f"{name}: Pixel Data is not encapsulated as it should be.") from error
        _check_stream(stream, header, name)
    return value, vr


def _first_decoded(value: bytes, vr: str, header: Header, name: str) -> npt.NDArray[Any]:
    from pydicom.pixels import get_decoder

    options: dict[str, Any] = {
        "rows": header.rows,
        "columns": header.columns,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "bits_allocated": header.bits_allocated,
        "bits_stored": header.bits_stored,
        "pixel_representation": int(header.signed),
        "photometric_interpretation": header.photometric_interpretation,
        "pixel_keyword": "PixelData",
        "pixel_vr": vr,
        "correct_unused_bits": False,  # `to_hounsfield` looks at them before it drops them
    }
    causes: list[BaseException] = []
    for plugin in _plugins(header.transfer_syntax):
        try:
            decoder = get_decoder(header.transfer_syntax)
            decoded: npt.NDArray[Any] = decoder.as_array(value, decoding_plugin=plugin, raw=True, **options)[
                0
            ]
            return decoded
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of pylibjpeg-rle, which is Rust, is no Exception
            causes.append(error)
    kinds = ", ".join(type(cause).__name__ for cause in causes)
    raise DecodeFailed(f"{name}: Pixel Data cannot be decoded ({kinds}).") from causes[0]
