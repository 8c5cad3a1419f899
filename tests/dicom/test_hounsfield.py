"""Stored values to HU, compared with the formula in float64 or integers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from spine_etl.dicom import read_series
from spine_etl.errors import HeaderInvalid

if TYPE_CHECKING:
    from .conftest import SeriesWriter

EXPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
SIGNED16: dict[str, Any] = {"BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1}
UNSIGNED16: dict[str, Any] = {"BitsStored": 16, "HighBit": 15}


def read(series: SeriesWriter, pixels: npt.NDArray[Any], **attributes: Any) -> npt.NDArray[Any]:
    series.add("1.dcm", pixels, **attributes)
    voxels = read_series(series.folder).voxels[0]
    assert voxels.min() >= -1024
    return voxels


def stored_in(bits: int) -> dict[str, Any]:
    return {"BitsStored": bits, "HighBit": bits - 1}


def every(lowest: int, highest: int, dtype: type) -> npt.NDArray[Any]:
    """All stored values from lowest to highest, as an image."""
    return np.arange(lowest, highest + 1).astype(dtype).reshape(64, -1)


@pytest.mark.parametrize("intercept", [-1024, 0, -1000, 24, -1024.0])
def test_unsigned_12_bits(series: SeriesWriter, intercept: float) -> None:
    pixels = every(0, 4095, np.uint16)
    voxels = read(series, pixels, RescaleIntercept=intercept)
    assert voxels.dtype == np.int16
    np.testing.assert_array_equal(voxels, np.maximum(pixels.astype(int) + int(intercept), -1024))


@pytest.mark.parametrize("intercept", [-1024, 0, -8192, 1000000, -1000000])
def test_signed_16_bits_never_overflow(series: SeriesWriter, intercept: int) -> None:
    pixels = every(-32768, 32767, np.int16)
    voxels = read(series, pixels, RescaleIntercept=intercept, **SIGNED16)
    np.testing.assert_array_equal(voxels, np.maximum(pixels.astype(int) + intercept, -1024))
    assert voxels.dtype == (np.float32 if intercept > 0 else np.int16)


@pytest.mark.parametrize(("highest", "dtype"), [(32767 + 1024, np.int16), (32768 + 1024, np.float32)])
def test_unsigned_16_bits_become_float32_beyond_int16(
    series: SeriesWriter, highest: int, dtype: type
) -> None:
    pixels = np.array([[0, 1000, highest]], np.uint16)
    voxels = read(series, pixels, **UNSIGNED16)
    assert voxels.dtype == dtype
    np.testing.assert_array_equal(voxels, [[-1024, -24, highest - 1024]])


@pytest.mark.parametrize("bits", [1, 7, 10, 12, 15])
@pytest.mark.parametrize("signed", [0, 1])
def test_bits_above_bits_stored_are_no_part_of_the_value(
    series: SeriesWriter, bits: int, signed: int
) -> None:
    """All patterns of so many bits, the bits above left zero as decoders of compressed files leave them."""
    pattern = np.arange(2**bits).astype(np.uint16).reshape(2, -1)
    voxels = read(series, pattern, PixelRepresentation=signed, RescaleIntercept=7, **stored_in(bits))
    value = pattern.astype(int)
    if signed:
        value = np.where(value >= 2 ** (bits - 1), value - 2**bits, value)
    np.testing.assert_array_equal(voxels, np.maximum(value + 7, -1024))


@pytest.mark.parametrize("bits", [2, 7, 10, 12, 15])
def test_the_sign_may_fill_the_bits_above_bits_stored(series: SeriesWriter, bits: int) -> None:
    value = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)).astype(np.int16).reshape(2, -1)
    voxels = read(series, value, PixelRepresentation=1, RescaleIntercept=7, **stored_in(bits))
    np.testing.assert_array_equal(voxels, np.maximum(value.astype(int) + 7, -1024))


@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED])
@pytest.mark.parametrize(
    ("values", "signed"),
    [([0, 4096], 0), ([0, 63536], 0), ([0, 4096], 1), ([0, -2049], 1), ([-1, 2048], 1)],
)
def test_values_wider_than_bits_stored_are_refused(
    series: SeriesWriter, values: list[int], signed: int, syntax: str
) -> None:
    """The last pair would fit, were it not that one value brings its sign along and the other does not."""
    pixels = (np.array([values]) % 65536).astype(np.uint16)
    with pytest.raises(HeaderInvalid, match=r"1\.dcm: pixels exceed BitsStored, which is 12\."):
        read(series, pixels, syntax=syntax, PixelRepresentation=signed)


def test_values_wider_than_bits_stored_are_refused_in_8_bits(series: SeriesWriter) -> None:
    attributes = {"BitsAllocated": 8, "BitsStored": 7, "HighBit": 6, "RescaleIntercept": -100}
    pixels = np.array([[0, 127]], np.uint8)
    np.testing.assert_array_equal(read(series, pixels, **attributes), [[-100, 27]])
    with pytest.raises(HeaderInvalid, match="BitsStored"):
        read(series, pixels + np.uint8(1), **attributes)


def test_fractional_slope_and_intercept_are_float32(series: SeriesWriter) -> None:
    pixels = every(0, 4095, np.uint16)
    voxels = read(series, pixels, RescaleSlope="2.0002442", RescaleIntercept="-4047.5")
    assert voxels.dtype == np.float32
    np.testing.assert_array_equal(voxels, np.maximum(pixels * 2.0002442 - 4047.5, -1024).astype(np.float32))


def test_whole_slope_stays_int16(series: SeriesWriter) -> None:
    voxels = read(series, np.array([[0, 511, 2000]], np.uint16), RescaleSlope=2, RescaleIntercept=-1022)
    assert voxels.dtype == np.int16
    np.testing.assert_array_equal(voxels, [[-1022, 0, 2978]])


def test_slope_and_intercept_of_each_slice(series: SeriesWriter) -> None:
    series.add("1.dcm", z=0)
    series.add("2.dcm", z=1, RescaleIntercept=-1000)
    series.add("3.dcm", z=2, RescaleSlope="0.5")
    volume = read_series(series.folder)
    stored = series.stored().astype(float)
    assert volume.voxels.dtype == np.float32
    np.testing.assert_array_equal(volume.voxels, [stored - 1024, stored - 1000, stored / 2 - 1024])


def test_untagged_padding_is_air(series: SeriesWriter) -> None:
    voxels = read(series, np.array([[-2000, 0, 1024]], np.int16), **SIGNED16)
    np.testing.assert_array_equal(voxels, [[-1024, -1024, 0]])


@pytest.mark.parametrize("padding", [-2000, 63536])
def test_padding_is_air_however_its_sign_is_written(series: SeriesWriter, padding: int) -> None:
    pixels = np.array([[-2000, -1999, 5]], np.int16)
    raw = {"PixelPaddingValue": (padding % 65536).to_bytes(2, "little")}
    voxels = read(series, pixels, PixelPaddingValue=0, raw=raw, RescaleIntercept=2000, **SIGNED16)
    np.testing.assert_array_equal(voxels, [[-1024, 1, 2005]])


def test_padding_above_air_is_sought(series: SeriesWriter) -> None:
    voxels = read(series, np.array([[4095, 4094, 0]], np.uint16), PixelPaddingValue=4095)
    np.testing.assert_array_equal(voxels, [[-1024, 3070, -1024]])


def test_padding_range(series: SeriesWriter) -> None:
    pixels = np.array([[9, 10, 15, 20, 21]], np.uint16)
    voxels = read(series, pixels, RescaleIntercept=0, PixelPaddingValue=20, PixelPaddingRangeLimit=10)
    np.testing.assert_array_equal(voxels, [[9, -1024, -1024, -1024, 21]])


@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED])
def test_padding_beyond_bits_stored_takes_no_bone(series: SeriesWriter, syntax: str) -> None:
    """-2000 in 16 bits is 2096 in its lower 12, a good value of bone."""
    pixels = np.array([[63536, 63536 % 4096]], np.uint16)
    voxels = read(series, pixels, syntax=syntax, PixelPaddingValue=63536)
    np.testing.assert_array_equal(voxels, [[-1024, 2096 - 1024]])


def test_padding_beyond_bits_stored_excuses_no_other_value(series: SeriesWriter) -> None:
    with pytest.raises(HeaderInvalid, match="BitsStored"):
        read(series, np.array([[63536, 63537, 0]], np.uint16), PixelPaddingValue=63536)


def test_padding_may_bring_its_sign_where_pixels_do_not(series: SeriesWriter) -> None:
    """-2000 in 16 bits, beside -1000 and 5 in 12."""
    pixels = np.array([[63536, 4096 - 1000, 5]], np.uint16)
    raw = {"PixelPaddingValue": (63536).to_bytes(2, "little")}
    attributes = {"PixelPaddingValue": 0, "PixelRepresentation": 1, "RescaleIntercept": 0}
    np.testing.assert_array_equal(read(series, pixels, raw=raw, **attributes), [[-1024, -1000, 5]])


def test_all_may_be_padding_beyond_bits_stored(series: SeriesWriter) -> None:
    pixels = np.full((2, 2), 63536, np.uint16)
    np.testing.assert_array_equal(read(series, pixels, PixelPaddingValue=63536), np.full((2, 2), -1024))


def test_8_bits_allocated(series: SeriesWriter) -> None:
    pixels = every(0, 255, np.uint8)
    voxels = read(series, pixels, BitsAllocated=8, BitsStored=8, HighBit=7, RescaleIntercept=-100)
    np.testing.assert_array_equal(voxels, pixels.astype(int) - 100)


@pytest.mark.parametrize("bits", [8, 12, 15])
def test_unsigned_pixels_up_to_bits_stored(series: SeriesWriter, bits: int) -> None:
    highest = 2**bits - 1
    voxels = read(series, np.array([[0, highest]], np.uint16), RescaleIntercept=0, **stored_in(bits))
    np.testing.assert_array_equal(voxels, [[0, highest]])
    with pytest.raises(HeaderInvalid, match=f"BitsStored, which is {bits}"):
        read(series, np.array([[0, highest + 1]], np.uint16), RescaleIntercept=0, **stored_in(bits))


@pytest.mark.parametrize("bits", [8, 12, 15])
def test_signed_pixels_down_to_bits_stored(series: SeriesWriter, bits: int) -> None:
    lowest = -(2 ** (bits - 1))
    attributes = {"PixelRepresentation": 1, "RescaleIntercept": 20000, **stored_in(bits)}
    for value in (lowest, -lowest - 1):
        pixels = np.array([[0, value]], np.int16)
        np.testing.assert_array_equal(read(series, pixels, **attributes), [[20000, 20000 + value]])
    with pytest.raises(HeaderInvalid, match=f"BitsStored, which is {bits}"):
        read(series, np.array([[0, lowest - 1]], np.int16), **attributes)


def test_padding_next_to_values_of_the_image(series: SeriesWriter) -> None:
    """Only the padding value itself is air; its neighbours are HU."""
    voxels = read(series, np.array([[1999, 2000, 2001]], np.uint16), PixelPaddingValue=2000)
    np.testing.assert_array_equal(voxels, [[975, -1024, 977]])


@pytest.mark.parametrize("intercept", [-1024, -1023, -1025])
def test_air_is_the_lower_limit(series: SeriesWriter, intercept: int) -> None:
    voxels = read(series, np.array([[0, 1, 2]], np.uint16), RescaleIntercept=intercept)
    expected = [max(value + intercept, -1024) for value in (0, 1, 2)]
    np.testing.assert_array_equal(voxels, [expected])
