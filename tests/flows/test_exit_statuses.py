"""The exit statuses of the commands, each of a real process: 0, 3, 1, 2 and 130.

The sources have a few bytes and the stores their records already, so no study is processed and Prefect is not
started. `tests.flows.test_build_dataset` has the statuses of builds that process studies.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spine_etl.recipe import load_recipe
from spine_etl.source.layout import discover_studies
from spine_etl.store.writer import StoreWriter
from tests.flows.building.tiny_source import Content, refused, stored, write_source
from tests.flows.commands import run, start
from tests.flows.services import ROOT
from tests.store.tiny import RECIPE

pytestmark = pytest.mark.integration


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The recipe of `tests.store.tiny` as a file."""
    path = tmp_path / "tiny.toml"
    path.write_text(
        'name = "tiny"\nlevels = {C1 = 1, C2 = 2}\ncrop = {spacing_mm = 1.0, shape = [4, 6, 8]}\n'
        "overview = {spacing_mm = 4.0, shape = [8, 4, 4]}\n"
    )
    assert load_recipe(str(path)).fingerprint == RECIPE.fingerprint
    return path


@pytest.mark.parametrize(
    ("ends", "settle", "status", "counts"),
    [
        (["stored", "stored"], "0", 0, (0, 2, 0, 0)),
        (["stored", "new"], "30", 0, (0, 1, 0, 1)),
        (["new", "new"], "30", 0, (0, 0, 0, 2)),
        (["stored", "refused"], "0", 3, (0, 1, 1, 0)),
        (["stored", "refused", "refused", "refused"], "0", 3, (0, 1, 3, 0)),
        (["refused", "refused"], "0", 1, (0, 0, 2, 0)),
        (["refused", "new"], "30", 1, (0, 0, 1, 1)),
    ],
)
def test_status_of_a_build(
    ends: list[str], settle: str, status: int, counts: tuple[int, ...], recipe: Path, tmp_path: Path
) -> None:
    source, store = tmp_path / "source", tmp_path / "store"
    write_source(source, {f"1.2.{index}": Content() for index in range(len(ends))})
    writer = StoreWriter(store, RECIPE)
    for row, (end, study) in enumerate(zip(ends, discover_studies(source, ["C1", "C2"]), strict=True)):
        if end != "new":
            writer.write_record(stored(study, row) if end == "stored" else refused(study))
    found, line, stderr = run(
        "build_dataset", source, "--store", store, "--recipe", recipe, "--settle", settle
    )
    assert found == status, stderr
    assert tuple(line[key] for key in ("processed", "unchanged", "refused", "left")) == counts
    assert sum(counts) == len(ends)
    assert stderr.count("[SLICE_GAP] 2 slices are missing.") == ends.count("refused")


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda source: None, "SOURCE_NOT_FOUND"),
        (lambda source: (source / "train_images").mkdir(parents=True), "SOURCE_NOT_FOUND"),
    ],
)
def test_an_error_of_the_build_has_status_1(
    make: Callable[[Path], object], code: str, recipe: Path, tmp_path: Path
) -> None:
    make(tmp_path / "source")
    status, line, stderr = run(
        "build_dataset", tmp_path / "source", "--store", tmp_path / "store", "--recipe", recipe
    )
    assert (status, line["error"]["code"]) == (1, code)
    assert stderr.splitlines()[-1].startswith(f"error: [{code}] ")


SOURCE_AND_STORE = ("--source", "source", "--store", "store")


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("build_dataset", [], "the following arguments are required: --source"),
        ("build_dataset", ["--source", "source"], "one of the arguments --store --datasets is required"),
        ("build_dataset", ["--source", "source", "--store", ""], "argument --store: the value is empty"),
        ("build_dataset", ["--source", "source", "--store", " "], "argument --store: the value is empty"),
        (
            "build_dataset",
            ["--source", "source", "--datasets", ""],
            "argument --datasets: the value is empty",
        ),
        ("build_dataset", ["--source", "", "--store", "store"], "argument --source: the value is empty"),
        ("build_dataset", [*SOURCE_AND_STORE, "--recipe", ""], "argument --recipe: the value is empty"),
        ("build_dataset", [*SOURCE_AND_STORE, "--dask", ""], "argument --dask: the value is empty"),
        ("build_dataset", [*SOURCE_AND_STORE, "--localizer", ""], "argument --localizer: the value is empty"),
        ("build_dataset", [*SOURCE_AND_STORE, "--datasets", "root"], "not allowed with argument --store"),
        ("build_dataset", [*SOURCE_AND_STORE, "--workers", "0"], "argument --workers: not a whole number"),
        ("build_dataset", [*SOURCE_AND_STORE, "--nonsense"], "unrecognized arguments: --nonsense"),
        ("bootstrap", list(SOURCE_AND_STORE), "the following arguments are required: --localizer"),
        ("bootstrap", [*SOURCE_AND_STORE, "--localizer", ""], "argument --localizer: the value is empty"),
        ("serve", ["--source", "source"], "the following arguments are required: --store"),
        ("serve", ["--source", "source", "--store", ""], "argument --store: the value is empty"),
        ("serve", [*SOURCE_AND_STORE, "--cron", ""], "argument --cron: the value is empty"),
    ],
)
def test_a_wrong_command_line_has_status_2(
    command: str, options: list[str], message: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"flows.{command}", *options], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_before_any_study_has_status_130(tmp_path: Path) -> None:
    """The recipe is a pipe, so that the command waits in `open` until the interrupt arrives."""
    recipe = tmp_path / "recipe.toml"
    os.mkfifo(recipe)
    process = start("build_dataset", tmp_path, "--store", tmp_path / "store", "--recipe", recipe)
    with opened_by_reader(recipe):
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout) == (130, "")
    assert stderr == "Interrupted. Studies stored so far are kept; run the same command again to resume.\n"


@contextmanager
def opened_by_reader(pipe: Path) -> Iterator[None]:
    """Wait until another process reads the pipe, which stays empty for this block."""
    deadline = time.monotonic() + 120
    while True:
        try:
            writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > deadline:  # ENXIO: nothing reads it yet
                raise
            time.sleep(0.05)
    try:
        yield
    finally:
        os.close(writer)


def test_the_line_of_json_is_the_only_output(recipe: Path, tmp_path: Path) -> None:
    write_source(tmp_path / "source", {"1.2": Content()})
    process = start(
        "build_dataset", tmp_path / "source", "--store", tmp_path / "store", "--recipe", recipe,
        "--settle", "30",
    )  # fmt: skip
    stdout, _ = process.communicate(timeout=120)
    assert len(stdout.splitlines()) == 1
    assert json.loads(stdout).keys() == {
        "store", "processed", "unchanged", "refused", "left", "version", "root_digest", "seconds",
        "unused_masks", "unnamed_levels",
    }  # fmt: skip
