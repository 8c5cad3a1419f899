"""Files and folders of this machine or of a mounted share."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from spine_etl.errors import SourceNotFound


@dataclass(frozen=True)
class LocalFile:
    """A file by its path. The path is text because a series has hundreds of files and `Path` is slow."""

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
        return _newest_change([self.path.stat()])

    def change_token(self) -> object:
        return _change_token(self.path)


class LocalContent(io.FileIO):
    """An open file, unbuffered."""

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
            return _newest_change([self.path.stat(), *(entry.stat() for entry in self._entries())])
        except FileNotFoundError:  # a file was deleted just now
            return time.time()

    def change_token(self) -> object:
        visible = (entry for entry in self._entries() if not entry.name.startswith("."))
        return {entry.name: _change_token(entry) for entry in visible}

    def _entries(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.path) as entries:
                return list(entries)
        except OSError as error:
            raise SourceNotFound(f"{self.path.name} is not a readable folder.") from error


def _printable(name: str) -> str:
    """The name as valid text; bytes that are not UTF-8 become ``\\xNN``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _is_file(entry: os.DirEntry[str]) -> bool:
    # A broken link counts as a file: opening it then reports the missing file.
    return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())


def _change_token(path: Path | os.DirEntry[str]) -> tuple[int, int, int] | None:
    """Inode, size and modification time; None if they cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _newest_change(statuses: Iterable[os.stat_result]) -> float:
    """Time of the newest change.

    Copying can preserve the content's date (mtime), but never the file's own (ctime). An mtime in the future
    carries no information about when the file was copied, so ctime is used instead.
    """
    now = time.time()
    return max(s.st_mtime if s.st_ctime < s.st_mtime <= now else s.st_ctime for s in statuses)
