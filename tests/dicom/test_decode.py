"""Pixels of every transfer syntax, compared with pydicom; damage is refused, never filled in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom.encaps import encapsulate, get_frame

from spine_etl.dicom import read_series
from spine_etl.dicom.decode import read_slice
from spine_etl.errors import DecodeFailed, DicomError, DicomUnreadable, TransferSyntaxUnsupported

if TYPE_CHECKING:
    from .conftest import SeriesWriter

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
RLE, J2K = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"
SV1, P14, JLS = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.80"
LOSSLESS = [IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN, RLE, J2K, SV1, P14, JLS]
LOSSY = [
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.91",
]
FAST = {IMPLICIT, EXPLICIT, SV1, P14, JLS}


def real_file(real_data: Path, syntax: str) -> Path:
    return next((real_data / "transfer_syntaxes").glob(f"*_{syntax}.dcm"))


def pydicom_hu(path: Path) -> npt.NDArray[np.float64]:
    dataset = pydicom.dcmread(path)
    dataset.pixel_array_options(decoding_plugin="pylibjpeg")  # lossy decoders differ in their rounding
    hu = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    return np.maximum(hu, -1024)


@pytest.mark.real_data
@pytest.mark.parametrize("syntax", LOSSLESS)
def test_lossless_syntaxes_give_the_uncompressed_voxels(real_data: Path, syntax: str) -> None:
    one = read_slice(real_file(real_data, syntax))
    plain = pydicom_hu(real_file(real_data, EXPLICIT))
    assert one.hu.dtype == np.int16
    assert one.decoder == ("fast" if syntax in FAST else "pydicom")
    np.testing.assert_array_equal(one.hu, plain)


@pytest.mark.real_data
@pytest.mark.parametrize("syntax", LOSSY)
def test_lossy_syntaxes_give_the_voxels_of_pydicom(real_data: Path, syntax: str) -> None:
    path = real_file(real_data, syntax)
    np.testing.assert_array_equal(read_slice(path).hu, pydicom_hu(path).astype(np.float32))


@pytest.mark.real_data
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55"])
def test_retired_syntaxes_are_refused(real_data: Path, syntax: str) -> None:
    with pytest.raises(TransferSyntaxUnsupported, match=syntax):
        read_slice(real_file(real_data, syntax))


@pytest.mark.real_data
@pytest.mark.parametrize("syntax", [RLE, J2K, SV1, P14, JLS, *LOSSY])
def test_a_stream_cut_in_half_is_refused(real_data: Path, tmp_path: Path, syntax: str) -> None:
    """Lengths and delimiters are made right again, so that only the stream itself tells."""
    dataset = pydicom.dcmread(real_file(real_data, syntax))
    stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([stream[: len(stream) // 4 * 2]])
    path = tmp_path / "1.dcm"
    dataset.save_as(path)
    with pytest.raises(DecodeFailed):
        read_slice(path)


@pytest.mark.real_data
def test_a_panic_of_the_rle_decoder_is_a_refusal(real_data: Path, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(real_file(real_data, RLE))
    stream = bytearray(get_frame(dataset.PixelData, 0, number_of_frames=1))
    stream[len(stream) // 2 : len(stream) // 2 + 200] = bytes(200)
    dataset.PixelData = encapsulate([bytes(stream)])
    path = tmp_path / "1.dcm"
    dataset.save_as(path)
    with pytest.raises(DecodeFailed, match="PanicException"):
        read_slice(path)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, DEFLATED, BIG_ENDIAN])
@pytest.mark.parametrize("signed", [0, 1])
def test_uncompressed(series: SeriesWriter, syntax: str, signed: int) -> None:
    stored = series.stored().astype(np.int16) - 2048 * signed
    path = series.add("1.dcm", stored, syntax=syntax, PixelRepresentation=signed, RescaleIntercept=-5)
    one = read_slice(path)
    assert one.decoder == ("fast" if syntax in FAST else "pydicom")
    np.testing.assert_array_equal(one.hu, np.maximum(stored - 5, -1024))


def jpeg(bits: int) -> Callable[[npt.NDArray[np.uint16]], bytes]:
    return lambda pixels: bytes(imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=bits))


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [(SV1, jpeg(12)), (SV1, jpeg(16)), (P14, jpeg(12)), (JLS, lambda a: bytes(imagecodecs.jpegls_encode(a)))],
)
@pytest.mark.parametrize("signed", [0, 1])
def test_compressed(
    series: SeriesWriter, syntax: str, encode: Callable[[npt.NDArray[np.uint16]], bytes], signed: int
) -> None:
    pattern = series.stored()
    attributes = {"PixelRepresentation": signed, "RescaleIntercept": -5, "Rows": 16, "Columns": 12}
    one = read_slice(series.add("1.dcm", encapsulate([encode(pattern)]), syntax=syntax, **attributes))
    value = pattern.astype(int)
    value = np.where(value > 2047, value - 4096, value) if signed else value
    assert one.decoder == "fast"
    np.testing.assert_array_equal(one.hu, np.maximum(value - 5, -1024))


@pytest.mark.parametrize("fragments", [1, 2, 3])
@pytest.mark.parametrize("has_bot", [True, False])
def test_fragments_and_offset_table(series: SeriesWriter, fragments: int, has_bot: bool) -> None:
    content = encapsulate([jpeg(12)(series.stored())], fragments_per_frame=fragments, has_bot=has_bot)
    one = read_slice(series.add("1.dcm", content, syntax=SV1))
    assert one.decoder == ("fast" if fragments == 1 else "pydicom")
    np.testing.assert_array_equal(one.hu, series.stored().astype(int) - 1024)


def test_offset_table_that_points_elsewhere_is_left_to_pydicom(series: SeriesWriter) -> None:
    path = series.add("1.dcm", encapsulate([jpeg(12)(series.stored())]), syntax=SV1)
    table = b"\xfe\xff\x00\xe0\x04\x00\x00\x00"
    content = path.read_bytes()
    assert content.count(table + bytes(4)) == 1
    path.write_bytes(content.replace(table + bytes(4), table + b"\x08\x00\x00\x00"))
    with pytest.raises(DecodeFailed, match="not correctly encapsulated"):
        read_slice(path)


@pytest.mark.parametrize("fragments", [1, 2])
def test_damaged_jpeg_ls_is_refused_on_the_fast_and_the_slow_path(
    series: SeriesWriter, fragments: int
) -> None:
    stream = bytes(imagecodecs.jpegls_encode(series.stored()))
    content = encapsulate([stream[: len(stream) // 2] + b"\xff\xd9"], fragments_per_frame=fragments)
    with pytest.raises(DecodeFailed, match="cannot be decoded"):
        read_slice(series.add("1.dcm", content, syntax=JLS))


def test_stream_of_another_size_is_refused(series: SeriesWriter) -> None:
    content = encapsulate([jpeg(12)(series.stored().T.copy())])
    with pytest.raises(DecodeFailed, match="12x16, Rows and Columns say 16x12"):
        read_slice(series.add("1.dcm", content, syntax=SV1))


def test_stream_with_too_few_bits_for_its_sign_is_refused(series: SeriesWriter) -> None:
    content = encapsulate([jpeg(12)(series.stored())])
    attributes = {"BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1}
    with pytest.raises(DecodeFailed, match="12 bits per sample"):
        read_slice(series.add("1.dcm", content, syntax=SV1, **attributes))


@pytest.mark.parametrize("cut", [1, 100, 383])
def test_uncompressed_file_that_ends_early(series: SeriesWriter, cut: int) -> None:
    path = series.add("1.dcm")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DicomUnreadable, match=f"1.dcm ends after {384 - cut} of 384 bytes"):
        read_slice(path)


@pytest.mark.parametrize("syntax", [DEFLATED, BIG_ENDIAN, SV1, RLE])
def test_other_file_that_ends_early(series: SeriesWriter, syntax: str) -> None:
    content = encapsulate([jpeg(12)(series.stored())]) if syntax in (SV1, RLE) else None
    path = series.add("1.dcm", content, syntax=syntax)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DicomError):
        read_slice(path)


@pytest.mark.parametrize("syntax", [EXPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("rows", [15, 17])
def test_pixels_that_are_not_as_many_as_the_header_says(series: SeriesWriter, syntax: str, rows: int) -> None:
    with pytest.raises(DecodeFailed, match=f"has 384 bytes, not {rows * 24}"):
        read_slice(series.add("1.dcm", syntax=syntax, Rows=rows))


def test_no_pixels_at_all(series: SeriesWriter) -> None:
    with pytest.raises(DicomUnreadable, match="no Pixel Data"):
        read_slice(series.add("1.dcm", without="PixelData"))


def test_bytes_after_the_pixels_are_read_for_the_digest(series: SeriesWriter) -> None:
    path = series.add("1.dcm", DataSetTrailingPadding=bytes(100_000))
    before = read_slice(path)
    content = bytearray(path.read_bytes())
    content[-1] = 1
    path.write_bytes(content)
    after = read_slice(path)
    assert before.digest != after.digest
    np.testing.assert_array_equal(before.hu, after.hu)


def test_series_of_mixed_syntaxes(series: SeriesWriter) -> None:
    series.add("1.dcm", z=0)
    series.add("2.dcm", encapsulate([jpeg(12)(series.stored(1))]), z=1, syntax=SV1, Rows=16, Columns=12)
    series.add("3.dcm", series.stored(2), z=2, syntax=DEFLATED)
    volume = read_series(series.folder)
    np.testing.assert_array_equal(volume.voxels, [series.stored(i).astype(int) - 1024 for i in range(3)])
    assert volume.facts["decoders"] == {"fast": 2, "pydicom": 1}
    assert volume.facts["transfer_syntaxes"] == sorted([EXPLICIT, SV1, DEFLATED])
