"""One DICOM file to one slice in HU; the file is opened once, read once, and hashed while it is read.

Common files take the fast path: uncompressed pixels are read straight into the output array, JPEG Lossless
and JPEG-LS are decoded into it by imagecodecs, which releases the GIL. pydicom reads all other files.

If a decoder rejects a stream, no other decoder is tried that might accept the damage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spine_etl.dicom.header import Header, header_from_dataset, parse_header
from spine_etl.dicom.hounsfield import Hounsfield, Pixels, to_hounsfield
from spine_etl.dicom.pydicom_reader import quiet_pydicom, read_dataset
from spine_etl.dicom.scan import PIXEL_DATA, NotOnFastPath, Scan, scan_file
from spine_etl.dicom.streams import check_stream, single_fragment
from spine_etl.dicom.transfer_syntaxes import EXPLICIT, IMPLICIT, JPEG_LOSSLESS, JPEG_LS, NATIVE, RLE
from spine_etl.errors import DecodeFailed, DicomUnreadable, SourceError
from spine_etl.source.digest import HashingReader
from spine_etl.source.files import FileOrPath, as_file


@dataclass(frozen=True, eq=False)
class Slice:
    """One file: its header, HU (rows, columns), the decoder (fast or pydicom) and the digest of its bytes."""

    name: str
    header: Header
    hu: Hounsfield
    decoder: str
    digest: str


def read_slice(file: FileOrPath, out: Hounsfield | None = None) -> Slice:
    """Read one file.

    The HU are written to ``out`` (rows, columns) if its shape and dtype allow, else to a new array.

    Raises
    ------
    DicomUnreadable, HeaderInvalid, TransferSyntaxUnsupported
        As `spine_etl.dicom.header.read_header`, or if the file ends within its pixels, or if pixels are wider
        than BitsStored.
    DecodeFailed
        If the pixels are damaged, or their number differs from the header's.
    SourceError
        If the file's folder or archive has changed, or cannot be reached.
    """
    file = as_file(file)
    name = file.name
    try:
        with file.open() as raw:
            content = HashingReader(raw, file.listed_digest)
            header, pixels, decoder = _read(content, name, out)
            hu = _copy_to_output(to_hounsfield(pixels, header, name), out)
            return Slice(name, header, hu, decoder, content.digest)
    except SourceError:
        raise
    except OSError as error:
        raise DicomUnreadable(f"{name} cannot be read: {error.strerror}.") from error


def _read(file: HashingReader, name: str, out: Hounsfield | None) -> tuple[Header, Pixels, str]:
    block, scanned = scan_file(file)
    if scanned is None:
        return _read_with_pydicom(block + file.read(), name, out)
    header = parse_header(scanned.values, scanned.transfer_syntax, name=name)
    if _is_native_16_bit(scanned, header):
        return header, _read_native(file, block, scanned, header, name, out), "fast"
    content = block + file.read()
    try:
        return header, _decode_fast(content, scanned, header, name, out), "fast"
    except NotOnFastPath:
        return _read_with_pydicom(content, name, out)


def _read_with_pydicom(content: bytes, name: str, out: Hounsfield | None) -> tuple[Header, Pixels, str]:
    with quiet_pydicom():
        dataset = read_dataset(content, name)
        header = header_from_dataset(dataset, name)
        return header, _decode_with_pydicom(dataset, header, name, out), "pydicom"


def _pixel_array(out: Hounsfield | None, header: Header) -> Pixels:
    """An array for the stored pixels: ``out`` if its shape and dtype allow, else a new one."""
    shape = (header.rows, header.columns)
    if out is not None and out.shape == shape and out.dtype == np.int16:
        return out.view(np.int16)
    return np.empty(shape, np.int16)


def _copy_to_output(hu: Hounsfield, out: Hounsfield | None) -> Hounsfield:
    """Copy HU that are not in ``out`` yet, if its shape and dtype can hold them exactly."""
    if out is None or np.may_share_memory(hu, out):
        return hu
    if hu.shape != out.shape or not np.can_cast(hu.dtype, out.dtype):
        return hu
    out[...] = hu
    return out


def _is_native_16_bit(scanned: Scan, header: Header) -> bool:
    native = header.transfer_syntax in (IMPLICIT, EXPLICIT) and header.bits_allocated == 16
    return native and scanned.pixel_length == header.rows * header.columns * 2


def _read_native(
    file: HashingReader, block: bytes, scanned: Scan, header: Header, name: str, out: Hounsfield | None
) -> Pixels:
    """Read uncompressed pixels straight into their array: first from the block, then from the file."""
    expected = header.rows * header.columns * 2
    available = file.size - scanned.pixel_start
    # Checked before allocating: a damaged header may ask for gigabytes.
    if available < expected:
        raise DicomUnreadable(f"{name} ends after {max(available, 0)} of {expected} bytes of Pixel Data.")
    pixels = _pixel_array(out, header)
    buffer = pixels.reshape(-1).view(np.uint8).data
    in_block = block[scanned.pixel_start : scanned.pixel_start + expected]
    buffer[: len(in_block)] = in_block
    filled = len(in_block) + file.read_into(buffer[len(in_block) :])
    if filled < expected:  # the file shrank meanwhile
        raise DicomUnreadable(f"{name} ends after {filled} of {expected} bytes of Pixel Data.")
    file.read()  # the digest includes the bytes after the pixels
    return pixels


def _decode_fast(content: bytes, scanned: Scan, header: Header, name: str, out: Hounsfield | None) -> Pixels:
    """Decode a single JPEG Lossless or JPEG-LS frame; raises NotOnFastPath for any other pixels."""
    decode = _fast_decoder(header)
    if scanned.pixel_length is not None:
        raise NotOnFastPath
    stream = single_fragment(content, scanned.pixel_start)
    if check_stream(stream, header, name) <= 8:
        raise NotOnFastPath  # such streams decode to uint8
    pixels = _pixel_array(out, header)
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
    raise NotOnFastPath


def _decoding_plugins(syntax: str) -> tuple[str, ...]:
    """pydicom's decoders for a transfer syntax, in the order they are tried."""
    if syntax in NATIVE:
        return ("",)
    if syntax == RLE:
        return ("pylibjpeg",)
    # pylibjpeg decodes a damaged JPEG-LS stream to wrong pixels; GDCM (CharLS) rejects it.
    return ("gdcm",) if syntax in JPEG_LS else ("pylibjpeg", "gdcm")


def _decode_with_pydicom(dataset: Any, header: Header, name: str, out: Hounsfield | None) -> Pixels:
    value, vr = _pixel_data(dataset, header, name)
    decoded = _first_decoded(value, vr, header, name)
    if decoded.shape != (header.rows, header.columns) or decoded.dtype.itemsize > 2:
        raise DecodeFailed(f"{name}: Pixel Data decodes to {decoded.shape} of {decoded.dtype}.")
    pixels = _pixel_array(out, header)
    # Copy bits, not values: unsigned pixels need an unsigned view.
    pixels.view(np.int16 if decoded.dtype.kind == "i" else np.uint16)[...] = decoded
    return pixels


def _pixel_data(dataset: Any, header: Header, name: str) -> tuple[bytes, str]:
    """Raw Pixel Data and its VR, after a check of its length or of its stream."""
    from pydicom.encaps import get_frame

    try:
        element = dataset.get_item(PIXEL_DATA)
        value, vr = bytes(element.value), element.VR or "OW"
    except Exception as error:
        raise DicomUnreadable(f"{name} has no Pixel Data.") from error
    if header.transfer_syntax in NATIVE:
        expected = header.rows * header.columns * header.bits_allocated // 8
        if len(value) not in (expected, expected + expected % 2):
            raise DecodeFailed(f"{name}: Pixel Data has {len(value)} bytes, not {expected}.")
    elif header.transfer_syntax != RLE:
        try:
            stream = get_frame(value, 0, number_of_frames=1)
        except Exception as error:
            raise DecodeFailed(f"{name}: Pixel Data is not correctly encapsulated.") from error
        check_stream(stream, header, name)
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
        "correct_unused_bits": False,  # `to_hounsfield` checks them before it clears them
    }
    causes: list[BaseException] = []
    for plugin in _decoding_plugins(header.transfer_syntax):
        try:
            decoder = get_decoder(header.transfer_syntax)
            decoded: npt.NDArray[Any] = decoder.as_array(value, decoding_plugin=plugin, raw=True, **options)[
                0
            ]
            return decoded
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # pylibjpeg-rle is written in Rust: its panic is a BaseException
            causes.append(error)
    kinds = ", ".join(type(cause).__name__ for cause in causes)
    raise DecodeFailed(f"{name}: Pixel Data cannot be decoded ({kinds}).") from causes[0]
