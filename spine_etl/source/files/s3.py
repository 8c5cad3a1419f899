"""Objects on S3 as files. A key's prefix up to a slash is a folder.

A listing gives each object's ETag, and a read requests the object with that ETag only (If-Match), so one read
both fetches an object and proves that it is the listed one. A folder is listed by the worker that needs it:
planning 2,019 studies takes one request per study, several at once, and no list of all 711,601 objects is
kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from spine_etl.errors import SourceChanged, SourceNotFound, SourceUnreachable
from spine_etl.s3 import FIRST_PAUSE_S, open_bucket, with_retries
from spine_etl.source.files.memory import MemoryContent

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class S3File:
    """An object as it was listed; ``key`` is relative to ``root``, an ``s3://bucket/prefix``.

    ``first_pause_s`` is the bound of the pause before the first retry.
    """

    root: str
    key: str
    size: int
    etag: str
    modified: float
    first_pause_s: float = FIRST_PAUSE_S

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def listed_digest(self) -> str:
        return f"etag:{self.etag}:{self.size}"

    def open(self) -> MemoryContent:
        """Fetch the whole object.

        Raises
        ------
        SourceChanged
            If the object was deleted or replaced since it was listed.
        SourceUnreachable
            If the server refuses the request or does not answer.
        """
        from obstore.exceptions import PreconditionError

        try:
            content, etag = _request(self, lambda client: _get(client, self.key, self.etag))
        except (FileNotFoundError, PreconditionError) as error:
            raise SourceChanged(f"{self.name} changed on S3 since it was listed.") from error
        if etag != self.etag or len(content) != self.size:  # the server ignores If-Match
            raise SourceChanged(f"{self.name} changed on S3 since it was listed.")
        return MemoryContent(content)

    def modified_at(self) -> float:
        return self.modified

    def change_token(self) -> None:
        return None


@dataclass(frozen=True)
class S3Folder:
    """The objects under ``path``, which is relative to ``root``, an ``s3://bucket/prefix``."""

    root: str
    path: str = ""
    first_pause_s: float = FIRST_PAUSE_S
    concurrent_reads = 16  # the first byte of a response takes 20 to 100 ms

    @property
    def name(self) -> str:
        return (f"{self.root}/{self.path}").rstrip("/").rpartition("/")[2]

    def files(self) -> list[S3File]:
        return [
            S3File(
                self.root,
                meta["path"],
                meta["size"],
                _etag(meta),
                meta["last_modified"].timestamp(),
                self.first_pause_s,
            )
            for meta in self._list()["objects"]
            # Some tools create an empty object with the folder's own name as a marker.
            if meta["path"] != self.path
        ]

    def folders(self) -> list[S3Folder]:
        return [S3Folder(self.root, path, self.first_pause_s) for path in self._list()["common_prefixes"]]

    def modified_at(self) -> float | None:
        return max((file.modified for file in self.files()), default=None)

    def change_token(self) -> None:
        return None

    def _list(self) -> Any:
        return _request(self, lambda client: client.list_with_delimiter(self.path or None))


def _etag(meta: Any) -> str:
    if not meta["e_tag"]:
        raise SourceUnreachable(f"the server gives no ETag for {meta['path']}; changes could go unnoticed.")
    return str(meta["e_tag"])


def _get(client: Any, key: str, etag: str) -> tuple[bytes, str]:
    response = client.get(key, options={"if_match": etag})
    return response.bytes().to_bytes(), response.meta["e_tag"]


def _request(entry: S3File | S3Folder, operation: Callable[[Any], _Result]) -> _Result:
    """The result of ``operation(client)``, with retries. Raises SourceUnreachable."""
    settings = {variable: value for variable, value in os.environ.items() if variable.startswith("AWS_")}
    client = _client(entry.root, tuple(sorted(settings.items())))
    try:
        return with_retries(lambda _: operation(client), first_pause_s=entry.first_pause_s)
    except (PermissionError, ConnectionError) as error:
        raise SourceUnreachable(f"{entry.name} cannot be read from S3: {error}.") from error


@lru_cache(maxsize=8)
def _client(root: str, settings: tuple[tuple[str, str], ...]) -> Any:
    """This process's client for the bucket under these settings; sharing it keeps its connections open."""
    try:
        return open_bucket(root)
    except ValueError as error:
        raise SourceNotFound(f"{error}.") from error
