"""The fast scan of a file's first bytes, and the cases that it leaves to pydicom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pydicom
import pytest

from spine_etl.dicom import read_header
from spine_etl.dicom.scan import NotOnFastPath, scan

if TYPE_CHECKING:
    from .conftest import SeriesWriter

BIG_ENDIAN = "1.2.840.10008.1.2.2"


def test_sequences_of_undefined_length_do_not_change_the_header(series: SeriesWriter) -> None:
    expected = read_header(series.add("1.dcm"))
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
    assert read_header(path) == expected


def test_scan_rejects_unusual_element_sequences(series: SeriesWriter) -> None:
    content = series.add("1.dcm").read_bytes()
    assert scan(content) is not None
    rows = b"\x28\x00\x10\x00US\x02\x00\x10\x00"
    sequence = b"\x28\x00\x0a\x00SQ\x00\x00" + b"\xff" * 4 + b"\xfe\xff\xdd\xe0" + bytes(4)
    for unusual in (rows + rows, sequence + rows, rows[:4] + b"??" + rows[6:], b"\xe0\x7f\x11" + rows[3:]):
        assert content.count(rows) == 1
        with pytest.raises(NotOnFastPath):
            scan(content.replace(rows, unusual))
    with pytest.raises(NotOnFastPath):
        scan(series.add("1.dcm", syntax=BIG_ENDIAN).read_bytes())


@pytest.mark.parametrize("size", [5_000, 9_000, 200_000])
def test_header_longer_than_first_block(series: SeriesWriter, size: int) -> None:
    expected = read_header(series.add("1.dcm"))
    path = series.add("2.dcm")
    dataset = pydicom.dcmread(path)
    dataset.private_block(0x0009, "TEST", create=True).add_new(1, "OB", bytes(size))
    dataset.save_as(path)
    assert scan(path.read_bytes()) is not None
    assert read_header(path) == expected
