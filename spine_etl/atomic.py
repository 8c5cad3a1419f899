"""Atomic file writes: a temporary file beside the target is written, flushed, then renamed or linked.

After a crash or a power loss there is the old file or the new one, never a part of either.
"""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

TEMPORARY_SUFFIX = ".writing"
"""Suffix of files that are still being written; a killed process can leave one behind."""


def replace_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file, replacing any file at ``path`` and creating its folder if needed.

    Without ``durable`` neither the file nor its folder is flushed to the disk: use it for content that can be
    fetched again.

    Raises
    ------
    OSError
        If the file cannot be written; an existing file is unchanged.
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
    """Write a new file, creating its folder if needed.

    Raises
    ------
    FileExistsError
        If there is a file at ``path``; it is unchanged.
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # must not look as if the target itself existed
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent)) from error
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb", buffering=0) as file:
            rest = memoryview(content)
            while rest:
                rest = rest[file.write(rest) :]
            if durable:
                os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)  # free the space: the disk may be full
        raise
    return temporary


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
