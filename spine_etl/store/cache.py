"""A local cache for the objects of a remote store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from spine_etl.atomic import replace_file
from spine_etl.errors import StoreWriteFailed


class DigestMismatch(Exception):
    """The fetched object has another digest than was asked for. The reader adds the study to the error."""


class ObjectCache:
    """A folder of objects, each named by its SHA-256, which the version's table lists.

    An entry can therefore never be out of date, and stores, versions and processes can share the folder. It
    grows to the size of the objects that were read; deleting it is safe at any time.

    An entry is the 32 bytes of the SHA-256, then the object. The SHA-256 is verified when an entry is
    written; afterwards its copy in the entry and the object's own CRC-32C are, which takes a tenth of the
    time. They detect an entry under the name of another object, and damage.

    Raises
    ------
    StoreWriteFailed
        If the folder cannot be created or is not writable.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreWriteFailed(f"the cache {folder} cannot be created: {error.strerror}.") from error
        if not os.access(self.folder, os.W_OK):
            raise StoreWriteFailed(f"the cache {folder} is not writable.")

    def read(self, digest: str, fetch: Callable[[], bytes], is_intact: Callable[[bytes], bool]) -> bytes:
        """The object with that SHA-256 (64 hex digits), from the folder or else from ``fetch``.

        ``is_intact`` compares the checksums in an entry with the version's table.

        Raises
        ------
        DigestMismatch
            If the fetched object has another digest. It is not cached: all users of the folder would get it.
        """
        path = self.folder / digest[:2] / digest[2:]
        identity = bytes.fromhex(digest)
        with suppress(OSError), path.open("rb") as entry:
            # Entries are not flushed, so a power loss can truncate them.
            if entry.read(len(identity)) == identity and is_intact(content := entry.read()):
                return content
        content = fetch()
        if hashlib.sha256(content).digest() != identity:
            raise DigestMismatch
        with suppress(OSError):  # if the disk is full, reading gets slower but stays correct
            replace_file(path, identity + content, durable=False)
        return content
