"""pydicom quotes no header text, and its settings are as before once a file has been read."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING

import pydicom
import pytest

from spine_etl.dicom import read_header
from spine_etl.dicom.decode import read_slice
from spine_etl.dicom.pydicom_reader import quiet_pydicom

if TYPE_CHECKING:
    from .conftest import SeriesWriter

BIG_ENDIAN = "1.2.840.10008.1.2.2"


def add_malformed(series: SeriesWriter, name: str = "1.dcm") -> Path:
    """Write a file of which pydicom quotes three malformed values that look like names."""
    path = series.add(name, syntax=BIG_ENDIAN, SpecificCharacterSet="ISO_IR 100")
    content = path.read_bytes()
    for text, patient in [
        (b"ISO_IR 100", b"DOE^JOHN 1"),
        (b"1.2.840.10008.5.1.4.1.1.2", b"ROE^JANE".ljust(25)),  # MediaStorageSOPClassUID
        (b"UI\0\x061.2.3\0", b"UI\0\x06R^JANE"),  # StudyInstanceUID
    ]:
        assert content.count(text) == 1
        content = content.replace(text, patient)
    path.write_bytes(content)
    return path


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
def test_header_text_reaches_neither_warnings_nor_logs(series: SeriesWriter, filters: str) -> None:
    path = add_malformed(series)
    command = [sys.executable, "-W", "always", "-c", READ, str(path), filters]
    stderr = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert stderr.splitlines() == ["16"]


def pydicom_state() -> tuple[object, ...]:
    settings = pydicom.config.settings
    return (
        settings._reading_validation_mode,
        settings.reading_validation_mode,
        logging.getLogger("pydicom").level,
        list(warnings.filters),
        pydicom.misc.warnings,
    )


def test_malformed_file_makes_pydicom_warn(series: SeriesWriter) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        str(pydicom.dcmread(add_malformed(series)))
    assert any("DOE^JOHN" in str(warning.message) for warning in caught)


def test_settings_are_restored_after_reading(series: SeriesWriter) -> None:
    path, before = add_malformed(series), pydicom_state()
    read_header(path)
    assert pydicom_state() == before
    read_slice(path)
    assert pydicom_state() == before


@pytest.mark.parametrize("mode", [None, pydicom.config.RAISE])
def test_settings_of_the_caller_are_restored(
    series: SeriesWriter, monkeypatch: pytest.MonkeyPatch, mode: int | None
) -> None:
    logger = logging.getLogger("pydicom")
    monkeypatch.setattr(pydicom.config.settings, "_reading_validation_mode", mode)
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    before = pydicom_state()
    read_header(add_malformed(series))
    assert pydicom_state() == before


def test_settings_are_restored_after_an_error() -> None:
    before = pydicom_state()
    with pytest.raises(KeyError), quiet_pydicom():
        raise KeyError
    assert pydicom_state() == before


def test_overlapping_blocks_stay_quiet_until_the_last_ends() -> None:
    before, first, second = pydicom_state(), quiet_pydicom(), quiet_pydicom()
    first.__enter__()
    quiet = pydicom_state()
    second.__enter__()
    first.__exit__(None, None, None)
    assert pydicom_state() == quiet != before
    second.__exit__(None, None, None)
    assert pydicom_state() == before


def test_threads_stay_quiet_while_another_thread_catches_warnings(
    series: SeriesWriter, caplog: pytest.LogCaptureFixture
) -> None:
    """warnings.catch_warnings replaces the filters of all threads, also in the middle of our reads."""
    paths = [add_malformed(series, f"{i}.dcm") for i in range(4)]
    before, start = pydicom_state(), Barrier(len(paths))

    def read(path: Path) -> None:
        start.wait()
        for _ in range(20):
            read_slice(path)

    with warnings.catch_warnings(record=True) as caught, ThreadPoolExecutor(len(paths)) as pool:
        warnings.simplefilter("always")
        reads = [pool.submit(read, path) for path in paths]
        while not all(one.done() for one in reads):
            with warnings.catch_warnings():
                warnings.simplefilter("always")
        for one in reads:
            one.result()
    assert [str(warning.message) for warning in caught] == []
    assert caplog.messages == []
    assert pydicom_state() == before
