"""Prefect's own server: start it, wait until it answers, stop it; and the defaults of Prefect's environment.

Prefect reads its environment when it is first imported, so call these functions before that.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from flows.console import print_line

_PORT = 4200
_START_S = 300
"""Time for the server to answer; its first start creates the database."""

_STOP_S = 20
_NO_TELEMETRY = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
_WITHOUT_SERVER = {
    **_NO_TELEMETRY,
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
}


def set_prefect_defaults() -> None:
    """Set Prefect's environment for a run that may have no server; variables that are set already stay."""
    _set_defaults(_WITHOUT_SERVER)


@contextmanager
def prefect_server() -> Iterator[str]:
    """Address of Prefect's pages: of the server at PREFECT_API_URL, or of one started for this block.

    Raises
    ------
    Unexpected
        If the server does not start.
    """
    running = os.environ.get("PREFECT_API_URL")
    if running:
        yield running.removesuffix("/api")
        return
    host, port = "127.0.0.1", _free_port()
    address = f"http://{host}:{port}"
    os.environ["PREFECT_API_URL"] = f"{address}/api"
    _set_defaults(_NO_TELEMETRY)
    print_line("Starting Prefect's server (takes some seconds) ...")
    process = _start(host, port)
    try:
        _wait_until_healthy(address, process)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _set_defaults(variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def _start(host: str, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
    # Keep leases on disk: a lease in memory is lost with the server, and would never expire.
    leases = {
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem"
    }
    return subprocess.Popen(  # noqa: S603 - our own interpreter
        command,
        env={**os.environ, **leases},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C must not reach the server: the runner needs it to shut down
        preexec_fn=_terminate_with_parent,
    )


def _terminate_with_parent() -> None:
    """Make Linux terminate this process when its parent ends, even if the parent is killed."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def _wait_until_healthy(address: str, process: subprocess.Popen[bytes]) -> None:
    from spine_etl.errors import Unexpected

    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/api/health", timeout=5):  # noqa: S310 - our own server
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise Unexpected("Prefect's server did not start.", action="To see why, run: prefect server start.")


def _free_port() -> int:
    """Prefect's default port, or any free port if that one is taken."""
    for port in (_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            free: int = probe.getsockname()[1]
            return free
    raise AssertionError("binding to port 0 always finds a free port")
