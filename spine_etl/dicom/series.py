"""Read a folder of DICOM files as one `Volume`."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np

from spine_etl.dicom.decode import Slice, read_slice
from spine_etl.dicom.hounsfield import Hounsfield
from spine_etl.dicom.scan import MAGIC_END
from spine_etl.dicom.stack import Stack, stack_slices
from spine_etl.errors import DicomUnreadable, NoSlices, SourceError
from spine_etl.source.digest import combine_digests
from spine_etl.source.files import File, Folder, FolderOrAddress, open_source, unchanged_while_reading
from spine_etl.volume import Volume

_MAX_THREADS = 8


def read_series(folder: FolderOrAddress, *, threads: int | None = None) -> Volume:
    """Read the CT series in a folder.

    Parameters
    ----------
    folder
        A folder, a ``.zip`` or ``s3://bucket/prefix`` that contains one series, or a `Study`'s folder. Files
        that end in .dcm or have DICOM's magic bytes are read; other files, and those whose name starts with
        a dot, are ignored.
    threads
        Number of files read at a time: by default the cores this process may use, at most 8. For a source
        across a network it is at least the number that the source asks for.

    Returns
    -------
    Volume
        HU (z, y, x) in file order if that is monotonic along the slice normal, in either direction; else
        in ascending order. Identical duplicates and localizers are dropped and recorded. The keys of
        ``facts`` are ``transfer_syntaxes``, ``slices``, ``slices_dropped``, ``decoders`` (files per decoder,
        fast or pydicom), ``spacing`` (z, y, x), ``slice_thickness``, ``uneven``, ``bits_stored``,
        ``window_center`` and ``window_width``.

    Raises
    ------
    SourceNotFound
        If the folder does not exist.
    SourceChanged
        If a file is added, removed or written while the series is read.
    SourceUnreachable
        If the files are on S3 and it does not answer.
    NoSlices
        If it contains no DICOM file.
    DicomError
        If a file cannot be read, or the files are not one CT volume: see `spine_etl.dicom.decode` and
        `spine_etl.dicom.stack`.
    """
    source = open_source(folder)
    threads = max(_usable_cores() if threads is None else threads, source.concurrent_reads)
    with unchanged_while_reading(source):
        return _read_series(source, threads)


def _read_series(folder: Folder, threads: int) -> Volume:
    files = series_files(folder)
    if not files:
        raise NoSlices(f"{folder.name} contains no DICOM file.")
    slices, buffer = _read_slices(files, threads)
    stack = stack_slices(slices)
    return Volume(
        voxels=_voxels(stack.slices, buffer),
        grid=stack.grid,
        slice_coordinates=stack.slice_coordinates,
        warnings=stack.warnings,
        facts=_facts(slices, stack),
        file_numbers=np.array([_file_number(s.name) for s in stack.slices], dtype=np.int64),
        source_digest=combine_digests((s.name, s.digest) for s in slices),
    )


def series_files(folder: FolderOrAddress) -> list[File]:
    """The files that `read_series` reads, sorted by name, with numbers compared as numbers.

    ``combine_digests((f.name, file_digest(f)) for f in series_files(folder))`` is the volume's
    ``source_digest``.

    Raises
    ------
    SourceNotFound
        If the folder does not exist.
    DicomUnreadable
        If a file cannot be opened to look for the magic bytes.
    """
    files = [file for file in open_source(folder).files() if not file.name.startswith(".")]
    return sorted((file for file in files if _is_slice(file)), key=lambda file: _natural_sort_key(file.name))


def _is_slice(file: File) -> bool:
    if file.name.lower().endswith(".dcm"):
        return True
    try:
        with file.open() as content:
            return content.read(MAGIC_END)[128:] == b"DICM"
    except FileNotFoundError:
        return False  # a broken link
    except SourceError:
        raise
    except OSError as error:
        raise DicomUnreadable(f"{file.name} cannot be read: {error.strerror}.") from error


def _natural_sort_key(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Sort key that compares numbers as numbers, before letters."""
    parts = re.findall(r"([0-9]+)|([^0-9]+)", name)
    return [(not digits, int(digits or 0), text) for digits, text in parts], name


def _file_number(name: str) -> int:
    """The digits at the end of the name, without .dcm; -1 if there are none or too many."""
    digits = re.search(r"(?<![0-9])([0-9]{1,18})$", re.sub(r"\.dcm$", "", name, flags=re.IGNORECASE))
    return int(digits[1]) if digits else -1


def _usable_cores() -> int:
    return min(len(os.sched_getaffinity(0)), _MAX_THREADS)


def _read_slices(files: Sequence[File], threads: int) -> tuple[list[Slice], Hounsfield]:
    """All slices in file order, in one buffer sized by the first; those that do not fit have their own."""
    first = read_slice(files[0])
    buffer: Hounsfield = np.empty((len(files), *first.hu.shape), first.hu.dtype)
    buffer[0] = first.hu
    with ThreadPoolExecutor(threads) as pool:
        others = list(pool.map(read_slice, files[1:], buffer[1:]))
    return [replace(first, hu=buffer[0]), *others], buffer


def _voxels(slices: Sequence[Slice], buffer: Hounsfield) -> Hounsfield:
    """The slices as one array: a view of the buffer if they are there in this order, else a copy."""
    starts = np.array([s.hu.ctypes.data for s in slices]) - buffer.ctypes.data
    begin = int(starts[0]) // buffer.strides[0]
    if (
        0 <= begin <= len(buffer) - len(slices)
        and (starts == (begin + np.arange(len(slices))) * buffer.strides[0]).all()
    ):
        return buffer[begin : begin + len(slices)]
    voxels: Hounsfield = np.empty((len(slices), *slices[0].hu.shape), np.result_type(*(s.hu for s in slices)))
    for plane, one in zip(voxels, slices, strict=True):
        plane[...] = one.hu
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
