"""Files of this machine, or of a share that it has mounted."""

from __future__ import annotations

import io
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spine_etl.errors import SourceNotFound

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class LocalFile:
    """A file by its path, kept as text: a series has hundreds of them, and `Path` takes its time."""

    address: str
    listed_digest = None

    @property
    def path(self) -> Path:
        return Path(self.address)

    @property
    def name(self) -> str:
        return _printable(self.address.rpartition(os.sep)[2])

    def open(self) -> LocalContent:
        return LocalContent(self.address)

    def modified_at(self) -> float | None:
        return _newest([self.path.stat()])

    def change_token(self) -> object:
        return _change_token(self.path)


class LocalContent(io.FileIO):
    """An open file, without a buffer."""

    @property
    def size(self) -> int:
        return os.fstat(self.fileno()).st_size


@dataclass(frozen=True)
class LocalFolder:
    """A folder by its path."""

    path: Path
    concurrent_reads = 1

    @property
    def name(self) -> str:
        return _printable(self.path.name)

    def files(self) -> list[LocalFile]:
        return [LocalFile(entry.path) for entry in self._entries() if _is_file(entry)]

    def folders(self) -> list[LocalFolder]:
        return [LocalFolder(self.path / entry.name) for entry in self._entries() if entry.is_dir()]

    def modified_at(self) -> float | None:
        try:
            return _newest([self.path.stat(), *(entry.stat() for entry in self._entries())])
        except FileNotFoundError:  # one went away this very moment
            return time.time()

    def change_token(self) -> object:
        return {
            entry.name: _change_token(entry) for entry in self._entries() if not entry.name.startswith(".")
        }

    def _entries(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.path) as entries:
                return list(entries)
        except OSError as error:
            raise SourceNotFound(f"{self.path.name} is no folder that can be read.") from error


def _printable(name: str) -> str:
    """The name as text that can be written down; bytes that are no UTF-8 stand as ``\\xNN``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _is_file(entry: os.DirEntry[str]) -> bool:
    # A link that leads nowhere is a lost file: opening it says so.
    return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())


def _change_token(place: Path | os.DirEntry[str]) -> tuple[int, int, int] | None:
    """Which file it is, its size, and when it was written; None where it cannot be seen."""
    try:
        seen = place.stat()
    except OSError:
        return None
    return seen.st_ino, seen.st_size, seen.st_mtime_ns


def _newest(seen: Iterable[os.stat_result]) -> float:
    """The newest change. Copying may keep the date of the content (mtime), never that of the file (ctime).

    A date of the content that lies in the future says nothing of when it was copied.
    """
    now = time.time()
    return max(s.st_mtime if s.st_ctime < s.st_mtime <= now else s.st_ctime for s in seen)
