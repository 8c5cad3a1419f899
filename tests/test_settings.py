"""Settings files: shipped names, and one fault per invalid key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from spine_etl.errors import RecipeInvalid
from spine_etl.settings import StrictModel, load_settings, shipped_names


class Stage(StrictModel):
    epochs: int


class Plan(StrictModel):
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "short.toml").write_text("[[stages]]\nepochs = 1\n")
    (folder / "long.toml").write_text("[[stages]]\nepochs = 9\n")
    (folder / "notes.txt").write_text("not a settings file")
    return folder


def test_shipped_names_are_those_of_the_toml_files(shipped: Path) -> None:
    assert shipped_names(shipped) == ["long", "short"]


def test_shipped_name_takes_precedence_over_a_file(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "short").write_text("[[stages]]\nepochs = 5\n")
    monkeypatch.chdir(tmp_path)
    assert load_settings("short", Plan, shipped).stages[0].epochs == 1


def test_only_the_innermost_fault_is_reported(shipped: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("[[stages]]\nepochs = 1\nepoch = 2\n")
    with pytest.raises(RecipeInvalid) as refusal:
        load_settings(path, Plan, shipped)
    assert "stages.0.epoch: Extra inputs are not permitted." in refusal.value.reason
    assert "at least 1 item" not in refusal.value.reason


def test_file_that_is_not_text_is_refused(shipped: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeInvalid, match="is not a TOML file: not UTF-8"):
        load_settings(path, Plan, shipped)


def test_folder_is_refused(shipped: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeInvalid, match="cannot be read: Is a directory"):
        load_settings(tmp_path, Plan, shipped)
