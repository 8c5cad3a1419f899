"""Files are whole or not there, and a place that cannot be written is refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from model.output import write_atomically, write_figure
from spine_etl.errors import OutputUnwritable
from spine_etl.store import Store


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new folder" / "file"
    write_atomically(path, b"old")

    def broken(descriptor: int) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(OutputUnwritable, match="file cannot be written: the disk is full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_picture_is_png_or_refused(tmp_path: Path) -> None:
    write_figure(tmp_path / "a.png", Figure())
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OutputUnwritable, match=r"a\.xyz"):
        write_figure(tmp_path / "a.xyz", Figure())
    (tmp_path / "file").touch()
    with pytest.raises(OutputUnwritable, match="file cannot be written: File exists"):
        write_figure(tmp_path / "file" / "a.png", Figure())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 KB: less than a run needs."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", mounted]).returncode:
        pytest.skip("no file system can be mounted here: a full disk is not tested")
    yield mounted
    subprocess.run(["umount", mounted], check=True)


@pytest.mark.integration
def test_a_training_that_fills_the_disk_says_so(tiny_store: Store, small_disk: Path) -> None:
    options = ["--store", str(tiny_store.location), "--out", str(small_disk / "run"), "--device", "cpu"]
    command = [sys.executable, "-m", "model.train", *options, "--recipe", "quick"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    said = ended.stderr.strip().splitlines()
    assert len(said) == 1, ended.stderr
    assert said[0].startswith("error: [OUTPUT_UNWRITABLE]")
    assert "No space left on device" in said[0]
