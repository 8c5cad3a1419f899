"""Sources for the benchmarks: synthetic studies of the usual size of the real data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from spine_etl.phantom import Syntax, write_phantom
from spine_etl.recipe import Recipe, load_recipe
from spine_etl.source.layout import Study, discover_studies
from tests.benchmarks.comparison import ROOT

RECIPE = ROOT / "spine_etl" / "recipes" / "rsna2022.toml"


@pytest.fixture(scope="session")
def recipe_file() -> Path:
    return RECIPE


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return load_recipe(RECIPE)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Syntax], Path]:
    """A source with one study of 300 slices of 512x512 and its mask, written once per transfer syntax."""
    folder = tmp_path_factory.mktemp("sources")

    def make(syntax: Syntax) -> Path:
        if not (folder / syntax).exists():
            write_phantom(folder / syntax, 1, 3, transfer_syntax=syntax, slices=300, masked_share=1.0)
        return folder / syntax

    return make


@pytest.fixture(scope="session")
def study(source: Callable[[Syntax], Path], recipe: Recipe) -> Callable[[Syntax], Study]:
    """The only study of `source`."""
    return lambda syntax: discover_studies(source(syntax), list(recipe.levels))[0]
