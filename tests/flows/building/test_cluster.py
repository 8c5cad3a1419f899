"""Connecting to Dask clusters, and the limit of studies in flight."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from pathlib import Path

import dask
import pytest
from dask.distributed import Client
from distributed.scheduler import KilledWorker

from flows.building.cluster import StudiesInFlight, connect
from spine_etl.errors import SchedulerLost
from tests.flows.conftest import Cluster
from tests.flows.deaths import die

pytestmark = pytest.mark.integration


PATIENCE_S = 240
"""For what must happen: starting a process takes a minute on a machine that is busy with other tests."""


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://a"])
def test_a_scheduler_that_does_not_answer_is_an_error(address: str) -> None:
    levels = [logging.getLogger(name).level for name in ("distributed", "asyncio")]
    with pytest.raises(SchedulerLost, match="does not answer"), connect(2, address, timeout_s=1):
        pass
    assert [logging.getLogger(name).level for name in ("distributed", "asyncio")] == levels


def test_a_silent_scheduler_is_an_error_after_the_time_limit() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with (
            pytest.raises(SchedulerLost, match="does not answer"),
            connect(2, f"tcp://127.0.0.1:{silent.getsockname()[1]}", timeout_s=2),
        ):
            pass
        assert time.monotonic() - began >= 2


def test_clients_without_the_certificate_are_rejected(tls_cluster: Cluster, tls: dict[str, str]) -> None:
    assert tls_cluster.address.startswith("tls://")
    settings = {name.removeprefix("DASK_").replace("__", ".").lower(): value for name, value in tls.items()}
    # First the client that must succeed: once it has, the cluster answers, so a failure is a rejection.
    with dask.config.set(settings), connect(2, tls_cluster.address, timeout_s=PATIENCE_S) as client:
        assert client.submit(abs, -1).result(timeout=PATIENCE_S) == 1
    for address in (tls_cluster.address, tls_cluster.address.replace("tls", "tcp")):
        with pytest.raises(SchedulerLost, match="does not answer"), connect(2, address, timeout_s=5):
            pass


def test_a_local_cluster_has_one_thread_in_each_worker() -> None:
    with connect(2) as client:
        assert list(client.nthreads().values()) == [1, 1]
        assert os.getpid() not in client.run(os.getpid).values()


@pytest.mark.parametrize("times", [2, 3])
def test_a_study_fails_when_its_third_worker_dies(times: int, tmp_path: Path) -> None:
    with connect(1) as client:
        future = client.submit(die, tmp_path, times, key="study")
        if times < 3:
            assert future.result(timeout=PATIENCE_S) == times
        else:
            with pytest.raises(KilledWorker) as killed:
                future.result(timeout=PATIENCE_S)
            assert killed.value.allowed_failures == 2
    assert len(list(tmp_path.iterdir())) == times


def test_the_limit_of_studies_in_flight_follows_the_cluster(cluster: Cluster) -> None:
    with Client(cluster.address, timeout=PATIENCE_S) as client:
        client.wait_for_workers(2, timeout=PATIENCE_S)
        in_flight = StudiesInFlight(client)
        acquired = threading.Semaphore(0)

        def acquire_six() -> None:
            for _ in range(6):
                in_flight.acquire()
                acquired.release()

        threading.Thread(target=acquire_six, daemon=True).start()
        assert all(acquired.acquire(timeout=10) for _ in range(4))  # two threads, so four in flight
        assert not acquired.acquire(timeout=0.5)
        in_flight.release()
        assert acquired.acquire(timeout=10)
        third = cluster.start("worker", cluster.address, "--nthreads", "1", "--no-dashboard")
        try:
            assert acquired.acquire(timeout=PATIENCE_S)  # the third worker raises the limit to six
        finally:
            os.killpg(third.pid, signal.SIGKILL)
            third.wait()
