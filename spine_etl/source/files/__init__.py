"""Where source files lie: a folder of this machine, a zip archive, or S3. Read in place, nothing unpacked.

A `File` and a `Folder` are names: they hold no open file and no connection, and travel to a worker in a few
bytes for each file. Whoever reads them need not know where they lie:

* ``open`` gives a `Content`, read once from front to back;
* ``listed_digest`` says what a file holds without reading it, where the source vouches for that;
* every read is held to what was listed: bytes that are no longer those are `SourceChanged`.

A file that cannot be read is the OSError that the system has for it; who reads it says what that means.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeAlias

from spine_etl.errors import SourceChanged, SourceNotFound, SpineError
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
    """The bytes of one file, read from front to back, without a buffer between."""

    @property
    def size(self) -> int: ...

    def read(self, size: int = -1, /) -> bytes: ...

    def readinto(self, room: memoryview, /) -> int: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class File(Protocol):
    """One file of a source."""

    @property
    def name(self) -> str:
        """Without its folder."""

    @property
    def listed_digest(self) -> str | None:
        """Differs where the content does, known without reading it; None where only reading tells."""

    def open(self) -> Content:
        """The bytes. Raises OSError where they cannot be had, SourceChanged where they are others by now."""

    def modified_at(self) -> float | None:
        """When it last changed, seconds since the epoch; None where the source does not say."""

    def change_token(self) -> object:
        """Differs after a change; None where `open` itself refuses bytes that changed."""


class Folder(Protocol):
    """One folder of a source. What begins with a dot is listed like all else."""

    @property
    def name(self) -> str: ...

    @property
    def concurrent_reads(self) -> int:
        """Reads worth having in flight at once because each of them waits, whatever the cores."""

    def files(self) -> Sequence[File]:
        """Its files, in no order. Raises SourceError where it cannot be listed."""

    def folders(self) -> Sequence[Folder]:
        """The folders in it, in no order. Raises as `files`."""

    def modified_at(self) -> float | None:
        """When it or one of its files last changed; None where the source does not say."""

    def change_token(self) -> object:
        """Differs after a change in it; None where reading its files refuses bytes that changed."""


FileOrPath: TypeAlias = str | os.PathLike[str] | File
FolderOrAddress: TypeAlias = str | os.PathLike[str] | Folder


def as_file(place: FileOrPath) -> File:
    """A file of this machine by its path; a `File` is itself."""
    return LocalFile(os.fspath(place)) if isinstance(place, str | os.PathLike) else place


def open_source(place: FolderOrAddress) -> Folder:
    """A folder by its path, an archive by its path that ends in ``.zip``, or ``s3://bucket/prefix``.

    A `Folder` is itself.

    Raises
    ------
    SourceNotFound
        If the address is none that can be read.
    ArchiveInvalid
        If the archive is damaged, or names or hides its members in a way that is not safe to read.
    """
    if not isinstance(place, str | os.PathLike):
        return place
    address = os.fspath(place)
    if address.startswith("s3://"):
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
def unchanged_while_reading(place: File | Folder) -> Iterator[None]:
    """Refuse what is read meanwhile if the file, or the folder with its files, changes.

    A refusal for another reason stands only if nothing changed: half a file is no damage.

    Raises
    ------
    SourceChanged
        If names, sizes or dates differ at the end from what they were at the beginning.
    """
    before = place.change_token()
    try:
        yield
    except SpineError as error:
        if place.change_token() == before:
            raise
        raise SourceChanged(f"{place.name} changed while it was read.") from error
    if place.change_token() != before:
        raise SourceChanged(f"{place.name} changed while it was read.")
