"""Decimal strings and optional attributes, as scanners write them and malformed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from spine_etl.dicom import read_header
from spine_etl.errors import HeaderInvalid

if TYPE_CHECKING:
    from .conftest import SeriesWriter


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
def test_invalid_decimal_strings_are_refused(series: SeriesWriter, text: bytes, keyword: str) -> None:
    content = text if keyword == "RescaleSlope" else b"\\".join([b"0", text, b"0"])
    with pytest.raises(HeaderInvalid, match=keyword):
        read_header(series.add("1.dcm", raw={keyword: content}))


def test_malformed_optional_attributes_count_as_absent(series: SeriesWriter) -> None:
    header = read_header(series.add("1.dcm", raw={"WindowCenter": b"x", "SliceThickness": b""}))
    assert dataclasses.replace(header, window_center=(450, 40), slice_thickness=3.0) == read_header(
        series.add("2.dcm")
    )
