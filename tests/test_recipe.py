"""Recipes: reading, faults, and the settings that change the fingerprint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import spine_etl.recipe
from spine_etl.errors import RecipeInvalid
from spine_etl.recipe import Recipe, load_recipe

CONTENT: dict[str, Any] = {
    "name": "small",
    "levels": {"C1": 1, "C2": 2},
    "other_labels": {"T1": 8},
    "crop": {"spacing_mm": 1.0, "shape": [8, 10, 12]},
    "overview": {"spacing_mm": 4.0, "shape": [16, 16, 16]},
    "folds": 3,
}


def recipe_with(**changes: Any) -> Recipe:
    return Recipe.model_validate({**CONTENT, **changes})


def toml(content: dict[str, Any]) -> str:
    """Write values, lists and tables as TOML."""
    values = {key: value for key, value in content.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    text = "".join(f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in values.items())
    return text + "".join(f"[{key}]\n{toml(table)}" for key, table in tables.items())


def write_recipe(folder: Path, content: Any) -> Path:
    path = folder / "recipe.toml"
    path.write_text(content if isinstance(content, str) else toml(content), encoding="utf-8")
    return path


def test_recipe_is_read_from_toml(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, CONTENT))
    assert recipe.levels == {"C1": 1, "C2": 2}
    assert recipe.crop.shape == (8, 10, 12)
    assert recipe.folds == 3


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"fold": 5}, "fold"),
        ({"crop": {"spacing_mm": 1.0, "shape": [8, 8, 8], "spacing": 2}}, "crop.spacing"),
        ({"crop": {"spacing_mm": 0, "shape": [8, 8, 8]}}, "crop.spacing_mm"),
        ({"crop": {"spacing_mm": 1, "shape": [8, 8]}}, "crop.shape"),
        ({"levels": {}}, "levels"),
        ({"levels": {"C1": 0}}, "levels.C1"),
        ({"levels": {"C1": 256}}, "levels.C1"),
        ({"levels": {"../C1": 1}}, "levels"),
        ({"levels": {"C1": 1, "C2": 1}}, "twice"),
        ({"other_labels": {"T1": 1}}, "twice"),
        ({"other_labels": {"C1": 9}}, "twice"),
        ({"folds": 1}, "folds"),
    ],
)
def test_fault_is_reported_with_its_key(tmp_path: Path, change: dict[str, Any], key: str) -> None:
    with pytest.raises(RecipeInvalid, match=key):
        load_recipe(write_recipe(tmp_path, {**CONTENT, **change}))


@pytest.mark.parametrize("text", ["[1, 2", "just words", "", "name: small\nlevels: {C1: 1}\n"])
def test_file_that_is_not_a_recipe_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeInvalid):
        load_recipe(write_recipe(tmp_path, text))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeInvalid, match=r"There is no recipe .*absent\.toml"):
        load_recipe(tmp_path / "absent.toml")


def test_name_is_not_part_of_the_fingerprint() -> None:
    assert recipe_with(name="other").fingerprint == recipe_with().fingerprint
    assert len(recipe_with().fingerprint) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"levels": {"C2": 2, "C1": 1}},  # reverses the store's level axis
        {"levels": {"C1": 1, "C2": 3}},
        {"levels": {"C1": 1}},
        {"other_labels": {}},
        {"crop": {"spacing_mm": 1.5, "shape": [8, 10, 12]}},
        {"crop": {"spacing_mm": 1.0, "shape": [12, 10, 8]}},
        {"overview": {"spacing_mm": 4.0, "shape": [16, 16, 17]}},
        {"folds": 4},
    ],
)
def test_every_other_setting_changes_the_fingerprint(change: dict[str, Any]) -> None:
    assert recipe_with(**change).fingerprint != recipe_with().fingerprint


@pytest.mark.parametrize("number", ["SCHEMA_VERSION", "NUMBERS_VERSION"])
def test_version_numbers_change_the_fingerprint(monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    before = recipe_with().fingerprint
    monkeypatch.setattr(spine_etl.recipe, number, getattr(spine_etl.recipe, number) + 1)
    assert recipe_with().fingerprint != before


def test_shipped_recipe_is_read_by_its_name() -> None:
    assert load_recipe("rsna2022").crop.spacing_mm == 0.5
    assert load_recipe("quick").crop.spacing_mm == 1.0


def test_error_for_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(RecipeInvalid, match=r"There is no recipe qick") as refusal:
        load_recipe("qick")
    assert "quick, rsna2022" in refusal.value.action
