"""A failed write leaves the old file and ends in a one-line error, also on a full disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from model.output import write_figure, write_file
from spine_etl.errors import OutputUnwritable
from spine_etl.store import Store


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new folder" / "file"
    write_file(path, b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OutputUnwritable, match="file cannot be written: the disk is full"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_only_png_pictures_are_written(tmp_path: Path) -> None:
    write_figure(tmp_path / "a.png", Figure())
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OutputUnwritable, match=r"a\.xyz"):
        write_figure(tmp_path / "a.xyz", Figure())
    (tmp_path / "file").touch()
    with pytest.raises(OutputUnwritable, match="file cannot be written: File exists"):
        write_figure(tmp_path / "file" / "a.png", Figure())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 KB, less than a run needs."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", mount_point]).returncode:
        pytest.skip("cannot mount a file system here, so a full disk is not tested")
    yield mount_point
    subprocess.run(["umount", mount_point], check=True)


@pytest.mark.integration
def test_training_on_a_full_disk_ends_in_one_line(tiny_store: Store, small_disk: Path) -> None:
    options = ["--store", str(tiny_store.location), "--out", str(small_disk / "run"), "--device", "cpu"]
    command = [sys.executable, "-m", "model.train", *options, "--recipe", "quick"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    completed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert completed.returncode == 1
    lines = completed.stderr.strip().splitlines()
    assert len(lines) == 1, completed.stderr
    assert lines[0].startswith("error: [OUTPUT_UNWRITABLE]")
    assert "No space left on device" in lines[0]
