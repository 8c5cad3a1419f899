"""Recipes: reading, faults, and the settings that change the fingerprint."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from spine_etl.errors import RecipeInvalid
from spine_etl.recipe import NUMBERS_VERSION, SCHEMA_VERSION, Recipe, load_recipe

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


@pytest.mark.parametrize("change", [{"name": "other"}, {"folds": 4}])
def test_name_and_folds_are_not_part_of_the_fingerprint(change: dict[str, Any]) -> None:
    assert recipe_with(**change).fingerprint == recipe_with().fingerprint
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
    ],
)
def test_every_other_setting_changes_the_fingerprint(change: dict[str, Any]) -> None:
    assert recipe_with(**change).fingerprint != recipe_with().fingerprint


FINGERPRINTED = (
    '{"levels": {"C1": 1, "C2": 2}, "other_labels": {"T1": 8}, '
    '"crop": {"spacing_mm": 1.0, "shape": [8, 10, 12]}, '
    '"overview": {"spacing_mm": 4.0, "shape": [16, 16, 16]}}'
)


@pytest.mark.parametrize("versions", [(2, 3), (3, 2), (23, 1), (2, 31)])
def test_fingerprint_is_the_sha256_of_versions_and_settings(versions: tuple[int, int]) -> None:
    schema, numbers = versions
    expected = hashlib.sha256(f"[{schema}, {numbers}, {FINGERPRINTED}]".encode()).hexdigest()
    assert recipe_with().fingerprint_of(schema, numbers) == expected


def test_settings_at_their_default_are_not_part_of_the_fingerprint() -> None:
    """So a later release can add settings; its default must be what was done before."""

    class Later(Recipe):
        series: str = "one"

    content = recipe_with().model_dump()
    assert Later.model_validate(content).fingerprint == recipe_with().fingerprint
    assert Later.model_validate({**content, "series": "first"}).fingerprint != recipe_with().fingerprint


def test_fingerprint_has_the_versions_of_this_release() -> None:
    assert recipe_with().fingerprint == recipe_with().fingerprint_of(SCHEMA_VERSION, NUMBERS_VERSION)


LEVELS_32 = {f"L{number}": number for number in range(1, 33)}


def block(**changes: Any) -> dict[str, Any]:
    return {"spacing_mm": 1.0, "shape": [8, 8, 8], **changes}


@pytest.mark.parametrize(
    ("accepted", "refused", "key"),
    [
        ({"folds": 2}, {"folds": 1}, "folds"),
        ({"folds": 100}, {"folds": 101}, "folds"),
        ({"crop": block(spacing_mm=1e-6)}, {"crop": block(spacing_mm=0.0)}, "crop.spacing_mm"),
        ({"crop": block(spacing_mm=20.0)}, {"crop": block(spacing_mm=20.000001)}, "crop.spacing_mm"),
        ({"overview": block(spacing_mm=20)}, {"overview": block(spacing_mm=-1e-6)}, "overview.spacing_mm"),
        ({"crop": block(shape=[4, 4, 4])}, {"crop": block(shape=[4, 3, 4])}, "crop.shape.1"),
        ({"crop": block(shape=[1024] * 3)}, {"crop": block(shape=[1024, 1024, 1025])}, "crop.shape.2"),
        ({"overview": block(shape=[4, 8, 8])}, {"overview": block(shape=[3, 8, 8])}, "overview.shape.0"),
        ({"levels": {"C1": 1}}, {"levels": {"C1": 0}}, "levels.C1"),
        ({"levels": {"C1": 255}}, {"levels": {"C1": 256}}, "levels.C1"),
        ({"other_labels": {"T1": 255}}, {"other_labels": {"T1": 256}}, "other_labels.T1"),
        ({"levels": {"C" * 16: 1}}, {"levels": {"C" * 17: 1}}, "levels"),
        ({"levels": {"C": 1}}, {"levels": {"": 1}}, "levels"),
        ({"levels": LEVELS_32, "other_labels": {}}, {"levels": {**LEVELS_32, "L33": 33}}, "levels"),
        ({"levels": {"C1": 1}}, {"levels": {}}, "levels"),
    ],
)
def test_both_sides_of_a_limit(accepted: dict[str, Any], refused: dict[str, Any], key: str) -> None:
    recipe_with(**accepted)
    with pytest.raises(ValidationError) as caught:
        recipe_with(**refused)
    assert [".".join(map(str, fault["loc"])).startswith(key) for fault in caught.value.errors()] == [True]


def test_how_a_setting_is_written_does_not_change_the_fingerprint(tmp_path: Path) -> None:
    """1 and 1.0 are one spacing, and only the levels have an order."""
    crop = {"shape": [8, 10, 12], "spacing_mm": 1}
    other = {"folds": 3, "crop": crop, **{key: CONTENT[key] for key in reversed(CONTENT) if key != "crop"}}
    assert load_recipe(write_recipe(tmp_path, other)).fingerprint == recipe_with().fingerprint


@pytest.mark.parametrize("spacing", [float("nan"), float("inf"), "wide", None])
def test_spacing_that_is_not_a_number_is_refused(spacing: object) -> None:
    with pytest.raises(ValidationError):
        recipe_with(crop=block(spacing_mm=spacing))


def test_shipped_recipe_is_read_by_its_name() -> None:
    assert load_recipe("rsna2022").crop.spacing_mm == 0.5
    assert load_recipe("quick").crop.spacing_mm == 1.0


def test_error_for_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(RecipeInvalid, match=r"There is no recipe qick") as refusal:
        load_recipe("qick")
    assert "quick, rsna2022" in refusal.value.action
