"""Running Dask clusters of separate processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

SETTINGS = {
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "2",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": "1.0",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
}


class Cluster:
    """A scheduler and two workers, each with a nanny that restarts it when it dies."""

    def __init__(self, folder: Path, settings: Mapping[str, str] = {}) -> None:
        self._settings = {**os.environ, **SETTINGS, **settings}
        self._file = folder / "scheduler.json"
        self._log = (folder / "dask.log").open("wb")
        listen = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(self._file)]
        if settings:
            listen += ["--protocol", "tls"]
        self.scheduler = self.start("scheduler", *listen)
        deadline = time.monotonic() + 90
        while not self._file.is_file() or not self._file.stat().st_size:
            assert time.monotonic() < deadline, "the scheduler did not start"
            time.sleep(0.1)
        self.address = json.loads(self._file.read_text())["address"]
        join = ["--scheduler-file", str(self._file), "--nthreads", "1", "--no-dashboard"]
        self.workers = self.start("worker", *join, "--nworkers", "2", "--local-directory", str(folder))

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *command],
            stdout=self._log,
            stderr=self._log,
            env=self._settings,
            start_new_session=True,
        )

    def close(self) -> None:
        for process in (self.workers, self.scheduler):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._log.close()


@contextmanager
def _running(folder: Path, settings: Mapping[str, str] = {}) -> Iterator[Cluster]:
    cluster = Cluster(folder, settings)
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster for one test."""
    (tmp_path / "dask").mkdir()
    with _running(tmp_path / "dask") as running:
        yield running


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, str]:
    """Dask's settings for mutual TLS, with one new certificate for all parts."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=spine",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    settings = {"REQUIRE_ENCRYPTION": "true", "TLS__CA_FILE": str(certificate)}
    for part in ("SCHEDULER", "WORKER", "CLIENT"):
        settings |= {f"TLS__{part}__CERT": str(certificate), f"TLS__{part}__KEY": str(key)}
    return {f"DASK_DISTRIBUTED__COMM__{name}": value for name, value in settings.items()}


@pytest.fixture
def tls_cluster(tmp_path: Path, tls: dict[str, str]) -> Iterator[Cluster]:
    """A cluster that accepts only clients with the certificate."""
    (tmp_path / "dask").mkdir()
    with _running(tmp_path / "dask", tls) as running:
        yield running
