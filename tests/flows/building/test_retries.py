"""Which errors Prefect retries, how often and when, and how long a run may take."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
from prefect.states import Failed

from flows.building.flow import build_dataset, build_task
from spine_etl.errors import SpineError
from spine_etl.pipeline import process_study
from spine_etl.source.files import open_source
from spine_etl.source.layout import Study
from spine_etl.store.writer import StoreWriter
from tests.flows.services import ROOT
from tests.store.tiny import RECIPE

RETRIED = {
    "COMMIT_CONFLICT", "SCHEDULER_LOST", "SOURCE_CHANGED", "SOURCE_UNREACHABLE", "STORE_UNREACHABLE",
    "STORE_WRITE_FAILED", "UNEXPECTED", "WORKER_LOST",
}  # fmt: skip
NOT_RETRIED = {
    "ARCHIVE_INVALID", "CHECKPOINT_INVALID", "CHUNK_CORRUPT", "CHUNK_MISSING", "CLASSES_CONFLICT",
    "DECODE_FAILED",
    "DEVICE_MEMORY_FULL", "DEVICE_UNAVAILABLE", "DICOM_UNREADABLE", "DUPLICATE_POSITION", "FOLD_INVALID",
    "GEOMETRY_INVALID", "HEADER_INVALID", "LABEL_NAMES_DIFFER", "LABEL_NAMES_INVALID", "LABEL_UNKNOWN",
    "LOSS_NOT_FINITE", "MASK_AMBIGUOUS", "MASK_IMPLAUSIBLE", "MASK_OUTSIDE_VOLUME",
    "MASK_UNREADABLE", "MIXED_SERIES", "NO_SLICES", "OUTPUT_UNWRITABLE", "RECIPE_INVALID", "SLICE_GAP",
    "SOURCE_NOT_EMPTY", "SOURCE_NOT_FOUND", "STORE_FINGERPRINT_DIFFERS", "STORE_FORBIDDEN",
    "STORE_NOT_COMMITTED", "STORE_NOT_FOUND", "STORE_SCHEMA_UNSUPPORTED", "STUDY_NAME_INVALID",
    "STUDY_NOT_IN_STORE", "TABLE_INVALID", "TRANSFER_SYNTAX_UNSUPPORTED",
}  # fmt: skip


def errors(base: type[SpineError] = SpineError) -> Iterator[type[SpineError]]:
    """All errors that can be raised: the classes without subclasses."""
    for kind in base.__subclasses__():
        yield from errors(kind) if kind.__subclasses__() else [kind]


def is_retried(error: BaseException) -> bool:
    condition = cast(Any, build_task.retry_condition_fn)
    return bool(condition(build_task, None, Failed(data=error)))


def test_only_errors_that_may_pass_are_retried() -> None:
    retried = {kind.code: is_retried(kind("a reason.")) for kind in errors()}
    assert {code for code, again in retried.items() if again} == RETRIED
    assert {code for code, again in retried.items() if not again} == NOT_RETRIED


@pytest.mark.parametrize("error", [OSError("reset"), MemoryError(), KeyError("bug"), TimeoutError()])
def test_an_error_of_unknown_cause_is_retried(error: Exception) -> None:
    assert is_retried(error)


def test_a_build_is_retried_after_a_minute_and_after_ten() -> None:
    assert build_task.retries == 2
    assert build_task.retry_delay_seconds == [60, 600]


def test_a_run_ends_after_20_hours() -> None:
    assert build_dataset.timeout_seconds == 72_000
    assert build_dataset.retries == 0  # its task has them, with a condition


def test_a_refusal_is_retried_by_the_next_build_only_if_the_source_was_the_cause(tmp_path: Path) -> None:
    """The study's problem stands for whatever `crop_study` raises."""
    (tmp_path / "images").mkdir()
    writer = StoreWriter(tmp_path / "store", RECIPE)
    transient = set()
    for number, kind in enumerate(kind for kind in errors() if not kind.code.startswith(("STORE", "CHUNK"))):
        study = Study(f"1.{number}", open_source(tmp_path / "images"), problem=kind("a reason."))
        if kind.code in ("COMMIT_CONFLICT", "STUDY_NOT_IN_STORE"):
            continue  # as those of the store: never a study's fault
        refusal = process_study(study, writer).refusal
        assert refusal is not None
        assert refusal.code == kind.code
        if refusal.transient:
            transient.add(refusal.code)
    assert transient == {"SOURCE_CHANGED", "SOURCE_UNREACHABLE"}


@pytest.mark.integration
def test_prefect_runs_a_build_three_times_or_once(tmp_path: Path) -> None:
    """The delays are 0 here; no request at all is an error of unknown cause."""
    code = f"""
from flows.prefect_server import set_prefect_defaults
set_prefect_defaults()
from prefect import flow
from flows.building.flow import build_task
from flows.building.request import BuildRequest
from spine_etl.recipe import load_recipe
requests = {{
    "unknown cause": None,
    "no source": BuildRequest("nothing", {str(tmp_path / "store")!r}, load_recipe("quick")),
}}
@flow
def builds():
    for name, request in requests.items():
        at_once = build_task.with_options(retry_delay_seconds=0, task_run_name=name)
        assert at_once(request, return_state=True).is_failed()
builds()
"""
    home = tmp_path / "prefect"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**environment, "PREFECT_HOME": str(home)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(home / "prefect.db")) as database:
        runs = dict(database.execute("select name, run_count from task_run").fetchall())
    assert runs == {"unknown cause": 3, "no source": 1}
