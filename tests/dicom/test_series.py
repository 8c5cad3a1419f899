"""Which files of a folder are read, how often, and which facts and warnings they give."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest
from pydicom.encaps import encapsulate

from spine_etl.dicom import read_series, series_files
from spine_etl.errors import DicomUnreadable, NoSlices, SourceNotFound, SpineError
from spine_etl.source.digest import combine_digests, file_digest

if TYPE_CHECKING:
    from .conftest import SeriesWriter

EXPLICIT, SV1, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.1.99"

opened: list[str] = []
_listening = [False]


def _record_open(event: str, arguments: tuple[object, ...]) -> None:
    if _listening[0] and event == "open":
        opened.append(str(arguments[0]))


sys.addaudithook(_record_open)  # hooks cannot be removed, so it records only inside the fixture


@pytest.fixture
def opens() -> Iterator[list[str]]:
    opened.clear()
    _listening[0] = True
    yield opened
    _listening[0] = False


def test_each_file_is_opened_once(series: SeriesWriter, opens: list[str]) -> None:
    series.add_many(6)
    series.add("7.dcm", syntax=DEFLATED, z=-6)
    stream = bytes(imagecodecs.jpeg8_encode(series.stored(), lossless=True, bitspersample=12))
    series.add("8.dcm", encapsulate([stream]), syntax=SV1, z=-7)
    opens.clear()
    read_series(series.folder)
    assert sorted(Path(p).name for p in opens if str(series.folder) in p) == [f"{i}.dcm" for i in range(1, 9)]


@pytest.mark.parametrize("threads", [1, 4])
def test_any_number_of_threads_gives_the_same(series: SeriesWriter, threads: int) -> None:
    series.add_many(9)
    one, other = read_series(series.folder), read_series(series.folder, threads=threads)
    np.testing.assert_array_equal(one.voxels, other.voxels)
    np.testing.assert_array_equal(one.grid.affine, other.grid.affine)
    assert (one.source_digest, one.facts) == (other.source_digest, other.facts)


def test_digest_is_that_of_the_files(series: SeriesWriter) -> None:
    series.add_many(3)
    series.add("4.dcm", syntax=DEFLATED, z=-3)
    series.add("5.dcm", series.stored(1), z=-1)  # dropped, being a duplicate, yet part of the source
    stream = bytes(imagecodecs.jpeg8_encode(series.stored(), lossless=True, bitspersample=12))
    series.add("6.dcm", encapsulate([stream]), syntax=SV1, z=-4)
    series.add("7.dcm", DataSetTrailingPadding=bytes(50_000), z=-5)
    truth = combine_digests((p.name, file_digest(p)) for p in series_files(series.folder))
    assert read_series(series.folder).source_digest == truth


@pytest.mark.real_data
@pytest.mark.parametrize("folder", ["ct_head_gantry_tilt", "rotated_orientation"])
def test_digest_of_real_files(real_data: Path, folder: str) -> None:
    truth = combine_digests((p.name, file_digest(p)) for p in series_files(real_data / folder))
    assert read_series(real_data / folder).source_digest == truth


def test_files_are_sorted_by_number(series: SeriesWriter) -> None:
    for name in ("10.dcm", "9.dcm", "IMG2.dcm", "IMG10.DCM", "1.dcm"):
        series.add(name)
    names = [p.name for p in series_files(series.folder)]
    assert names == ["1.dcm", "9.dcm", "10.dcm", "IMG2.dcm", "IMG10.DCM"]


def test_only_dicom_files_are_considered(series: SeriesWriter) -> None:
    series.add_many(2)
    series.add("slice3", z=-2)
    (series.folder / "LICENSE").write_text("words, more than a preamble is long " * 10)
    (series.folder / ".DS_Store").write_bytes(bytes(128) + b"DICM")
    (series.folder / "._1.dcm").write_bytes(b"a fork of 1.dcm")
    (series.folder / "empty.txt").touch()
    (series.folder / "more.dcm").mkdir()
    assert [p.name for p in series_files(series.folder)] == ["1.dcm", "2.dcm", "slice3"]
    volume = read_series(series.folder)
    assert volume.file_numbers is not None
    assert volume.file_numbers.tolist() == [1, 2, 3]


def test_file_without_a_number(series: SeriesWriter) -> None:
    for i, name in enumerate(["a.dcm", "b7.dcm", "c" + "9" * 30 + ".dcm"]):
        series.add(name, z=i)
    volume = read_series(series.folder)
    assert volume.file_numbers is not None
    assert volume.file_numbers.tolist() == [-1, 7, -1]


def test_dcm_that_is_no_dicom(series: SeriesWriter) -> None:
    series.add_many(2)
    (series.folder / "3.dcm").write_text("no DICOM")
    with pytest.raises(DicomUnreadable, match=r"3\.dcm"):
        read_series(series.folder)


def test_link_that_leads_nowhere(series: SeriesWriter) -> None:
    series.add_many(2)
    (series.folder / "3.dcm").symlink_to(series.folder / "lost.dcm")
    with pytest.raises(DicomUnreadable, match=r"3\.dcm cannot be read"):
        read_series(series.folder)


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("words")
    with pytest.raises(NoSlices):
        read_series(tmp_path)
    with pytest.raises(SourceNotFound):
        read_series(tmp_path / "absent")


def test_facts_are_plain_and_hold_no_patient_data(series: SeriesWriter) -> None:
    series.add_many(
        3, PatientName="Doe^Jane", PatientID="4711", ContentDate="20220727", AccessionNumber="A99"
    )
    volume = read_series(series.folder)
    text = json.dumps([volume.facts, [str(warning) for warning in volume.warnings]])
    assert not any(word in text for word in ("Doe", "4711", "20220727", "A99", "1.2.3"))
    assert volume.facts == {
        "transfer_syntaxes": [EXPLICIT],
        "slices": 3,
        "slices_dropped": [],
        "decoders": {"fast": 3},
        "spacing": [1.0, 0.5, 0.25],
        "slice_thickness": 3.0,
        "uneven": False,
        "bits_stored": [12],
        "window_center": [450.0, 40.0],
        "window_width": [1500.0, 350.0],
    }


def test_voxels_are_one_contiguous_array(series: SeriesWriter) -> None:
    series.add_many(4)
    series.add("5.dcm", series.stored(3), z=-3)
    voxels = read_series(series.folder).voxels
    assert voxels.shape == (4, 16, 12)
    assert voxels.flags.c_contiguous


@pytest.mark.parametrize("syntax", [EXPLICIT, "1.2.840.10008.1.2", DEFLATED, SV1])
def test_damage_is_refused_or_read_but_never_anything_else(series: SeriesWriter, syntax: str) -> None:
    """Bytes of one of three files flipped, or the file cut: a volume or a refusal, nothing else."""
    series.add_many(3)
    stream = bytes(imagecodecs.jpeg8_encode(series.stored(), lossless=True, bitspersample=12))
    content = encapsulate([stream]) if syntax == SV1 else None
    path = series.add("4.dcm", content, z=-3, syntax=syntax, PixelPaddingValue=0)
    good, chance, refused = path.read_bytes(), random.Random(7), 0
    os.environ.setdefault("RUST_BACKTRACE", "0")
    for _ in range(100):
        damaged = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(128, len(good))] = chance.randrange(256)
        if chance.random() < 0.3:
            del damaged[chance.randrange(len(good)) :]
        path.write_bytes(damaged)
        try:
            assert read_series(series.folder, threads=2).voxels.min() >= -1024
        except SpineError:
            refused += 1
    assert refused > 20
