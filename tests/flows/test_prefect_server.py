"""Prefect's own server, and what it keeps of a run that waits its turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from flows.prefect_server import prefect_server, set_prefect_defaults
from tests.flows.services import ROOT

SERVE = """
from flows.prefect_server import prefect_server
with prefect_server() as address:
    print(address, flush=True)
    input()
"""
WAIT_ITS_TURN = """
from flows.building.deployment import exclusive_run
with exclusive_run("s3://bucket/store"):
    print("its turn", flush=True)
    input()
"""


@contextmanager
def python(code: str, home: Path, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs the code; killed with its children after the block."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**environment, "PREFECT_HOME": str(home), **settings},
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_a_running_server_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://host:4200/api")
    with prefect_server() as address:
        assert address == "http://host:4200"
    assert os.environ["PREFECT_API_URL"] == "http://host:4200/api"


def test_defaults_leave_variables_that_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    monkeypatch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "removed below")
    monkeypatch.delenv("PREFECT_SERVER_ANALYTICS_ENABLED")
    monkeypatch.setenv("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "removed below")
    monkeypatch.delenv("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS")
    set_prefect_defaults()
    assert (os.environ["PREFECT_LOGGING_LEVEL"], os.environ["DO_NOT_TRACK"]) == ("DEBUG", "0")
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] == "180"


@pytest.mark.integration
def test_a_build_leases_its_store_for_two_minutes(tmp_path: Path) -> None:
    with python(SERVE, tmp_path) as server:
        address = line(server)
        assert address.startswith("http://127.0.0.1:"), server.communicate()[1]
        (started,) = psutil.Process(server.pid).children()
        settings = {"PREFECT_API_URL": f"{address}/api"}
        with python(WAIT_ITS_TURN, tmp_path, **settings) as first:
            assert line(first) == "its turn", first.communicate()[1]
            (lease,) = [
                json.loads(path.read_text())
                for path in (tmp_path / "concurrency_leases").glob("*.json")
                if path.name != "expirations.json"
            ]
            began, ends = (datetime.fromisoformat(lease[name]) for name in ("created_at", "expiration"))
            assert (ends - began).total_seconds() == pytest.approx(120, abs=1)
        server.kill()  # even then the server ends with its parent
        assert psutil.wait_procs([started], timeout=60)[1] == []
