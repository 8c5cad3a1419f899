"""``check``: a store that is intact, and each damaged object by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from spine_etl import open_store
from spine_etl.commands.check import check_store
from tests.commands.conftest import run


def test_intact_store(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", store) == 0
    assert capsys.readouterr().out == "2 studies, 8 objects, all as committed\n"
    assert run("check", store, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "studies": 2,
        "objects": 8,
        "faults": [],
        "version": 1,
        "root_digest": open_store(store).root_digest,
    }


def test_progress_is_printed_once_per_interval(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = open_store(store)
    assert check_store(opened, progress_interval_s=0) == []
    printed = capsys.readouterr()
    assert printed.err.splitlines() == ["1 of 2 studies read ...", "2 of 2 studies read ..."]
    assert printed.out == ""
    assert check_store(opened, progress_interval_s=3600) == []
    assert capsys.readouterr().err == ""


def test_each_damaged_object_is_named(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "store"
    shutil.copytree(store, damaged)
    image = damaged / "image/c/0/0/0/0/0"
    content = bytearray(image.read_bytes())
    content[len(content) // 2] ^= 1
    image.write_bytes(content)
    (damaged / "mask/c/1/0/0/0/0").unlink()
    assert run("check", damaged, "--version", 1) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("CHUNK_CORRUPT 1.2.826")
    assert "image/c/0" in first
    assert second.startswith("CHUNK_MISSING 1.2.826")
    assert "mask/c/1" in second
    assert run("check", damaged, "--json") == 1
    faults = json.loads(capsys.readouterr().out)["faults"]
    assert [fault["code"] for fault in faults] == ["CHUNK_CORRUPT", "CHUNK_MISSING"]
