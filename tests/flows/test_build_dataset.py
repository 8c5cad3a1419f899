"""The build as users run it: whole commands with a real Prefect server and real Dask workers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from spine_etl.phantom import write_phantom
from spine_etl.pipeline import process_study
from spine_etl.recipe import load_recipe
from spine_etl.source.layout import discover_studies
from spine_etl.store import open_store
from spine_etl.store.check import check_store
from spine_etl.store.record import Record
from spine_etl.store.writer import StoreWriter
from tests.flows.commands import build, run, start

pytestmark = pytest.mark.integration
RECIPE = load_recipe("quick")


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("phantom")
    write_phantom(source, 5, 3, size=96, slices=40)
    return source


@pytest.fixture(scope="module")
def undisturbed(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a build without failures."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    code, line, _ = build(phantom, store)
    assert (code, line["processed"], line["refused"]) == (0, 5, 0)
    return store


def test_a_second_build_changes_nothing(phantom: Path, undisturbed: Path) -> None:
    store = open_store(undisturbed)
    assert len(store) == 5
    assert list(check_store(store)) == []
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}
    code, line, stderr = build(phantom, undisturbed)
    assert (code, line["processed"], line["unchanged"]) == (0, 0, 5)
    assert line["root_digest"] == store.root_digest
    assert "Nothing new" in stderr
    assert before == {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}


def test_the_flow_stores_the_same_as_processing_each_study(
    phantom: Path, undisturbed: Path, tmp_path: Path
) -> None:
    writer = StoreWriter(tmp_path / "store", RECIPE)
    records = [process_study(study, writer) for study in discover_studies(phantom, list(RECIPE.levels))]
    assert writer.commit(records).root_digest == open_store(undisturbed).root_digest


def test_only_new_and_changed_studies_are_processed(phantom: Path, undisturbed: Path, tmp_path: Path) -> None:
    source, store = tmp_path / "source", tmp_path / "store"
    shutil.copytree(phantom, source)
    shutil.copytree(undisturbed, store)
    old = open_store(store)
    folders = sorted((source / "train_images").iterdir())
    changed = sorted(folders[1].iterdir())[0]
    stat = changed.stat()
    content = bytearray(changed.read_bytes())
    content[-1000] ^= 1  # one bit of one voxel; the modification time is restored, since content decides
    changed.write_bytes(content)
    os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (sorted(folders[2].iterdir())[0]).touch()  # another modification time, the same content
    shutil.copytree(
        folders[0], source / "train_images" / "1.2.3.4"
    )  # new; its slices have the UID of another study
    code, line, _ = build(source, store)
    assert (code, line["processed"], line["unchanged"], line["version"]) == (0, 2, 4, 2)
    new = open_store(store)
    assert new.root_digest != old.root_digest
    kept = [uid for uid in old.study_uids if uid != folders[1].name]
    for uid in kept:
        assert new.table["row"][new.index(uid)] == old.table["row"][old.index(uid)]
    assert open_store(store, version=1).root_digest == old.root_digest


def test_invalid_studies_are_refused_and_the_others_built(phantom: Path, tmp_path: Path) -> None:
    source, store = tmp_path / "source", tmp_path / "store"
    shutil.copytree(phantom, source)
    folders = sorted((source / "train_images").iterdir())
    slices = sorted(folders[0].iterdir(), key=lambda path: int(path.stem))
    slices[len(slices) // 2].unlink()
    truncated = sorted(folders[1].iterdir())[3]
    truncated.write_bytes(truncated.read_bytes()[:-100])
    code, line, stderr = build(source, store)
    assert (code, line["processed"], line["refused"]) == (3, 3, 2)
    refused = {entry["uid"]: entry["code"] for entry in open_store(store).refused}
    assert refused.keys() == {folders[0].name, folders[1].name}
    assert refused[folders[0].name] == "SLICE_GAP"
    assert all(f"{uid} [{code}]" in stderr for uid, code in refused.items())
    record = Record.model_validate_json((store / Record.key(folders[0].name)).read_bytes())
    assert record.refusal is not None
    assert record.refusal.code == "SLICE_GAP"
    # Refused and unchanged: reported again, but not processed again.
    code, line, _ = build(source, store)
    assert (code, line["processed"], line["unchanged"], line["refused"], line["version"]) == (3, 0, 3, 2, 1)


def stop_after(records: int, source: Path, store: Path, kind: signal.Signals) -> tuple[int, str]:
    """Start a build, and signal its process group once that many studies are done.

    Returns its exit status and its standard error.
    """
    process = start("build_dataset", source, "--store", store)
    deadline = time.monotonic() + 200
    while len(list(store.glob("studies/*/record.json"))) < records:
        assert time.monotonic() < deadline
        assert process.poll() is None, "it ended before it could be stopped"
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, kind)
    _, stderr = process.communicate(timeout=30)
    return process.returncode, stderr


def test_a_stopped_build_resumes_to_the_same_dataset(
    phantom: Path, undisturbed: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    status, stderr = stop_after(1, phantom, store, signal.SIGINT)
    assert status == 130
    assert "run the same command again" in stderr
    assert "Traceback" not in stderr
    status, _ = stop_after(3, phantom, store, signal.SIGKILL)
    assert status == -signal.SIGKILL
    kept = len(list(store.glob("studies/*/record.json")))
    assert 3 <= kept < 5
    assert not (store / "versions/1/zarr.json").exists()
    code, line, _ = build(phantom, store)
    assert (code, line["unchanged"], line["processed"]) == (0, kept, 5 - kept)
    assert line["root_digest"] == open_store(undisturbed).root_digest
    assert list(check_store(open_store(store))) == []


def test_a_build_without_new_studies_needs_no_prefect(phantom: Path, undisturbed: Path) -> None:
    options = ["build_dataset", "--source", str(phantom), "--store", str(undisturbed), "--recipe", "quick"]
    code = (
        "import sys, runpy; sys.modules['prefect'] = sys.modules['dask'] = None;"
        f"sys.argv = {options!r}; runpy.run_module('flows.build_dataset', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Nothing new" in done.stderr


def test_unsettled_studies_are_reported(phantom: Path, tmp_path: Path) -> None:
    shutil.copytree(phantom, tmp_path / "source")
    status, line, stderr = build(tmp_path / "source", tmp_path / "store", "--settle", "30")
    assert status == 0, stderr
    assert (line["processed"], line["left"], line["version"]) == (0, 5, 0)
    for folder in (tmp_path / "source/train_images").iterdir():
        assert re.search(rf"^{folder.name} changed \d+ s ago; left for the next build", stderr, re.MULTILINE)


@pytest.mark.parametrize(
    ("source", "recipe", "code"),
    [("nothing", "quick", "SOURCE_NOT_FOUND"), ("train_images", "quick", "SOURCE_NOT_FOUND"),
     (".", "no.toml", "RECIPE_INVALID")],
)  # fmt: skip
def test_errors_of_the_whole_build(
    phantom: Path, tmp_path: Path, source: str, recipe: str, code: str
) -> None:
    status, line, stderr = build(phantom / source, tmp_path / "store", "--recipe", recipe)
    assert status == 1
    assert line["error"]["code"] == code
    assert f"error: [{code}]" in stderr


def test_a_store_of_another_recipe_is_an_error(phantom: Path, undisturbed: Path) -> None:
    status, line, _ = build(phantom, undisturbed, "--recipe", "rsna2022")
    assert (status, line["error"]["code"]) == (1, "STORE_FINGERPRINT_DIFFERS")


def test_help_takes_under_half_a_second() -> None:
    def seconds() -> float:
        began = time.monotonic()
        help_ = subprocess.run([sys.executable, "-m", "flows.build_dataset", "--help"], capture_output=True)
        assert help_.returncode == 0
        assert b"--store" in help_.stdout
        return time.monotonic() - began

    assert min(seconds() for _ in range(3)) < 0.5


def test_a_root_of_datasets_has_one_store_for_each_recipe(phantom: Path, tmp_path: Path) -> None:
    lines = []
    for _ in range(2):
        status, line, stderr = run("build_dataset", phantom, "--datasets", tmp_path)
        assert status == 0, stderr
        lines.append(line)
    assert [line["processed"] for line in lines] == [5, 0]
    assert lines[0]["store"] == lines[1]["store"] == str(tmp_path / RECIPE.fingerprint[:16])
    assert open_store(tmp_path, recipe=RECIPE).root_digest == lines[0]["root_digest"]


def test_a_run_publishes_its_page(phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "prefect"
    monkeypatch.setenv("PREFECT_HOME", str(home))
    assert build(phantom, tmp_path / "store")[0] == 0
    with contextlib.closing(sqlite3.connect(home / "prefect.db")) as database:
        kind, data = database.execute(
            "select type, data from artifact where key = 'build-dataset'"
        ).fetchone()
        states = database.execute("select state_name from task_run").fetchall()
    assert kind == "markdown"
    assert json.loads(data).startswith(f"Version **1** of `{tmp_path / 'store'}`, root digest `")
    assert "| 5 | 0 | 0 | 0 | 0 |" in data
    assert states == [("Stored",)] * 5


def test_levels_without_a_crop_are_filled_with_air(undisturbed: Path) -> None:
    store = open_store(undisturbed)
    located = store.located()
    assert located.any()
    assert not located.all()
    for study in range(len(store)):
        image, mask = store.image(study), store.mask(study)
        for level in np.flatnonzero(~located[study]):
            assert (image[level] == -1024).all()
            assert not mask[level].any()
