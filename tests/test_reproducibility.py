"""A study has one row: the same bytes on any thread, in any process and under any environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spine_etl.phantom import write_phantom
from tests.row_digests import stored

ROOT = Path(__file__).parents[1]
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}  # Python would make it UTF-8
SETTINGS: dict[str, tuple[dict[str, str], list[str]]] = {
    "plain, spawned too": ({"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC"}, ["spawn"]),
    "ASCII, shuffled": ({**ASCII, "PYTHONHASHSEED": "1", "TEST_UMASK": "077"}, ["shuffled"]),
    "Kathmandu, shuffled, zarr": (
        {"PYTHONHASHSEED": "2", "LC_ALL": "POSIX", "TZ": "Asia/Kathmandu", "TEST_UMASK": "0"},
        ["shuffled", "zarr"],
    ),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "Wirbelsäule"
    (truth,) = write_phantom(folder, 1, 5, size=96, slices=40, masked_share=1.0)
    # One slice has a name that is not ASCII: names are part of the digest.
    slices = folder / "train_images" / truth.uid
    (slices / "7.dcm").rename(slices / "é7.dcm")
    return folder


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return stored(str(source), str(tmp_path_factory.mktemp("store")))


@pytest.mark.parametrize(("variables", "options"), SETTINGS.values(), ids=SETTINGS)
def test_row_has_one_digest(
    source: Path, expected: str, tmp_path: Path, variables: dict[str, str], options: list[str]
) -> None:
    command = [sys.executable, "-m", "tests.row_digests", str(source), str(tmp_path / "store"), *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LC_")}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 7 + ("spawn" in options)
    assert {line.rpartition(": ")[2] for line in lines} == {expected}, done.stdout
