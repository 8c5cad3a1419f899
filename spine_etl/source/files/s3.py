"""Objects on S3. A key's prefix up to a slash is a folder.

A listing names each object's ETag; a read asks for the object with that ETag and no other, so that nothing
has to be read twice to know that it is what was listed. A folder is listed when it is asked for, by who works
on it: planning 2,019 studies takes a request a study, side by side, and no list of 711,601 objects is kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from spine_etl.errors import SourceChanged, SourceNotFound, SourceUnreachable
from spine_etl.s3 import open_bucket, tried
from spine_etl.source.files.memory import MemoryContent

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class S3File:
    """An object as it was listed: ``key`` below ``root``, an ``s3://bucket/prefix``."""

    root: str
    key: str
    size: int
    etag: str
    modified: float

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def listed_digest(self) -> str:
        return f"etag:{self.etag}:{self.size}"

    def open(self) -> MemoryContent:
        """The whole object.

        Raises
        ------
        SourceChanged
            If it is gone, or another one has its key.
        SourceUnreachable
            If the server refuses it, or does not answer.
        """
        from obstore.exceptions import PreconditionError

        try:
            content, etag = _asked(self.root, self.name, lambda client: _get(client, self.key, self.etag))
        except (FileNotFoundError, PreconditionError) as error:
            raise SourceChanged(f"{self.name} changed on S3 since it was listed.") from error
        if etag != self.etag or len(content) != self.size:  # a server that does not know If-Match
            raise SourceChanged(f"{self.name} changed on S3 since it was listed.")
        return MemoryContent(content)

    def modified_at(self) -> float:
        return self.modified

    def change_token(self) -> object:
        return None


@dataclass(frozen=True)
class S3Folder:
    """What lies below ``path`` of ``root``, an ``s3://bucket/prefix``."""

    root: str
    path: str = ""
    concurrent_reads = 16  # a request waits some 20 to 100 ms for its first byte

    @property
    def name(self) -> str:
        return (f"{self.root}/{self.path}").rstrip("/").rpartition("/")[2]

    def files(self) -> list[S3File]:
        return [
            S3File(self.root, meta["path"], meta["size"], _etag(meta), meta["last_modified"].timestamp())
            for meta in self._listing()["objects"]
            # Some tools mark a folder by an empty object with its name.
            if meta["path"] != self.path
        ]

    def folders(self) -> list[S3Folder]:
        return [S3Folder(self.root, path) for path in self._listing()["common_prefixes"]]

    def modified_at(self) -> float | None:
        return max((file.modified for file in self.files()), default=None)

    def change_token(self) -> object:
        return None

    def _listing(self) -> Any:
        return _asked(self.root, self.name, lambda client: client.list_with_delimiter(self.path or None))


def _etag(meta: Any) -> str:
    if not meta["e_tag"]:
        raise SourceUnreachable(f"{meta['path']} has no ETag on that server, so no change would be noticed.")
    return str(meta["e_tag"])


def _get(client: Any, key: str, etag: str) -> tuple[bytes, str]:
    found = client.get(key, options={"if_match": etag})
    return found.bytes().to_bytes(), found.meta["e_tag"]


def _asked(root: str, name: str, request: Callable[[Any], _Result]) -> _Result:
    """The answer to a request, tried again where that can help. Raises SourceUnreachable."""
    settings = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    client = _client(root, tuple(sorted(settings.items())))
    try:
        return tried(lambda past: request(client))
    except (PermissionError, ConnectionError) as error:
        raise SourceUnreachable(f"{name} cannot be had from S3: {error}.") from error


@lru_cache(maxsize=8)
def _client(root: str, settings: tuple[tuple[str, str], ...]) -> Any:
    """One client for all requests of this process under those settings: it keeps its connections."""
    try:
        return open_bucket(root)
    except ValueError as error:
        raise SourceNotFound(f"{error}.") from error
