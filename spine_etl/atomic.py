"""Files that are whole or not there at all: written beside their place, flushed, then renamed or linked.

A reader, and a machine that loses power, sees the old file or the new one, never a part of either.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

TEMPORARY_SUFFIX = ".writing"
"""How the name of a file that is still being written ends; a killed process may leave one behind."""


def replace_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file in place of any other of its name, making its folder if needed.

    Without ``durable`` neither file nor folder is flushed to the disk: for what can be fetched again.

    Raises
    ------
    OSError
        If it cannot be written; the file that was there is untouched.
    """
    temporary = _write_temporary(path, content, durable)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        _flush_folder(path.parent)


def create_file(path: Path, content: bytes) -> None:
    """Write a file where there is none, making its folder if needed.

    Raises
    ------
    FileExistsError
        If there is one; it is untouched.
    OSError
        If the file cannot be written.
    """
    temporary = _write_temporary(path, content, durable=True)
    try:
        os.link(temporary, path)  # unlike a rename, this fails if the target exists
    finally:
        temporary.unlink()
    _flush_folder(path.parent)


def _write_temporary(path: Path, content: bytes, durable: bool) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb", buffering=0) as file:
            rest = memoryview(content)
            while rest:
                rest = rest[file.write(rest) :]
            if durable:
                os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)  # half a file would take the last room of a full disk
        raise
    return temporary


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
