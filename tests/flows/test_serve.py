"""The nightly build in one process, as users start and stop it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import psutil
import pytest

from spine_etl.phantom import write_phantom
from spine_etl.store import open_store
from tests.flows.services import ROOT

pytestmark = pytest.mark.integration
DEADLINE_S = 300


def serve(home: Path, *more: str, settings: Mapping[str, str] = {}) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flows.serve", "--recipe", "quick", *more]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    return subprocess.Popen(
        command, cwd=ROOT, env={**environment, "PREFECT_HOME": str(home), **settings},
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    write_phantom(tmp_path / "source", 2, 3, size=96, slices=40)
    folders = ["--source", str(tmp_path / "source"), "--store", str(tmp_path / "store")]
    with serve(tmp_path / "prefect", *folders, "--cron", "30 3 * * 6", "--settle", "0") as process:
        parent = psutil.Process(process.pid)
        try:
            yield process
        finally:
            for running in [*parent.children(recursive=True), parent] if parent.is_running() else []:
                running.kill()


def test_runs_are_scheduled_and_the_server_stops_with_the_command(
    serving: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert serving.stderr
    assert "Starting Prefect's server" in serving.stderr.readline()
    line = serving.stderr.readline()
    address = re.search(r"at 30 3 \* \* 6 \(UTC\).* (http://127\.0\.0\.1:\d+)$", line)
    assert address, line + serving.stderr.read()
    with httpx.Client(base_url=f"{address[1]}/api/", timeout=60) as prefect:
        nightly = prefect.get("deployments/name/build-dataset/nightly").json()
        assert nightly["schedules"][0]["schedule"] == {
            "cron": "30 3 * * 6",
            "timezone": "UTC",
            "day_or": True,
        }
        assert nightly["parameters"]["recipe"]["name"] == "quick"
        run = prefect.post(f"deployments/{nightly['id']}/create_flow_run", json={}).json()["id"]
        deadline = time.monotonic() + DEADLINE_S
        while (state := prefect.get(f"flow_runs/{run}").json()["state"])["type"] not in {
            "COMPLETED",
            "FAILED",
        }:
            assert time.monotonic() < deadline
            time.sleep(0.3)
        assert state["type"] == "COMPLETED", state
    assert len(open_store(tmp_path / "store")) == 2
    children = psutil.Process(serving.pid).children(recursive=True)
    assert children
    serving.send_signal(signal.SIGINT)
    _, stderr = serving.communicate(timeout=120)
    assert serving.returncode == 130
    assert stderr.splitlines()[-1].startswith("Stopped. ")
    assert "Traceback" not in stderr
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


def test_a_server_that_cannot_start_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    process = serve(tmp_path / "file", "--source", str(tmp_path), "--store", str(tmp_path / "store"))
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert stderr.splitlines()[-1].startswith("error: [UNEXPECTED] Prefect's server did not start.")


def test_an_invalid_recipe_is_an_error_before_the_server_starts(tmp_path: Path) -> None:
    process = serve(
        tmp_path, "--source", str(tmp_path), "--store", str(tmp_path / "store"), "--recipe", "no.toml"
    )
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr.startswith("error: [RECIPE_INVALID] There is no recipe no.toml")
    assert len(stderr.splitlines()) == 1


def test_an_invalid_schedule_is_a_wrong_command_line(tmp_path: Path) -> None:
    folders = ["--source", str(tmp_path), "--store", str(tmp_path / "store")]
    server = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}  # none is started, and none is needed
    process = serve(tmp_path, *folders, "--cron", "61 * * * *", settings=server)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 2
    assert stderr == 'error: argument --cron: 61 * * * * is not a cron schedule, like "0 2 * * *".\n'
