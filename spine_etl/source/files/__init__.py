"""Files and folders of a source: on this machine, in a zip archive, or on S3. Nothing is unpacked.

A `File` and a `Folder` are descriptions without open files or connections, so they can be sent to a worker
in a few bytes per file. The code that reads them does not depend on where they are:

* ``open`` returns a `Content`, which is read once from front to back;
* ``listed_digest`` identifies a file's content without reading it, if the source's listing has a digest;
* each read is checked against the listing: bytes that have changed since raise `SourceChanged`.

A file that cannot be read raises the system's OSError; the reading code translates it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeAlias

from spine_etl.errors import SourceChanged, SourceNotFound, SpineError
from spine_etl.s3 import is_s3
from spine_etl.source.files.local import LocalFile, LocalFolder
from spine_etl.source.files.memory import MemoryContent

__all__ = [
    "Content",
    "File",
    "FileOrPath",
    "Folder",
    "FolderOrAddress",
    "LocalFile",
    "LocalFolder",
    "MemoryContent",
    "as_file",
    "open_source",
    "unchanged_while_reading",
]


class Content(Protocol):
    """The bytes of an open file, read from front to back, unbuffered."""

    @property
    def size(self) -> int: ...

    def read(self, size: int = -1, /) -> bytes: ...

    def readinto(self, buffer: memoryview, /) -> int: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class File(Protocol):
    """A file of a source."""

    @property
    def name(self) -> str:
        """Its name without its folder."""

    @property
    def listed_digest(self) -> str | None:
        """A digest of the content from the source's listing; None if the file must be read to compute one."""

    def open(self) -> Content:
        """Open the file. Raises OSError if it cannot be read, SourceChanged if it is not the listed one."""

    def modified_at(self) -> float | None:
        """Time of the last change, in seconds since the epoch; None if the source does not record it."""

    def change_token(self) -> object:
        """A value that differs after a change; None if `open` itself detects changes."""


class Folder(Protocol):
    """A folder of a source. Hidden files and folders, whose names begin with a dot, are listed too."""

    @property
    def name(self) -> str: ...

    @property
    def concurrent_reads(self) -> int:
        """Number of reads to have in flight to hide latency, independent of the number of cores."""

    def files(self) -> Sequence[File]:
        """Its files, in any order. Raises SourceError if it cannot be listed."""

    def folders(self) -> Sequence[Folder]:
        """Its subfolders, in any order. Raises as `files` does."""

    def modified_at(self) -> float | None:
        """Time of the last change of it or its files; None if the source does not record it."""

    def change_token(self) -> object:
        """A value that differs after a change in it; None if `File.open` detects changes."""


FileOrPath: TypeAlias = str | os.PathLike[str] | File
FolderOrAddress: TypeAlias = str | os.PathLike[str] | Folder


def as_file(file: FileOrPath) -> File:
    """The `LocalFile` of a path; a `File` is returned as it is."""
    return LocalFile(os.fspath(file)) if isinstance(file, str | os.PathLike) else file


def open_source(source: FolderOrAddress) -> Folder:
    """Open a folder by its path, an archive by its path with suffix ``.zip``, or ``s3://bucket/prefix``.

    A `Folder` is returned as it is.

    Raises
    ------
    SourceNotFound
        If it is a URL of another scheme, or an archive that does not exist.
    ArchiveInvalid
        If the archive is damaged, or has members whose names are not safe to read.
    """
    if not isinstance(source, str | os.PathLike):
        return source
    address = os.fspath(source)
    if is_s3(address):
        from spine_etl.source.files.s3 import S3Folder

        return S3Folder(address)
    if "://" in address:
        raise SourceNotFound(f"{address} is neither a path nor s3://bucket/prefix.")
    path = Path(address)
    if path.suffix.lower() == ".zip" and not path.is_dir():
        from spine_etl.source.files.zip import open_archive

        return open_archive(path)
    return LocalFolder(path)


@contextmanager
def unchanged_while_reading(source: File | Folder) -> Iterator[None]:
    """Raise SourceChanged if the file, or the folder with its files, changes within the block.

    Another SpineError passes through only if nothing changed: a half-copied file is not a damaged file.

    Raises
    ------
    SourceChanged
        If names, sizes or dates at the end differ from those at the beginning.
    """
    before = source.change_token()
    try:
        yield
    except SpineError as error:
        if source.change_token() == before:
            raise
        raise SourceChanged(f"{source.name} changed while it was read.") from error
    if source.change_token() != before:
        raise SourceChanged(f"{source.name} changed while it was read.")
