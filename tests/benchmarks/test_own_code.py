"""What our own header scan and zip index save against the libraries that do the same."""

from __future__ import annotations

import pickle
import statistics
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest

from spine_etl.dicom import read_header
from spine_etl.phantom import write_phantom
from spine_etl.source.files import open_source
from tests.benchmarks.comparison import print_table

pytestmark = pytest.mark.benchmark
TURNS = 7
STUDIES, SLICES = 300, 353


def ms(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def test_header_scan_against_pydicom(tmp_path: Path) -> None:
    write_phantom(tmp_path / "source", 1, 1, slices=200)
    files = sorted((tmp_path / "source").glob("train_images/*/*.dcm"))
    ours, theirs = [], []
    for _ in range(TURNS):
        ours.append(ms(lambda: [read_header(file) for file in files]) / len(files))
        theirs.append(
            ms(lambda: [pydicom.dcmread(file, stop_before_pixels=True) for file in files]) / len(files)
        )
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    rows = [("ours", statistics.median(ours)), ("pydicom", statistics.median(theirs)), ("ratio", ratio)]
    print_table("header, 200 files", ("reader", "ms a file"), rows)
    assert ratio > 2


def test_zip_index_against_zipfile(tmp_path: Path) -> None:
    """A worker that is given one study of a large archive."""
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for study in range(STUDIES):
            for number in range(SLICES):
                archive.writestr(f"train_images/1.2.{study}/{number}.dcm", b"x")
    (images,) = open_source(path).folders()
    sent = pickle.dumps(images.folders()[0])

    def ours() -> bytes:
        with pickle.loads(sent).files()[0].open() as content:  # noqa: S301
            return bytes(content.read())

    def theirs() -> bytes:
        with zipfile.ZipFile(path) as archive:
            return archive.read("train_images/1.2.0/0.dcm")

    assert ours() == theirs() == b"x"
    own, library = (statistics.median(ms(work) for _ in range(TURNS)) for work in (ours, theirs))
    rows = [("ours", own, len(sent)), ("zipfile", library, 0)]
    print_table(f"one study of {STUDIES * SLICES} members", ("reader", "ms", "bytes sent"), rows)
    assert library > 5 * own
