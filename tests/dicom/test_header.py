"""Headers compared with pydicom's, and every reason to reject a header."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
import pytest

from spine_etl.dicom import read_header
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
    refused = (".4.53.dcm", ".4.55.dcm", "multiframe_ct.dcm", "sr_document.dcm")
    compared = 0
    for path in (p for p in paths if not p.name.endswith(refused)):
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


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["multiframe_ct.dcm", "sr_document.dcm"])
def test_real_objects_other_than_a_ct_slice_are_refused(real_data: Path, name: str) -> None:
    path = real_data / "odd_objects" / name
    if not path.exists():
        pytest.skip(f"{name} is not among the real files")
    with pytest.raises(HeaderInvalid):
        read_header(path)


@pytest.mark.parametrize("keyword", REQUIRED)
@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED])
def test_missing_attribute_is_named(series: SeriesWriter, keyword: str, syntax: str) -> None:
    with pytest.raises(HeaderInvalid, match=f"1.dcm: {keyword} is missing"):
        read_header(series.add("1.dcm", without=keyword, syntax=syntax))


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
