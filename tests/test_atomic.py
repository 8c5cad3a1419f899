"""Atomic writes: afterwards there is the old file or the new one, and no temporary file."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from spine_etl.atomic import create_file, replace_file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("durable", [True, False])
def test_replace_file_creates_the_folder_and_replaces_a_file(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a" / "b" / "file"
    replace_file(path, b"old", durable=durable)
    replace_file(path, b"new", durable=durable)
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["file"]


def test_create_file_does_not_replace_a_file(tmp_path: Path) -> None:
    create_file(tmp_path / "file", b"first")
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("key", ["file/below", "file/below/deeper"])
def test_file_in_the_place_of_a_folder_is_not_taken_for_the_target(tmp_path: Path, key: str) -> None:
    """FileExistsError would mean that the target exists: a search for a free name would never end."""
    (tmp_path / "file").write_bytes(b"old")
    for write in (create_file, replace_file):
        with pytest.raises(NotADirectoryError):
            write(tmp_path / key, b"new")
    assert names(tmp_path) == ["file"]


def test_only_one_of_several_concurrent_create_file_calls_succeeds(tmp_path: Path) -> None:
    path, succeeded = tmp_path / "file", []
    start = threading.Barrier(8)

    def create(number: int) -> None:
        start.wait()
        try:
            create_file(path, str(number).encode() * 100_000)
        except FileExistsError:
            return
        succeeded.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(succeeded) == 1
    assert path.read_bytes() == str(succeeded[0]).encode() * 100_000
    assert names(tmp_path) == ["file"]


def test_failed_write_keeps_the_old_file_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"new")
    with pytest.raises(OSError, match="No space left"):
        create_file(tmp_path / "other", b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_replace_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match=r"Is a directory|not empty|exists"):
        replace_file(tmp_path / "file", b"new")
    assert names(tmp_path) == ["file"]
