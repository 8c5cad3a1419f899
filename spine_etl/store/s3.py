"""A store in a bucket of S3, or of a server that speaks it and knows conditional writes (If-None-Match)."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

from spine_etl.errors import StoreError, StoreForbidden, StoreNotFound, StoreUnreachable
from spine_etl.s3 import open_bucket, tried

_Result = TypeVar("_Result")
_WRITER = "writer"
"""Name of the metadata that says who made an object (``x-amz-meta-writer``)."""


@contextmanager
def _a_bucket(url: str) -> Iterator[None]:
    """Within, what is written cannot be missing: a server that says so lacks the bucket."""
    try:
        yield
    except FileNotFoundError as error:
        raise StoreNotFound(
            f"there is no bucket for {url}.", action="Make it, or correct --store."
        ) from error


class S3Location:
    """Objects below ``s3://bucket/prefix``. What is pickled is the URL: each process has its own client."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        _ = self._bucket

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url}

    @cached_property
    def _bucket(self) -> Any:
        try:
            return open_bucket(self.url)
        except ModuleNotFoundError as error:
            action = "Install it: pip install 'spine-etl[s3]'."
            raise StoreError(f"{self.url} needs obstore.", action=action) from error
        except ValueError as error:
            raise StoreNotFound(f"{error}.") from error

    def read(self, key: str) -> bytes:
        import obstore

        return self._tried(key, lambda _: bytes(obstore.get(self._bucket, key).bytes()))

    def exists(self, key: str) -> bool:
        import obstore

        try:
            self._tried(key, lambda _: obstore.head(self._bucket, key))
        except FileNotFoundError:
            return False
        return True

    def write(self, key: str, content: bytes) -> None:
        import obstore

        with _a_bucket(self.url):
            self._tried(key, lambda _: obstore.put(self._bucket, key, content, use_multipart=False))

    def create(self, key: str, content: bytes) -> None:
        """As `Location.create`. An answer that was lost does not make us a stranger to our own object: it
        bears a name that this call alone knows."""
        import obstore

        name = uuid.uuid4().hex

        def put(past: int) -> None:
            try:
                obstore.put(
                    self._bucket, key, content,
                    mode="create", attributes={_WRITER: name}, use_multipart=False,
                )  # fmt: skip
            except obstore.exceptions.AlreadyExistsError:
                if not past or self._writer(key) != name:
                    raise

        with _a_bucket(self.url):
            self._tried(key, put)

    def _writer(self, key: str) -> str | None:
        import obstore

        found: str | None = obstore.get(self._bucket, key).attributes.get(_WRITER)
        return found

    def _tried(self, key: str, operation: Callable[[int], _Result]) -> _Result:
        try:
            return tried(operation)
        except PermissionError as error:
            raise StoreForbidden(f"{self.url}/{key}: {error}.") from error
        except ConnectionError as error:
            raise StoreUnreachable(f"{self.url}/{key}: {error}.") from error
