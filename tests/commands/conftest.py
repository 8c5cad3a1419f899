"""A small source and a store built from it, for the tests of the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from spine_etl import process_study
from spine_etl.__main__ import main
from spine_etl.recipe import load_recipe
from spine_etl.source.layout import discover_studies
from spine_etl.store.writer import StoreWriter


def run(*arguments: object) -> int:
    """Run the command line in this process and return its exit status."""
    return main([str(argument) for argument in arguments])


def study_uids(source: Path) -> list[str]:
    return sorted(path.name for path in (source / "train_images").iterdir())


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small phantom studies."""
    folder = tmp_path_factory.mktemp("phantom") / "source"
    assert run("phantom", "--out", folder, "--studies", 2, "--seed", 3, "--slices", 24, "--size", 64) == 0
    return folder


@pytest.fixture(scope="session")
def store(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the two studies, built with the recipe ``quick``."""
    folder = tmp_path_factory.mktemp("store") / "store"
    recipe = load_recipe("quick")
    writer = StoreWriter(folder, recipe)
    studies = discover_studies(source, list(recipe.levels))
    writer.commit([process_study(study, writer, row) for row, study in enumerate(studies)])
    return folder
