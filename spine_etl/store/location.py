"""Locations of a store: a folder or a bucket that holds objects under keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from spine_etl.atomic import create_file, replace_file
from spine_etl.errors import StoreForbidden, StoreNotFound, StoreUnreachable, StoreWriteFailed
from spine_etl.s3 import is_s3


class Location(Protocol):
    """Objects under keys such as ``image/c/0/0/0/0/0``. Locations can be pickled and are thread-safe.

    Each method raises StoreError if the location cannot be reached or refuses access.
    """

    def read(self, key: str) -> bytes:
        """Return the object's bytes. Raises FileNotFoundError if there is none."""

    def read_parts(
        self, key: str, tail_size: int, ranges: Callable[[bytes], Sequence[tuple[int, int]]]
    ) -> Iterator[bytes]:
        """Yield parts of an object that together are most of it, one at a time.

        ``ranges`` returns their offsets and sizes, given the last ``tail_size`` bytes of the object. Raises
        FileNotFoundError.
        """

    def read_range(self, key: str, start: int, size: int) -> bytes:
        """Return ``size`` bytes of an object, or fewer at its end. Raises FileNotFoundError."""

    def read_tail(self, key: str, size: int) -> bytes:
        """Return the last ``size`` bytes of an object, or all if it is smaller. Raises FileNotFoundError."""

    def exists(self, key: str) -> bool:
        """True if there is an object under the key."""

    def write(self, key: str, content: bytes) -> None:
        """Write or replace an object, atomically and durably: readers see the old object or the new one."""

    def create(self, key: str, content: bytes) -> None:
        """Write a new object, atomically and durably. Raises FileExistsError if the key is taken."""


class LocalLocation:
    """A folder. Each write flushes the file and its folder to the disk before it returns."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()

    def __str__(self) -> str:
        return str(self.root)

    def read(self, key: str) -> bytes:
        path = self.root / key
        with _read_errors_as_store_errors(path):
            return path.read_bytes()

    def read_parts(
        self, key: str, tail_size: int, ranges: Callable[[bytes], Sequence[tuple[int, int]]]
    ) -> Iterator[bytes]:
        path = self.root / key
        with _read_errors_as_store_errors(path), path.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - tail_size, 0))
            for start, size in ranges(file.read(tail_size)):
                file.seek(start)
                yield file.read(size)

    def read_range(self, key: str, start: int, size: int) -> bytes:
        path = self.root / key
        with _read_errors_as_store_errors(path), path.open("rb") as file:
            file.seek(start)
            return file.read(size)

    def read_tail(self, key: str, size: int) -> bytes:
        path = self.root / key
        with _read_errors_as_store_errors(path), path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(end - size, 0))
            return file.read(size)

    def exists(self, key: str) -> bool:
        path = self.root / key
        with _read_errors_as_store_errors(path):
            return path.exists()

    def write(self, key: str, content: bytes) -> None:
        with _write_errors_as_store_errors(key):
            replace_file(self.root / key, content)

    def create(self, key: str, content: bytes) -> None:
        with _write_errors_as_store_errors(key):
            create_file(self.root / key, content)


@contextmanager
def _read_errors_as_store_errors(path: Path) -> Iterator[None]:
    """Translate OSError into StoreError, except if nothing is there."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except PermissionError as error:
        action = "Fix the permissions of the store's folder."
        raise StoreForbidden(f"{path} cannot be read: permission denied.", action=action) from error
    except OSError as error:
        action = "Check the disk or the mount, then run again."
        raise StoreUnreachable(f"{path} cannot be read: {error.strerror}.", action=action) from error


@contextmanager
def _write_errors_as_store_errors(key: str) -> Iterator[None]:
    """Translate OSError into StoreWriteFailed, except FileExistsError."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise StoreWriteFailed(f"{key} cannot be written: {error.strerror}.") from error


def open_location(store: str | Path) -> Location:
    """The location with this path or ``s3://bucket/prefix`` URL.

    Raises
    ------
    StoreNotFound
        If it is a URL of another scheme, or one without a bucket.
    """
    if is_s3(store):
        from spine_etl.store.s3 import S3Location

        return S3Location(str(store))
    if "://" in str(store):
        raise StoreNotFound(f"{store} is neither a path nor an s3:// URL.")
    return LocalLocation(store)
