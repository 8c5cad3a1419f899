"""The header scan, held against pydicom, and every refusal of a header."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
import pytest

from spine_etl.dicom import read_header
from spine_etl.dicom.header import Surprise, scan
from spine_etl.errors import DicomUnreadable, HeaderInvalid, TransferSyntaxUnsupported

if TYPE_CHECKING:
    from .conftest import SeriesWriter

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"

REQUIRED = [
    "SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel",
    "PhotometricInterpretation", "Rows", "Columns", "PixelSpacing", "BitsAllocated", "BitsStored",
    "PixelRepresentation", "RescaleIntercept", "RescaleSlope",
]  # fmt: skip


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN])
def test_header_is_the_same_in_every_encoding(series: SeriesWriter, syntax: str) -> None:
    header = read_header(series.add("1.dcm", z=-3.25, syntax=syntax, PixelPaddingValue=63))
    assert header.transfer_syntax == syntax
    assert (header.rows, header.columns, header.bits_allocated, header.bits_stored) == (16, 12, 16, 12)
    assert header.pixel_spacing == (0.5, 0.25)
    assert header.image_position_patient == (-10, -20, -3.25)
    assert header.image_orientation_patient == (1, 0, 0, 0, 1, 0)
    assert (header.rescale_slope, header.rescale_intercept, header.signed) == (1, -1024, False)
    assert (header.window_center, header.window_width) == ((450, 40), (1500, 350))
    assert (header.slice_thickness, header.pixel_padding_value, header.modality) == (3, 63, None)


@pytest.mark.real_data
def test_header_equals_pydicom_on_real_files(real_data: Path) -> None:
    paths = [p for p in sorted(real_data.glob("*/*")) if p.suffix == ".dcm" or p.parent.name == "slice_gap"]
    retired = (".4.53.dcm", ".4.55.dcm")
    compared = 0
    for path in (p for p in paths if not p.name.endswith(retired)):
        header, dataset = read_header(path), pydicom.dcmread(path, stop_before_pixels=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # padding of 63536 with signed pixels
            assert header.image_position_patient == tuple(map(float, dataset.ImagePositionPatient))
            assert header.image_orientation_patient == tuple(map(float, dataset.ImageOrientationPatient))
            assert header.pixel_spacing == tuple(map(float, dataset.PixelSpacing))
            assert (header.rows, header.columns) == (dataset.Rows, dataset.Columns)
            assert header.rescale_slope == float(dataset.RescaleSlope)
            assert header.rescale_intercept == float(dataset.RescaleIntercept)
            assert header.image_type == tuple(v.strip() for v in dataset.ImageType)
            assert header.series_instance_uid == dataset.SeriesInstanceUID
            assert header.bits_stored == dataset.BitsStored
        compared += 1
    assert compared >= 70


def test_scan_and_pydicom_agree_after_a_sequence_of_undefined_length(series: SeriesWriter) -> None:
    plain = read_header(series.add("1.dcm"))
    item = pydicom.Dataset()
    item.Rows = 99
    item.is_undefined_length_sequence_item = True
    path = series.add("2.dcm", SourceImageSequence=pydicom.Sequence([item]))
    dataset = pydicom.dcmread(path)
    block = dataset.private_block(0x0009, "TEST", create=True)
    block.add_new(1, "SQ", pydicom.Sequence([item]))
    for tag in (0x00091001, 0x00082112):
        dataset[tag].is_undefined_length = True
    dataset.save_as(path)
    assert b"\xff\xff\xff\xff" in path.read_bytes()[:2000]
    assert read_header(path) == plain


def test_scan_hands_over_what_is_no_plain_run_of_elements(series: SeriesWriter) -> None:
    content = series.add("1.dcm").read_bytes()
    assert scan(content) is not None
    rows = b"\x28\x00\x10\x00US\x02\x00\x10\x00"
    sequence = b"\x28\x00\x0a\x00SQ\x00\x00" + b"\xff" * 4 + b"\xfe\xff\xdd\xe0" + bytes(4)
    for surprise in (rows + rows, sequence + rows, rows[:4] + b"??" + rows[6:], b"\xe0\x7f\x11" + rows[3:]):
        assert content.count(rows) == 1
        with pytest.raises(Surprise):
            scan(content.replace(rows, surprise))
    with pytest.raises(Surprise):
        scan(series.add("1.dcm", syntax=BIG_ENDIAN).read_bytes())


@pytest.mark.parametrize("size", [5_000, 9_000, 200_000])
def test_header_longer_than_the_first_block(series: SeriesWriter, size: int) -> None:
    plain = read_header(series.add("1.dcm"))
    path = series.add("2.dcm")
    dataset = pydicom.dcmread(path)
    dataset.private_block(0x0009, "TEST", create=True).add_new(1, "OB", bytes(size))
    dataset.save_as(path)
    assert scan(path.read_bytes()) is not None
    assert read_header(path) == plain


@pytest.mark.parametrize("keyword", REQUIRED)
@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED])
def test_missing_attribute_is_named(series: SeriesWriter, keyword: str, syntax: str) -> None:
    with pytest.raises(HeaderInvalid, match=f"1.dcm: {keyword} is missing"):
        read_header(series.add("1.dcm", without=keyword, syntax=syntax))


@pytest.mark.parametrize(
    ("text", "number"),
    [(b"-2.5917e-002", -0.025917), (b"-0.000000", 0.0), (b" +7.5 ", 7.5), (b".5", 0.5), (b"1.", 1.0),
     (b"1E2", 100.0)],
)  # fmt: skip
def test_decimal_strings_as_scanners_write_them(series: SeriesWriter, text: bytes, number: float) -> None:
    path = series.add("1.dcm", raw={"ImagePositionPatient": b"\\".join([text, text, b"3"])})
    assert read_header(path).image_position_patient == (number, number, 3)


@pytest.mark.parametrize("text", [b"nan", b"inf", b"1e999", b"1_0", b"1,5", b"abc", b"0x10", b"--1", b"1e7"])
@pytest.mark.parametrize("keyword", ["RescaleSlope", "ImagePositionPatient"])
def test_decimal_strings_that_are_no_numbers(series: SeriesWriter, text: bytes, keyword: str) -> None:
    content = text if keyword == "RescaleSlope" else b"\\".join([b"0", text, b"0"])
    with pytest.raises(HeaderInvalid, match=keyword):
        read_header(series.add("1.dcm", raw={keyword: content}))


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("Modality", "MR"), ("PhotometricInterpretation", "RGB"), ("SamplesPerPixel", 3),
     ("NumberOfFrames", "2"), ("Rows", 0), ("PixelSpacing", [0, 1]), ("PixelSpacing", [1]),
     ("BitsAllocated", 32), ("BitsStored", 17), ("BitsStored", 0),
     ("HighBit", 15), ("PixelRepresentation", 2), ("RescaleSlope", 0)],
)  # fmt: skip
def test_attribute_that_no_ct_slice_has(series: SeriesWriter, keyword: str, value: object) -> None:
    with pytest.raises(HeaderInvalid, match=keyword if keyword != "BitsStored" else "BitsAllocated"):
        read_header(series.add("1.dcm", **{keyword: value}))


@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED])
def test_monochrome1_is_refused(series: SeriesWriter, syntax: str) -> None:
    """C.7.6.3.1.2 has it concern the display, ITK inverts the stored values."""
    path = series.add("1.dcm", syntax=syntax, PhotometricInterpretation="MONOCHROME1")
    with pytest.raises(HeaderInvalid, match="PhotometricInterpretation is MONOCHROME1") as refused:
        read_header(path)
    assert refused.value.action == "Convert the series to MONOCHROME2 from the original."


@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED])
@pytest.mark.parametrize("text", ["OD", "HU_MOD", "DOE^JOHN", ["HU", "US"]])
def test_rescale_type_that_is_not_hu(series: SeriesWriter, text: object, syntax: str) -> None:
    """The first two are defined terms of C.11.1.1.2."""
    path = series.add("1.dcm", syntax=syntax, RescaleType=text)
    with pytest.raises(HeaderInvalid, match=r"^\[HEADER_INVALID\] 1\.dcm: RescaleType is not HU\. "):
        read_header(path)


@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED])
@pytest.mark.parametrize("text", ["HU", "US", ""])
def test_rescale_type_that_may_be_hu(series: SeriesWriter, text: str, syntax: str) -> None:
    header = read_header(series.add("1.dcm", syntax=syntax, RescaleType=text))
    assert header == read_header(series.add("2.dcm", syntax=syntax))


def test_modality_lut_is_refused(series: SeriesWriter) -> None:
    with pytest.raises(HeaderInvalid, match="ModalityLUTSequence"):
        read_header(series.add("1.dcm", ModalityLUTSequence=pydicom.Sequence([pydicom.Dataset()])))


def test_what_is_optional_may_be_malformed(series: SeriesWriter) -> None:
    header = read_header(series.add("1.dcm", raw={"WindowCenter": b"x", "SliceThickness": b""}))
    assert dataclasses.replace(header, window_center=(450, 40), slice_thickness=3.0) == read_header(
        series.add("2.dcm")
    )


READ = """
import logging, sys, warnings
from pathlib import Path
logging.basicConfig()
if sys.argv[2] == "forgotten":
    with warnings.catch_warnings():
        from spine_etl.dicom import read_header
from spine_etl.dicom import read_header
print(read_header(Path(sys.argv[1])).rows, file=sys.stderr)
"""


@pytest.mark.parametrize("filters", ["kept", "forgotten"])
def test_pydicom_quotes_no_header(series: SeriesWriter, filters: str) -> None:
    path = series.add("1.dcm", syntax=BIG_ENDIAN, SpecificCharacterSet="ISO_IR 100")
    content = path.read_bytes()
    for text, name in [
        (b"ISO_IR 100", b"DOE^JOHN 1"),
        (b"1.2.840.10008.5.1.4.1.1.2", b"ROE^JANE".ljust(25)),  # MediaStorageSOPClassUID
        (b"UI\0\x061.2.3\0", b"UI\0\x06R^JANE"),  # StudyInstanceUID
    ]:
        assert content.count(text) == 1
        content = content.replace(text, name)
    path.write_bytes(content)
    command = [sys.executable, "-W", "always", "-c", READ, str(path), filters]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert told.splitlines() == ["16"]


def test_unknown_transfer_syntax(series: SeriesWriter) -> None:
    path = series.add("1.dcm")
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.1\0"))
    with pytest.raises(TransferSyntaxUnsupported, match=r"1\.2\.840\.10008\.9\.9\.1"):
        read_header(path)


@pytest.mark.parametrize("content", [b"", b"no DICOM", bytes(5000), bytes(128) + b"DICM"])
def test_no_dicom_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "1.dcm"
    path.write_bytes(content)
    with pytest.raises((DicomUnreadable, TransferSyntaxUnsupported)):
        read_header(path)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(DicomUnreadable, match=r"1\.dcm cannot be read"):
        read_header(tmp_path / "1.dcm")
