"""A store in an S3 bucket. The server must support conditional writes (If-None-Match)."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

from spine_etl.errors import StoreError, StoreForbidden, StoreNotFound, StoreUnreachable
from spine_etl.s3 import FIRST_PAUSE_S, open_bucket, with_retries

_Result = TypeVar("_Result")
_WRITE_ID = "writer"
"""Object metadata that identifies the call that wrote the object (``x-amz-meta-writer``)."""


class S3Location:
    """Objects under ``s3://bucket/prefix``. No client is pickled: each process opens its own.

    ``first_pause_s`` is the bound of the pause before the first retry.
    """

    def __init__(self, url: str, *, first_pause_s: float = FIRST_PAUSE_S) -> None:
        self.url = url.rstrip("/")
        self.first_pause_s = first_pause_s
        _ = self._bucket  # report an unusable URL now, not at the first request

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, object]:
        return {"url": self.url, "first_pause_s": self.first_pause_s}

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

        return self._request(key, lambda _: bytes(obstore.get(self._bucket, key).bytes()))

    def read_parts(
        self, key: str, tail_size: int, ranges: Callable[[bytes], Sequence[tuple[int, int]]]
    ) -> Iterator[bytes]:
        content = self.read(key)  # one request
        for start, size in ranges(content[-tail_size:]):
            yield content[start : start + size]

    def read_range(self, key: str, start: int, size: int) -> bytes:
        import obstore

        return self._request(
            key, lambda _: bytes(obstore.get_range(self._bucket, key, start=start, length=size))
        )

    def read_tail(self, key: str, size: int) -> bytes:
        import obstore

        options: Any = {"range": {"suffix": size}}
        return self._request(key, lambda _: bytes(obstore.get(self._bucket, key, options=options).bytes()))

    def exists(self, key: str) -> bool:
        import obstore

        try:
            self._request(key, lambda _: obstore.head(self._bucket, key))
        except FileNotFoundError:
            return False
        return True

    def write(self, key: str, content: bytes) -> None:
        import obstore

        with self._not_found_means_no_bucket():
            self._request(key, lambda _: obstore.put(self._bucket, key, content, use_multipart=False))

    def create(self, key: str, content: bytes) -> None:
        """As `Location.create`.

        If the response to a successful PUT is lost, the retry finds the object in place. The object carries
        an id that only this call uses, so the retry recognises its own write.
        """
        import obstore

        write_id = uuid.uuid4().hex

        def put(earlier_tries: int) -> None:
            try:
                obstore.put(
                    self._bucket, key, content,
                    mode="create", attributes={_WRITE_ID: write_id}, use_multipart=False,
                )  # fmt: skip
            except obstore.exceptions.AlreadyExistsError:
                if not earlier_tries or self._write_id(key) != write_id:
                    raise

        with self._not_found_means_no_bucket():
            self._request(key, put)

    def _write_id(self, key: str) -> str | None:
        import obstore

        write_id: str | None = obstore.get(self._bucket, key).attributes.get(_WRITE_ID)
        return write_id

    def _request(self, key: str, operation: Callable[[int], _Result]) -> _Result:
        try:
            return with_retries(operation, first_pause_s=self.first_pause_s)
        except PermissionError as error:
            raise StoreForbidden(f"{self.url}/{key}: {error}.") from error
        except ConnectionError as error:
            raise StoreUnreachable(f"{self.url}/{key}: {error}.") from error

    @contextmanager
    def _not_found_means_no_bucket(self) -> Iterator[None]:
        """Translate FileNotFoundError of a write: only the bucket can be missing."""
        try:
            yield
        except FileNotFoundError as error:
            action = "Create the bucket, or correct --store."
            raise StoreNotFound(f"there is no bucket for {self.url}.", action=action) from error
