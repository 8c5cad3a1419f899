"""Objects of a store that is far away, kept on a disk that is near."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from spine_etl.errors import StoreWriteFailed
from spine_etl.store.schema import checksum_matches


class DigestMismatch(Exception):
    """What lies under a key is not what was committed there; the reader says which study's it is."""


class ObjectCache:
    """A folder of objects under their SHA-256, which the version's table names.

    So it is never out of date, whatever is built or deleted in the store, and several stores, versions and
    processes can share it. It grows up to the size of what is read; deleting it is safe at any time.

    Raises
    ------
    StoreWriteFailed
        If the folder cannot be made or written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreWriteFailed(f"the cache {folder} cannot be made: {error.strerror}.") from error
        if not os.access(self.folder, os.W_OK):
            raise StoreWriteFailed(f"the cache {folder} cannot be written.")

    def read(self, digest: str, fetch: Callable[[], bytes]) -> bytes:
        """The object of that SHA-256 (hex), from the folder, else fetched and kept.

        Raises DigestMismatch if the fetched object has another digest; it is not cached.
        """
        place = self.folder / digest[:2] / digest[2:]
        with suppress(OSError):
            content = place.read_bytes()
            if checksum_matches(content):  # a power cut may have left less; such an object is fetched anew
                return content
        content = fetch()
        if hashlib.sha256(content).hexdigest() != digest:
            raise DigestMismatch
        with suppress(OSError):  # a full disk makes it slow, not wrong
            _keep(place, content)
        return content


def _keep(place: Path, content: bytes) -> None:
    place.parent.mkdir(exist_ok=True)
    temporary = place.with_name(f"{place.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_bytes(content)
        temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)
