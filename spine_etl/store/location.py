"""Where a store lies: objects under keys, with the two writes that a commit is made of."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from spine_etl.errors import StoreForbidden, StoreNotFound, StoreUnreachable, StoreWriteFailed
from spine_etl.s3 import is_s3


class Location(Protocol):
    """A place for objects named by keys such as ``image/c/0/0/0/0/0``; can be pickled, is safe in threads.

    Each method raises StoreError where the place cannot be reached or does not allow it.
    """

    def read(self, key: str) -> bytes:
        """The object's bytes. Raises FileNotFoundError where there is none."""

    def exists(self, key: str) -> bool: ...

    def write(self, key: str, content: bytes) -> None:
        """Put the object in place of any other, whole and durable: a reader sees the old or the new."""

    def create(self, key: str, content: bytes) -> None:
        """Put the object where none is, whole and durable. Raises FileExistsError where one is."""


class LocalLocation:
    """A folder. Every write is flushed to the disk, file and folder, before it returns."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()

    def __str__(self) -> str:
        return str(self.root)

    def read(self, key: str) -> bytes:
        with _seeing(self.root / key) as place:
            return place.read_bytes()

    def exists(self, key: str) -> bool:
        with _seeing(self.root / key) as place:
            return place.exists()

    def write(self, key: str, content: bytes) -> None:
        target = self.root / key
        with _refusing(key):
            temporary = _write_temporary(target, content)
            temporary.replace(target)
            _sync_folder(target.parent)

    def create(self, key: str, content: bytes) -> None:
        target = self.root / key
        with _refusing(key):
            temporary = _write_temporary(target, content)
            try:
                os.link(temporary, target)  # unlike a rename, this fails where the target exists
            finally:
                temporary.unlink()
            _sync_folder(target.parent)


@contextmanager
def _seeing(place: Path) -> Iterator[Path]:
    """Within, what the system says of a read becomes a refusal; that nothing is there goes through."""
    try:
        yield place
    except (FileNotFoundError, NotADirectoryError):
        raise
    except PermissionError as error:
        action = "Mend the permissions of the store's folder."
        raise StoreForbidden(f"{place} may not be read.", action=action) from error
    except OSError as error:
        action = "Look after the disk or the mount, then run again."
        raise StoreUnreachable(f"{place} cannot be read: {error.strerror}.", action=action) from error


_TEMPORARY = ".writing"


class _refusing:  # noqa: N801 - reads as a clause
    """Turns the system's word for a failed write into a refusal; lets FileExistsError through."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, FileExistsError):
            raise StoreWriteFailed(f"{self.key} cannot be written: {error.strerror}.") from error


def _write_temporary(target: Path, content: bytes) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}{_TEMPORARY}"
    try:
        with temporary.open("xb", buffering=0) as file:
            view = memoryview(content)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_location(store: str | Path) -> Location:
    """The location a path, or a URL such as ``s3://bucket/prefix``, names.

    Raises
    ------
    StoreNotFound
        If it is a URL of another kind.
    """
    if is_s3(store):
        from spine_etl.store.s3 import S3Location

        return S3Location(str(store))
    if "://" in str(store):
        raise StoreNotFound(f"{store} is neither a path nor an s3:// URL.")
    return LocalLocation(store)
