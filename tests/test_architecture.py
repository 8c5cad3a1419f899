"""Imports go one way. Each arrow that is not drawn here is a fault."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = {"dicom", "nifti", "resample", "segmentation", "crops", "boxes"}
FOUNDATIONS = {
    "errors", "geometry", "volume", "settings", "atomic", "windows", "recipe", "source", "s3", "jit",
}  # fmt: skip
STORE_NEEDS = FOUNDATIONS - {"source", "jit"}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found or package == "model"
    return found


def room(name: str) -> list[Path]:
    """The files of a room of spine_etl: a module, or a package."""
    place = ROOT / "spine_etl" / name
    return sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]


def rooms(path: Path) -> set[str]:
    """The rooms of spine_etl that a file imports."""
    named = {name.split(".")[1] for name in imports(path) if name.startswith("spine_etl.")}
    return {
        name
        for name in named
        if (ROOT / "spine_etl" / name).is_dir() or (ROOT / f"spine_etl/{name}.py").is_file()
    }


@pytest.mark.parametrize("path", files("spine_etl"), ids=str)
def test_spine_etl_imports_neither_flows_nor_model(path: Path) -> None:
    assert not {"flows", "model"} & {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", files("model"), ids=str)
def test_model_knows_the_store_alone(path: Path) -> None:
    assert "flows" not in {name.split(".")[0] for name in imports(path)}
    assert rooms(path) <= {
        "store", "geometry", "errors", "recipe", "settings", "atomic", "windows", "volume", "localization",
    }  # fmt: skip

    assert not {"pydicom", "nibabel", "prefect", "dask", "distributed"} & {
        n.split(".")[0] for n in imports(path)
    }


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_stages_never_import_each_other(stage: str) -> None:
    for path in room(stage):
        assert rooms(path) <= FOUNDATIONS | {stage}, path.name


@pytest.mark.parametrize("name", sorted(FOUNDATIONS))
def test_foundations_stand_on_foundations(name: str) -> None:
    for path in room(name):
        assert rooms(path) <= FOUNDATIONS, path.name


def test_the_store_stands_on_foundations() -> None:
    for path in sorted((ROOT / "spine_etl/store").glob("*.py")):
        assert rooms(path) <= STORE_NEEDS | {"store"}, path.name


READER_NEEDS = {"numpy", "zarr", "numcodecs", "google_crc32c", "pydantic", "spine_etl"}


def test_reading_a_store_loads_no_decoder_nor_framework() -> None:
    code = (
        "import sys; from spine_etl import open_store; import spine_etl.store.check;"
        "heavy = {'pydicom', 'nibabel', 'numba', 'prefect', 'dask', 'distributed', 'torch', 'matplotlib',"
        " 'imagecodecs', 'xxhash', 'yaml', 'scipy', 'obstore'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_reader_declares_what_it_imports() -> None:
    """A team that only reads a dataset installs numpy, zarr and pydantic (zarr brings the codecs)."""
    outside = set()
    for path in (ROOT / "spine_etl/store").glob("*.py"):
        names = {name.split(".")[0] for name in imports(path)}
        optional = {"obstore"} if path.name == "s3.py" else set()
        outside |= names - set(sys.stdlib_module_names) - READER_NEEDS - optional
    assert outside == set()
