"""Local locations: their errors, and addresses without a location."""

from __future__ import annotations

import pickle
import tempfile
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spine_etl.errors import StoreNotFound, StoreUnreachable, StoreWriteFailed
from spine_etl.store.location import LocalLocation, Location, open_location
from spine_etl.store.writer import StoreWriter
from tests.store.tiny import RECIPE, voxels

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


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


@pytest.mark.parametrize("key", ["file/below", "file/below/deeper"])
def test_file_in_the_place_of_a_folder_is_a_store_error(tmp_path: Path, key: str) -> None:
    location = LocalLocation(tmp_path)
    location.write("file", b"old")
    for write in (location.write, location.create):
        with pytest.raises(StoreWriteFailed, match="Not a directory"):
            write(key, b"new")
    assert not location.exists(key)
    with pytest.raises(NotADirectoryError):
        location.read(key)


def test_damaged_array_folder_ends_the_build(tmp_path: Path) -> None:
    """The search for a free row never ended: no row was taken, and none could be written."""
    writer = StoreWriter(tmp_path, RECIPE)
    (tmp_path / "image/c").write_bytes(b"")
    with pytest.raises(StoreWriteFailed, match="Not a directory"):
        writer.write_row(0, voxels(1))


KEYS = st.sampled_from(["zarr.json", "a/zarr.json", "a/c/0/0", "a/c/1/0", "b/record.json"])
CALLS = st.lists(
    st.tuples(st.sampled_from(["read", "exists", "write", "create", "reopen"]), KEYS, st.binary(max_size=5))
)


def check_calls(location: Location, calls: list[tuple[str, str, bytes]]) -> dict[str, bytes]:
    """Make the calls on an empty location and on a dict; returns the dict."""
    expected: dict[str, bytes] = {}
    for call, key, content in calls:
        if call == "reopen":  # as in another process
            location = pickle.loads(pickle.dumps(location))  # noqa: S301
        elif call == "write":
            location.write(key, content)
            expected[key] = content
        elif call == "create" and key in expected:
            with pytest.raises(FileExistsError):
                location.create(key, content)
        elif call == "create":
            location.create(key, content)
            expected[key] = content
        elif call == "read" and key not in expected:
            with pytest.raises(FileNotFoundError):
                location.read(key)
        elif call == "read":
            assert location.read(key) == expected[key]
        assert location.exists(key) == (key in expected)
    return expected


@given(calls=CALLS)
@settings(deadline=None)
def test_local_location_is_a_dict(calls: list[tuple[str, str, bytes]]) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="location-") as folder:
        expected = check_calls(open_location(folder), calls)
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in files} == expected


@pytest.mark.integration
@given(calls=CALLS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_location_on_s3_is_a_dict(s3_bucket: str, calls: list[tuple[str, str, bytes]]) -> None:
    check_calls(open_location(f"{s3_bucket}/{uuid.uuid4()}"), calls)


@pytest.mark.parametrize("address", ["s3://", "s3:///a", "gs://bucket/a", "s3://bucket/a?b=c"])
def test_invalid_address_is_refused(address: str) -> None:
    with pytest.raises(StoreNotFound):
        open_location(address)
