"""Stored values to HU, held against the formula in float64 or whole numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK

from spine_etl.dicom import read_series

if TYPE_CHECKING:
    from .conftest import SeriesWriter

SIGNED16: dict[str, Any] = {"BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1}
UNSIGNED16: dict[str, Any] = {"BitsStored": 16, "HighBit": 15}


def read(series: SeriesWriter, pixels: npt.NDArray[Any], **attributes: Any) -> npt.NDArray[Any]:
    series.add("1.dcm", pixels, **attributes)
    voxels = read_series(series.folder).voxels[0]
    assert voxels.min() >= -1024
    return voxels


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
def test_bits_above_bits_stored_are_dropped(series: SeriesWriter, bits: int, signed: int) -> None:
    pattern = every(0, 65535, np.uint16)
    voxels = read(
        series, pattern, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=signed, RescaleIntercept=7
    )
    value = pattern.astype(int) % 2**bits
    if signed:
        value = np.where(value >= 2 ** (bits - 1), value - 2**bits, value)
    np.testing.assert_array_equal(voxels, np.maximum(value + 7, -1024))


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


@pytest.mark.parametrize("signed", [0, 1])
def test_monochrome1_as_itk_reads_it(series: SeriesWriter, signed: int) -> None:
    pixels = every(-2048, 2047, np.int16) if signed else every(0, 4095, np.uint16)
    voxels = read(
        series,
        pixels,
        PhotometricInterpretation="MONOCHROME1",
        PixelRepresentation=signed,
        RescaleIntercept=-100,
    )
    truth = (-1 if signed else 4095) - pixels.astype(int) - 100
    np.testing.assert_array_equal(voxels, np.maximum(truth, -1024))
    if not signed:
        itk = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(series.folder / "1.dcm")))[0]
        np.testing.assert_array_equal(voxels, np.maximum(itk, -1024))


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


def test_padding_beyond_bits_stored_takes_no_bone(series: SeriesWriter) -> None:
    """-2000 in 16 bits is 2096 in its lower 12, a good value of bone."""
    pixels = np.array([[63536, 63536 % 4096]], np.uint16)
    np.testing.assert_array_equal(read(series, pixels, PixelPaddingValue=63536), [[-1024, 2096 - 1024]])


def test_8_bits_allocated(series: SeriesWriter) -> None:
    pixels = every(0, 255, np.uint8)
    voxels = read(series, pixels, BitsAllocated=8, BitsStored=8, HighBit=7, RescaleIntercept=-100)
    np.testing.assert_array_equal(voxels, pixels.astype(int) - 100)
