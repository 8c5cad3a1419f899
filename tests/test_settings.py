"""Settings files: shipped names, and one fault per invalid key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, ValidationError

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


class Window(StrictModel):
    center: Annotated[float, Field(ge=-1000, le=3000)]
    width: Annotated[float, Field(gt=0)] = 400.0


class Everything(StrictModel):
    name: str
    folds: Annotated[int, Field(ge=2, le=100)] = 5
    shape: tuple[int, int, int] = (1, 2, 3)
    resume: bool = False
    windows: dict[str, Window] = Field(default={})


def refusal(text: str, folder: Path) -> str:
    """The reason why a settings file with this text is refused."""
    path = folder / "own.toml"
    path.write_text(text)
    with pytest.raises(RecipeInvalid) as caught:
        load_settings(path, Everything, folder / "shipped")
    assert caught.value.reason.startswith(f"{path}")
    return caught.value.reason.removeprefix(f"{path}").removeprefix(": ")


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", ["name"]),
        ("nmae = 'a'", ["name", "nmae"]),
        ("name = 1", ["name"]),
        ("name = 'a'\nfolds = '5 folds'", ["folds"]),
        ("name = 'a'\nfolds = 2.5", ["folds"]),
        ("name = 'a'\nfolds = 1", ["folds"]),
        ("name = 'a'\nfolds = 101", ["folds"]),
        ("name = 'a'\nshape = [1, 2]", ["shape.2"]),
        ("name = 'a'\nshape = [1, 2, 3, 4]", ["shape"]),
        ("name = 'a'\nshape = 5", ["shape"]),
        ("name = 'a'\nfolds = '5'", ["folds"]),
        ("name = 'a'\nfolds = 5.0", ["folds"]),
        ("name = 'a'\nfolds = true", ["folds"]),
        ("name = 'a'\nfolds = 2026-01-02", ["folds"]),
        ("name = 2026-01-02\nfolds = nan", ["folds", "name"]),
        ("name = 'a'\nresume = 2", ["resume"]),
        ("name = 'a'\nresume = 1", ["resume"]),
        ("name = 'a'\nresume = 'yes'", ["resume"]),
        ("name = 'a'\n[windows.bone]\ncenter = '40'", ["windows.bone.center"]),
        ("name = 'a'\n[windows.bone]\ncenter = true", ["windows.bone.center"]),
        ("name = 'a'\n[windows.bone]\ncenter = nan", ["windows.bone.center"]),
        ("name = 'a'\n[windows.bone]\ncenter = inf", ["windows.bone.center"]),
        ("name = 'a'\nwindows = ['bone']", ["windows"]),
        ("name = 'a'\n[windows.bone]\nwidth = 0", ["windows.bone.center", "windows.bone.width"]),
        ("name = 'a'\n[windows.bone]\ncenter = 3000.1", ["windows.bone.center"]),
        ("name = 'a'\n[windows.bone]\ncenter = 40\nlevel = 40", ["windows.bone.level"]),
        ("name = 'a'\n[window]\ncenter = 40", ["window"]),
    ],
)
def test_each_unknown_key_and_wrong_value_is_named(
    text: str, keys: list[str], shipped: Path, tmp_path: Path
) -> None:
    """Each fault once, in a line of its own kind: ``key: reason; key: reason.``"""
    reason = refusal(text, tmp_path)
    assert sorted(fault.split(": ")[0] for fault in reason.split("; ")) == keys
    assert "\n" not in reason
    assert "5 folds" not in reason  # the value is not repeated


def test_values_at_the_limits_are_read(shipped: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    for folds, center in ((2, -1000), (100, 3000)):
        path.write_text(f"name = 'a'\nfolds = {folds}\n[windows.bone]\ncenter = {center}\n")
        everything = load_settings(path, Everything, shipped)
        assert (everything.folds, everything.windows["bone"].center) == (folds, center)
        assert everything.windows["bone"].width == 400
    assert everything.shape == (1, 2, 3)


def test_fault_of_toml_has_its_line(shipped: Path, tmp_path: Path) -> None:
    assert "is not a TOML file" in refusal("name = 'a'\nfolds = = 3\n", tmp_path)
    assert "line 2" in refusal("name = 'a'\nfolds = = 3\n", tmp_path)
    assert "is not a TOML file" in refusal("name = 'a'\nname = 'b'\n", tmp_path)  # a key twice


def test_absent_file_is_answered_with_the_shipped_names(shipped: Path) -> None:
    with pytest.raises(RecipeInvalid, match=r"There is no recipe shrot\. Pass the name of .*\(long, short\)"):
        load_settings("shrot", Plan, shipped)


def test_settings_cannot_be_changed(shipped: Path) -> None:
    plan = load_settings("short", Plan, shipped)
    with pytest.raises(ValidationError, match="frozen"):
        plan.stages = ()  # type: ignore[misc]
