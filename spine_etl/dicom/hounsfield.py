"""Stored values to Hounsfield units, in place if that loses nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spine_etl.dicom.header import Header
from spine_etl.errors import HeaderInvalid
from spine_etl.volume import AIR_HU

Pixels = npt.NDArray[np.int16]
Stored = npt.NDArray[np.int16] | npt.NDArray[np.uint16]
Hounsfield = npt.NDArray[np.int16] | npt.NDArray[np.float32]

_INT16 = np.iinfo(np.int16)


def to_hounsfield(pixels: Pixels, header: Header, name: str) -> Hounsfield:
    """Convert the pixels of one slice, the file ``name``, to HU (PS3.3 C.11.1).

    ``pixels`` (rows, columns) contains the stored bits, signed or not. If every HU value is an integer that
    fits int16, it is overwritten with the result and returned; otherwise the result is a new float32 array.
    Bits above BitsStored, which are unused or repeat the sign, are dropped. Padding (C.7.5.1.1.2) and
    everything below `AIR_HU` become `AIR_HU`.

    Raises
    ------
    HeaderInvalid
        If a pixel that is not padding is wider than BitsStored.
    """
    padding, stored_range = _padding(header), _stored_range(header)
    # The bits above BitsStored identify a padding value outside it, so look for it before they are dropped.
    beyond = padding is not None and (padding[0] < stored_range[0] or padding[1] > stored_range[1])
    padded = _mask_between(_as_signed_or_unsigned(pixels, header), padding) if padding and beyond else None
    _require_bits_stored(_as_signed_or_unsigned(pixels, header), padding, header, name)
    stored = _mask_to_bits_stored(pixels, header)
    if padding and not beyond and not _padding_is_below_air(padding, header):
        padded = _mask_between(stored, padding)
    if padded is None and _add_intercept_in_place(stored, header):
        return pixels
    return _rescale_in_float64(stored, padded, pixels, header)


def _as_signed_or_unsigned(pixels: Pixels, header: Header) -> Stored:
    return pixels if header.signed else pixels.view(np.uint16)


def _mask_between(stored: Stored, ends: tuple[int, int]) -> npt.NDArray[np.bool_]:
    within: npt.NDArray[np.bool_] = (stored >= ends[0]) & (stored <= ends[1])
    return within


def _require_bits_stored(stored: Stored, padding: tuple[int, int] | None, header: Header, name: str) -> None:
    """Refuse values that would wrap: in 12 bits 63536 would become 2096, which is bone."""
    if header.bits_stored == header.bits_allocated or _fits_bits_stored(stored, header):
        return
    if padding is None or not _fits_bits_stored(stored[~_mask_between(stored, padding)], header):
        raise HeaderInvalid(f"{name}: pixels exceed BitsStored, which is {header.bits_stored}.")


def _fits_bits_stored(stored: Stored, header: Header) -> bool:
    """True if the bits above BitsStored repeat the sign or, as some decoders leave them, are zero."""
    if not stored.size:
        return True
    lowest, highest = int(stored.min()) if header.signed else 0, int(stored.max())
    least, most = _stored_range(header)
    signs = least <= lowest and highest <= most
    return signs or (lowest >= 0 and highest < 1 << header.bits_stored)


def _mask_to_bits_stored(pixels: Pixels, header: Header) -> Stored:
    """Drop the bits above BitsStored and extend the sign, in place."""
    stored, spare = _as_signed_or_unsigned(pixels, header), 16 - header.bits_stored
    if spare and header.signed:
        np.left_shift(stored, spare, out=stored)
        np.right_shift(stored, spare, out=stored)  # an arithmetic shift repeats the sign
    elif spare:
        np.bitwise_and(stored, np.uint16(0xFFFF >> spare), out=stored)
    return stored


def _stored_range(header: Header) -> tuple[int, int]:
    count = 1 << header.bits_stored
    return (-count // 2, count // 2 - 1) if header.signed else (0, count - 1)


def _padding(header: Header) -> tuple[int, int] | None:
    """Lowest and highest padding value, signed as the pixels are: files write either form."""
    value, limit = header.pixel_padding_value, header.pixel_padding_range_limit
    if value is None:
        return None
    ends = [value, value if limit is None else limit]
    if header.signed:
        ends = [end - (1 << 16) if end > _INT16.max else end for end in ends]
    return min(ends), max(ends)


def _padding_is_below_air(padding: tuple[int, int], header: Header) -> bool:
    """True if all padding is at or below air, so that the floor alone turns it into air."""
    in_hu = [end * header.rescale_slope + header.rescale_intercept for end in padding]
    return max(in_hu) <= AIR_HU


def _add_intercept_in_place(stored: Stored, header: Header) -> bool:
    """The common case, slope 1, in two passes. Returns False, with nothing changed, if that is not exact.

    The sum is modulo 2**16, which is exact because the values were clipped to the result's range before.
    """
    intercept = int(header.rescale_intercept)
    if header.rescale_slope != 1 or header.rescale_intercept != intercept:
        return False
    (lowest, highest), floor, ceiling = _stored_range(header), AIR_HU - intercept, _INT16.max - intercept
    if floor > highest or ceiling < lowest or (highest > ceiling and int(stored.max()) > ceiling):
        return False
    if floor > lowest:
        # With a row instead of a scalar numpy uses its vectorised loop, which is six times as fast.
        np.maximum(stored, np.full(stored.shape[1], floor, stored.dtype), out=stored)
    if intercept:
        pattern = stored.view(np.uint16)
        np.add(pattern, np.uint16(intercept % (1 << 16)), out=pattern)
    return True


def _rescale_in_float64(
    stored: Stored, padded: npt.NDArray[np.bool_] | None, pixels: Pixels, header: Header
) -> Hounsfield:
    """All other cases, in float64: exact for integer slopes, rounded once for others."""
    values = stored.astype(np.float64)
    values *= header.rescale_slope
    values += header.rescale_intercept
    if padded is not None:
        values[padded] = AIR_HU
    np.maximum(values, AIR_HU, out=values)
    integers = header.rescale_slope.is_integer() and header.rescale_intercept.is_integer()
    if integers and values.max() <= _INT16.max:
        pixels[...] = values
        return pixels
    return values.astype(np.float32)
