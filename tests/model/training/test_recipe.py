"""Shipped recipes have their published settings; invalid recipes and options are refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from model.options import TrainOptions
from model.training import recipe as recipes
from model.training.recipe import load_recipe, resolve_recipe
from spine_etl.errors import RecipeInvalid
from spine_etl.settings import shipped_names


@pytest.mark.parametrize("name", shipped_names(Path(recipes.__file__).parent / "recipes"))
def test_shipped_recipes_load(name: str) -> None:
    assert load_recipe(name).name == name


def test_seed_recipe_follows_the_baseline() -> None:
    recipe = load_recipe("seed")
    slices, sequence = recipe.stages
    assert (slices.objective, sequence.objective) == ("slices", "sequence")
    assert (slices.epochs, slices.batch_size, sequence.epochs) == (400, 192, 600)
    assert (slices.optimizer, slices.learning_rate) == ("adam", 0.01)
    assert (slices.schedule, slices.patience) == ("plateau", 30)
    assert (recipe.network.hidden, recipe.network.lstm_input) == (256, "probability")


def test_end2end_is_the_default_and_joint() -> None:
    recipe = load_recipe(TrainOptions("", Path()).recipe)
    assert recipe.name == "end2end"
    assert [stage.objective for stage in recipe.stages] == ["joint"]
    assert recipe.bf16
    assert recipe.stages[0].optimizer == "adamw"


def test_options_change_the_recipe() -> None:
    recipe = resolve_recipe(TrainOptions("", Path(), recipe="seed", epochs_scale=0.1, batch_size=16))
    assert [(stage.epochs, stage.patience, stage.batch_size) for stage in recipe.stages] == [
        (40, 3, 16),
        (60, 3, 16),
    ]
    assert [stage.epochs for stage in resolve_recipe(TrainOptions("", Path(), epochs=2)).stages] == [2]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("name = ", "not a TOML file"),
        ("nmae = 'x'", "nmae"),
        ("name = 'x'\nstages = []\nnetwork = {}\nview = {}", "stages"),
    ],
)
def test_invalid_recipe_is_refused(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeInvalid, match=part):
        load_recipe(str(path))
    with pytest.raises(RecipeInvalid, match="absent"):
        load_recipe(str(tmp_path / "absent.toml"))


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"batch_size": 0}, {"epochs_scale": 0.0}, {"epochs_scale": math.inf}]
)
def test_invalid_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(RecipeInvalid):
        resolve_recipe(TrainOptions("", Path(), **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("augment.rotate", ("noise_hu = 0.0", "rotate = 3.0")),
        ("augment.flip", ("noise_hu = 0.0", "flip = 1.5")),
        ("augment.noise_hu", ("noise_hu = 0.0", "noise_hu = -1.0")),
        ("augment.scale", ("scale = 0.0", "scale = 1.0")),  # the image could vanish
        ("view.neighbours", ("neighbours = 3", "neighbours = 4")),
    ],
)
def test_invalid_setting_is_refused(tmp_path: Path, part: str, wrong: tuple[str, str]) -> None:
    text = (Path(recipes.__file__).parent / "recipes/quick.toml").read_text()
    assert text.count(wrong[0]) == 1
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(*wrong))
    with pytest.raises(RecipeInvalid, match=part):
        load_recipe(str(path))
