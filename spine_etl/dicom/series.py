"""A folder of DICOM files to one `Volume`."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from spine_etl.dicom.decode import Slice, read_slice
from spine_etl.dicom.header import MAGIC_END
from spine_etl.dicom.hounsfield import Hounsfield
from spine_etl.dicom.stack import Stack, stack_slices
from spine_etl.digest import combine
from spine_etl.errors import DicomUnreadable, NoSlices, SourceNotFound
from spine_etl.volume import Volume

_MOST_THREADS = 8


def read_series(folder: str | Path, *, threads: int | None = None) -> Volume:
    """Read the CT series that lies in a folder.

    Parameters
    ----------
    folder
        Holds one series: files ending in .dcm, or with DICOM's magic bytes. Others are ignored, and
        files whose name begins with a dot.
    threads
        Files read at a time; by default the cores this process may use, at most 8.

    Returns
    -------
    Volume
        HU (z, y, x) in file order where that runs steadily along the slice normal, whichever way; else in
        ascending order. Identical duplicates and localizers are left out and recorded. ``facts`` holds
        ``transfer_syntaxes``, ``slices``, ``slices_dropped``, ``decoders`` (files by fast, pydicom),
        ``spacing`` (z, y, x), ``slice_thickness``, ``uneven``, ``bits_stored``, ``window_center`` and
        ``window_width``.

    Raises
    ------
    SourceNotFound
        If there is no such folder.
    NoSlices
        If no DICOM file lies in it.
    DicomError
        If a file cannot be read, or the files are not one CT volume: see `spine_etl.dicom.decode` and
        `spine_etl.dicom.stack`.
    """
    files = series_files(folder)
    if not files:
        raise NoSlices(f"{Path(folder).name} holds no DICOM file.")
    slices, buffer = _read_all(files, _usable_cores() if threads is None else threads)
    stack = stack_slices(slices)
    return Volume(
        voxels=_voxels(stack.slices, buffer),
        grid=stack.grid,
        slice_coordinates=stack.slice_coordinates,
        warnings=stack.warnings,
        facts=_facts(slices, stack),
        file_numbers=np.array([_file_number(s.name) for s in stack.slices], dtype=np.int64),
        source_digest=combine((s.name, s.digest) for s in slices),
    )


def series_files(folder: str | Path) -> list[Path]:
    """The files `read_series` reads, sorted by name with numbers as numbers.

    ``combine((p.name, file_digest(p)) for p in series_files(folder))`` is the volume's ``source_digest``.

    Raises
    ------
    SourceNotFound
        If there is no such folder.
    DicomUnreadable
        If a file cannot be opened to see what it is.
    """
    try:
        paths = [path for path in Path(folder).iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise SourceNotFound(f"{Path(folder).name} is no folder that can be read.") from error
    return sorted((path for path in paths if _is_slice(path)), key=lambda path: _natural(path.name))


def _is_slice(path: Path) -> bool:
    if path.suffix.lower() == ".dcm":
        return not path.is_dir()  # a link that leads nowhere is a lost slice, which reading it will say
    if not path.is_file():
        return False
    try:
        with path.open("rb", buffering=0) as file:
            return file.read(MAGIC_END)[128:] == b"DICM"
    except OSError as error:
        raise DicomUnreadable(f"{path.name} cannot be read: {error.strerror}.") from error


def _natural(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """A sort key: numbers as numbers, before letters."""
    parts = re.findall(r"([0-9]+)|([^0-9]+)", name)
    return [(not digits, int(digits or 0), text) for digits, text in parts], name


def _file_number(name: str) -> int:
    """The digits that end the name, less its .dcm; -1 where there are none or too many."""
    digits = re.search(r"(?<![0-9])([0-9]{1,18})$", re.sub(r"\.dcm$", "", name, flags=re.IGNORECASE))
    return int(digits[1]) if digits else -1


def _usable_cores() -> int:
    return min(len(os.sched_getaffinity(0)), _MOST_THREADS)


def _read_all(files: Sequence[Path], threads: int) -> tuple[list[Slice], Hounsfield]:
    """All slices in file order, each in its slot of one buffer made after the first; or beside it."""
    first = read_slice(files[0])
    buffer: Hounsfield = np.empty((len(files), *first.hu.shape), first.hu.dtype)
    buffer[0] = first.hu
    with ThreadPoolExecutor(threads) as pool:
        others = list(pool.map(read_slice, files[1:], buffer[1:]))
    return [replace(first, hu=buffer[0]), *others], buffer


def _voxels(slices: Sequence[Slice], buffer: Hounsfield) -> Hounsfield:
    """The slices as one array: the buffer itself, or a run of it, where they lie there in their order."""
    starts = np.array([s.hu.ctypes.data for s in slices]) - buffer.ctypes.data
    begin = int(starts[0]) // buffer.strides[0]
    if (
        0 <= begin <= len(buffer) - len(slices)
        and (starts == (begin + np.arange(len(slices))) * buffer.strides[0]).all()
    ):
        return buffer[begin : begin + len(slices)]
    voxels: Hounsfield = np.empty((len(slices), *slices[0].hu.shape), np.result_type(*(s.hu for s in slices)))
    for place, one in zip(voxels, slices, strict=True):
        place[...] = one.hu
    return voxels


def _facts(slices: Sequence[Slice], stack: Stack) -> dict[str, object]:
    headers = [s.header for s in stack.slices]
    return {
        "transfer_syntaxes": sorted({header.transfer_syntax for header in headers}),
        "slices": len(headers),
        "slices_dropped": [asdict(drop) for drop in stack.dropped],
        "decoders": dict(sorted(Counter(s.decoder for s in slices).items())),
        "spacing": [float(step) for step in stack.grid.spacing_mm],
        "slice_thickness": headers[0].slice_thickness,
        "uneven": stack.slice_coordinates is not None,
        "bits_stored": sorted({header.bits_stored for header in headers}),
        "window_center": list(headers[0].window_center),
        "window_width": list(headers[0].window_width),
    }
