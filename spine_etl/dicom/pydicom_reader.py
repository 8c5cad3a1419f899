"""Data sets read by pydicom, with its warnings and log records suppressed.

pydicom quotes malformed values, which may be a patient's name. Its settings apply to the whole process, so
they are changed only while a file is being read.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from threading import Lock
from types import SimpleNamespace
from typing import Any

from spine_etl.errors import DicomUnreadable

_lock = Lock()
_depth = 0
"""Number of `quiet_pydicom` blocks that are active, in all threads."""
_saved: tuple[Any, ...] = ()

_NO_WARNINGS = SimpleNamespace(warn=lambda *_, **__: None)


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Let pydicom neither validate, warn nor log within the block; blocks may be nested or run in threads.

    Elements are converted when they are first accessed, so access to a data set and decoding belong into the
    block too. The first block to begin changes pydicom, and the last one to end restores it.
    """
    global _depth
    with _lock:
        if _depth == 0:
            _silence()
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _restore()


def _silence() -> None:
    global _saved
    from pydicom import config, misc

    logger = logging.getLogger("pydicom")
    # The private attribute, as pydicom's own context managers save it: None means "not set".
    _saved = (config.settings._reading_validation_mode, logger.level, misc.warnings)
    config.settings.reading_validation_mode = config.IGNORE
    logger.setLevel(logging.CRITICAL)
    # pydicom warns only through this module. A filter would be lost when another thread leaves a
    # warnings.catch_warnings block, and would make Python repeat warnings that it has already shown.
    misc.warnings = _NO_WARNINGS


def _restore() -> None:
    from pydicom import config, misc

    config.settings._reading_validation_mode, level, misc.warnings = _saved
    logging.getLogger("pydicom").setLevel(level)


def read_dataset(content: bytes, name: str) -> Any:
    """A file's bytes as a `pydicom.Dataset` with raw elements; call it within `quiet_pydicom`.

    Raises
    ------
    DicomUnreadable
        If pydicom cannot read it.
    """
    import pydicom

    try:
        return pydicom.dcmread(io.BytesIO(content))
    except Exception as error:  # pydicom raises many kinds: struct.error, KeyError, zlib.error
        raise DicomUnreadable(f"{name} is not a readable DICOM file ({type(error).__name__}).") from error


def raw_values(dataset: Any, tags: Collection[int], name: str) -> tuple[str, dict[int, bytes]]:
    """Transfer syntax UID and raw values by tag of a data set; a sequence counts as an empty value.

    Raises
    ------
    DicomUnreadable
        If an element cannot be read.
    """
    try:
        syntax = str(dataset.file_meta.TransferSyntaxUID)
        return syntax, {tag: _raw_value(dataset, tag) for tag in tags if tag in dataset}
    except Exception as error:
        raise DicomUnreadable(f"{name} contains elements that cannot be read.") from error


def _raw_value(dataset: Any, tag: int) -> bytes:
    value = dataset.get_item(tag).value
    return value if isinstance(value, bytes) else b""
