"""The structure of the packages: imports run in one direction, and no file or folder grows past its limit."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

VALUES = {"errors", "geometry", "volume", "settings", "recipe"}
STAGES = {"dicom", "dicom_seg", "nifti", "segmentation", "crops", "boxes", "resample"}
PIPELINE = VALUES | STAGES | {"masks", "source", "store", "localization"}

SPINE_ETL: Mapping[str, set[str]] = {
    "errors": set(),
    "geometry": set(),
    "atomic": set(),
    "jit": set(),
    "s3": set(),
    "settings": {"errors"},
    "volume": {"errors", "geometry"},
    "recipe": {"errors", "settings"},
    "windows": {"errors", "volume"},
    "source": {"errors", "volume", "s3", "settings", "recipe"},
    "localization": {"recipe"},
    # Stages never import each other: they meet in the pipeline.
    **{stage: VALUES | {"source", "jit"} for stage in STAGES},
    "store": VALUES | {"atomic", "s3"},
    # Joins the stages that read segmentations.
    "masks": VALUES | {"dicom_seg", "nifti", "segmentation", "source"},
    "study_record": PIPELINE,
    "pipeline": PIPELINE | {"study_record"},
    "report": PIPELINE | {"windows"},
    "phantom": VALUES | {"jit"},
    "commands": PIPELINE | {"pipeline", "report", "phantom", "windows"},
    "__main__": {"commands", "errors"},
    "__init__": PIPELINE | {"pipeline"},
}
"""Which rooms of spine_etl each room may import; a room is a module or a folder of its top level."""

MODEL: Mapping[str, set[str]] = {
    "__init__": set(),
    "cli": set(),
    "options": set(),
    "output": set(),
    "device": set(),
    "distributed": {"device"},
    "data": {"device"},
    "networks": {"data", "distributed"},
    "inference": {"data", "networks", "device", "distributed", "options", "output"},
    "training": {"inference", "data", "networks", "device", "distributed", "options", "output"},
    "localizer": {"training", "inference", "data", "networks", "device", "options", "output"},
    "train": {"training", "cli", "options"},
    "predict": {"inference", "cli", "options"},
    "explain": {"inference", "cli", "options"},
    "localize": {"localizer", "cli", "options"},
}

FLOWS: Mapping[str, set[str]] = {
    "__init__": set(),
    "console": set(),
    "prefect_server": {"console"},
    "building": {"console", "prefect_server"},
    "cli": {"building", "console"},
    "build_dataset": {"building", "cli", "console", "prefect_server"},
    "bootstrap": {"building", "cli", "console", "prefect_server"},
    "serve": {"building", "cli", "console", "prefect_server"},
}

PACKAGES = {"spine_etl": SPINE_ETL, "model": MODEL, "flows": FLOWS}
MODEL_READS = {
    "store", "recipe", "geometry", "volume", "errors", "settings", "atomic", "windows", "localization",
}  # fmt: skip
FLOWS_USE_OF_MODEL = {"model.localizer", "model.options"}
READER_NEEDS = {"numpy", "zarr", "numcodecs", "google_crc32c", "pydantic", "spine_etl"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at its top, in a function or for type checking."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def exists(module: str) -> bool:
    path = ROOT / module.replace(".", "/")
    return path.with_suffix(".py").is_file() or path.is_dir()


def room_of(path: Path) -> str:
    """The module or folder of a package's top level that a file belongs to."""
    return path.relative_to(ROOT).parts[1].removesuffix(".py")


def rooms_imported(path: Path, package: str) -> set[str]:
    named = {name for name in imports(path) if name.startswith(f"{package}.")}
    return {name.split(".")[1] for name in named if exists(".".join(name.split(".")[:2]))}


@pytest.mark.parametrize(
    ("package", "path"),
    [(package, path) for package in PACKAGES for path in modules(package)],
    ids=lambda value: str(value.relative_to(ROOT)) if isinstance(value, Path) else value,
)
def test_a_room_imports_only_rooms_below_it(package: str, path: Path) -> None:
    allowed = PACKAGES[package]
    room = room_of(path)
    assert rooms_imported(path, package) <= allowed[room] | {room}


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_form_no_circle(package: str) -> None:
    list(TopologicalSorter(PACKAGES[package]).static_order())  # raises CycleError


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_form_no_circle(package: str) -> None:
    """Within a room too. A package's __init__ only passes names on, so it is no module of its own here."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in modules(package)}
    graph = {
        name: {imported for imported in imports(path) if imported in names and imported != name}
        for name, path in names.items()
        if path.name != "__init__.py"
    }
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_is_too_long(package: str) -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules(package)}
    assert {name: count for name, count in lines.items() if count > 400} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_folder_has_too_many_modules(package: str) -> None:
    """The top level of spine_etl apart: its modules are the values and stages that all others share."""
    counts = Counter(path.parent for path in modules(package) if path.name != "__init__.py")
    del counts[ROOT / "spine_etl"]
    assert {str(folder): count for folder, count in counts.items() if count > 12} == {}


@pytest.mark.parametrize("path", modules("spine_etl"), ids=str)
def test_spine_etl_imports_neither_flows_nor_model(path: Path) -> None:
    assert not {"flows", "model"} & {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", modules("model"), ids=str)
def test_model_reads_the_store_and_never_a_source(path: Path) -> None:
    assert rooms_imported(path, "spine_etl") <= MODEL_READS
    outside = {name.split(".")[0] for name in imports(path)}
    assert not {"flows", "pydicom", "nibabel", "prefect", "dask", "distributed"} & outside


@pytest.mark.parametrize("path", modules("flows"), ids=str)
def test_flows_use_only_the_localizer_of_model(path: Path) -> None:
    named = {name for name in imports(path) if name.split(".")[0] == "model"}
    assert {".".join(name.split(".")[:2]) for name in named} <= FLOWS_USE_OF_MODEL


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
