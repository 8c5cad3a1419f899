"""Local locations: their errors, and addresses without a location."""

from __future__ import annotations

from pathlib import Path

import pytest

from spine_etl.errors import StoreNotFound, StoreUnreachable, StoreWriteFailed
from spine_etl.store.location import LocalLocation, open_location


def test_write_replaces_and_create_does_not(tmp_path: Path) -> None:
    location = open_location(tmp_path / "store")
    location.write("a/b", b"1")
    location.write("a/b", b"2")
    with pytest.raises(FileExistsError):
        location.create("a/b", b"3")
    assert location.read("a/b") == b"2"
    assert location.exists("a/b")
    assert not location.exists("a/c")
    with pytest.raises(FileNotFoundError):
        location.read("a/c")


def test_operating_system_errors_become_store_errors(tmp_path: Path) -> None:
    location = LocalLocation(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreUnreachable, match="folder cannot be read: Is a directory"):
        location.read("folder")
    with pytest.raises(StoreWriteFailed, match="folder cannot be written: Is a directory"):
        location.write("folder", b"")


@pytest.mark.parametrize("address", ["s3://", "s3:///a", "gs://bucket/a", "s3://bucket/a?b=c"])
def test_invalid_address_is_refused(address: str) -> None:
    with pytest.raises(StoreNotFound):
        open_location(address)
