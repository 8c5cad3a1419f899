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


def changed(**changes: Any) -> Recipe:
    return Recipe.model_validate({**CONTENT, **changes})


def toml(content: dict[str, Any]) -> str:
    """Plain values and tables of plain values, written as TOML."""
    values = {key: value for key, value in content.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    text = "".join(f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in values.items())
    return text + "".join(f"[{key}]\n{toml(table)}" for key, table in tables.items())


def saved(folder: Path, content: Any) -> Path:
    path = folder / "recipe.toml"
    path.write_text(content if isinstance(content, str) else toml(content), encoding="utf-8")
    return path


def test_a_recipe_is_read(tmp_path: Path) -> None:
    recipe = load_recipe(saved(tmp_path, CONTENT))
    assert recipe.levels == {"C1": 1, "C2": 2}
    assert recipe.crop.shape == (8, 10, 12)
    assert recipe.folds == 3


@pytest.mark.parametrize(
    ("change", "named"),
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
def test_faults_are_named(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeInvalid, match=named):
        load_recipe(saved(tmp_path, {**CONTENT, **change}))


@pytest.mark.parametrize("text", ["[1, 2", "just words", "", "name: small\nlevels: {C1: 1}\n"])
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeInvalid):
        load_recipe(saved(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeInvalid, match=r"There is no recipe .*absent\.toml"):
        load_recipe(tmp_path / "absent.toml")


def test_the_name_is_not_part_of_the_fingerprint() -> None:
    assert changed(name="other").fingerprint == changed().fingerprint
    assert len(changed().fingerprint) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"levels": {"C2": 2, "C1": 1}},  # the store's level axis turned round
        {"levels": {"C1": 1, "C2": 3}},
        {"levels": {"C1": 1}},
        {"other_labels": {}},
        {"crop": {"spacing_mm": 1.5, "shape": [8, 10, 12]}},
        {"crop": {"spacing_mm": 1.0, "shape": [12, 10, 8]}},
        {"overview": {"spacing_mm": 4.0, "shape": [16, 16, 17]}},
        {"folds": 4},
    ],
)
def test_anything_else_changes_the_fingerprint(change: dict[str, Any]) -> None:
    assert changed(**change).fingerprint != changed().fingerprint


@pytest.mark.parametrize("number", ["SCHEMA_VERSION", "NUMBERS_VERSION"])
def test_the_code_that_makes_the_numbers_is_part_of_it(monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    before = changed().fingerprint
    monkeypatch.setattr(spine_etl.recipe, number, getattr(spine_etl.recipe, number) + 1)
    assert changed().fingerprint != before


def test_a_recipe_that_ships_is_read_by_its_name() -> None:
    assert load_recipe("rsna2022").crop.spacing_mm == 0.5
    assert load_recipe("quick").crop.spacing_mm == 1.0


def test_a_misspelt_name_is_answered_with_those_that_ship() -> None:
    with pytest.raises(RecipeInvalid, match=r"There is no recipe qick") as refusal:
        load_recipe("qick")
    assert "quick, rsna2022" in refusal.value.action
