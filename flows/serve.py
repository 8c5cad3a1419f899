"""The nightly build in one process: schedule it, run it, and show it, without other servers.

    python -m flows.serve --source DIR --store PATH [--recipe FILE] [--cron "0 2 * * *"] [--localizer FOLDER]
                          [--dask tcp://...] [--settle MINUTES]

Where PREFECT_API_URL names no Prefect server, one of its own is started on this machine, and ends with it.
It serves until Ctrl-C. Exit status: 130 interrupted; 1 nothing could be done; 2 the command line is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from flows.cli import say

_PORT = 4200
_START_S = 300
"""Time for Prefect's server to answer: it lays its tables out on the first start."""

_END_S = 20


def main(argv: list[str] | None = None) -> int:
    options = _arguments().parse_args(argv)
    from spine_etl.errors import SpineError

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's way to say Ctrl-C
    try:
        parameters = _parameters(options)
        with _server() as address:
            _serve(parameters, options.cron, address)
    except SpineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, SystemExit):  # the latter is what Prefect's runner makes of a SIGTERM
        pass
    say("Ended. What is stored is kept; the next run goes on from there.")
    return 130


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.serve", description="Build every night, and show the runs in a browser."
    )
    parser.add_argument("--source", required=True, help="folder or zip in the RSNA 2022 layout, or s3://...")
    parser.add_argument("--store", required=True, help="folder or s3://...; made where it is not there")
    parser.add_argument(
        "--recipe", default="rsna2022", help="name of a recipe that ships (rsna2022, quick) or a TOML file"
    )
    parser.add_argument("--cron", default="0 2 * * *", help='when, in UTC (default: "0 2 * * *")')
    parser.add_argument("--localizer", metavar="FOLDER", help="finds C1-C7 where a study has no mask")
    parser.add_argument("--dask", metavar="tcp://HOST:PORT", help="scheduler of a running Dask cluster")
    parser.add_argument(
        "--settle", type=float, default=10, metavar="MINUTES",
        help="studies that changed within it are left for the next run (default: 10)",
    )  # fmt: skip
    return parser


def _parameters(options: argparse.Namespace) -> dict[str, object]:
    """Those of `flows.building.flow.build_dataset`. Raises RecipeInvalid."""
    from spine_etl.recipe import load_recipe

    return {
        "source": options.source,
        "store": options.store,
        "recipe": load_recipe(options.recipe).model_dump(mode="json"),
        "workers": len(os.sched_getaffinity(0)),
        "dask": options.dask,
        "localizer": options.localizer,
        "settle_minutes": options.settle,
    }


def _serve(parameters: dict[str, object], cron: str, address: str) -> None:
    """Schedule and run the flow until interrupted."""
    from prefect.deployments.runner import RunnerDeployment
    from prefect.runner import Runner
    from prefect.schedules import Cron
    from prefect.types.entrypoint import EntrypointType

    from flows.building.flow import build_dataset

    # A deployment, not the flow itself: each run then imports the flow, as a worker's does.
    nightly = build_dataset.to_deployment(
        name="nightly",
        schedule=Cron(cron, timezone="UTC"),
        parameters=parameters,
        tags=["spine-etl"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    runner = Runner(limit=1, pause_on_shutdown=True)
    runner.add_deployment(cast(RunnerDeployment, nightly))
    say(f"Serving build-dataset/nightly at {cron} (UTC). Runs, and a form to start one: {address}")
    asyncio.run(runner.start())


@contextmanager
def _server() -> Iterator[str]:
    """Address of Prefect's pages: of the server that PREFECT_API_URL names, or of one for this block."""
    given = os.environ.get("PREFECT_API_URL")
    if given:
        yield given.removesuffix("/api")
        return
    address = f"http://127.0.0.1:{_free_port()}"
    # Prefect reads these when it is imported, which has not happened yet.
    os.environ["PREFECT_API_URL"] = f"{address}/api"
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    say("Starting Prefect's server; this takes some seconds ...")
    process = _start_server(address)
    try:
        _await_health(address, process)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _start_server(address: str) -> subprocess.Popen[bytes]:
    host, port = address.removeprefix("http://").split(":")
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", port]
    # Runs killed with their server give their turn back only if their leases outlive it, on the disk.
    leases = {
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem"
    }
    return subprocess.Popen(  # noqa: S603 - our own interpreter
        command,
        env={**os.environ, **leases},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a terminal's Ctrl-C is for us, who still need it to say goodbye
        preexec_fn=_die_with_parent,
    )


def _die_with_parent() -> None:
    """Linux ends this process when its parent is gone, even if that was killed."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def _await_health(address: str, process: subprocess.Popen[bytes]) -> None:
    """Until the server answers. Raises Unexpected."""
    from spine_etl.errors import Unexpected

    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/api/health", timeout=5):  # noqa: S310 - our own server
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise Unexpected(
        "Prefect's server did not start.", action="Run it alone to see why: prefect server start."
    )


def _free_port() -> int:
    """Prefect's usual port, or any where somebody listens there."""
    for port in (_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise AssertionError("the system gives a port when asked for any")


if __name__ == "__main__":
    sys.exit(main())
