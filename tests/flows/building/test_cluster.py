"""Connecting to Dask clusters, and the limit of studies in flight."""

from __future__ import annotations

import logging
import os
import signal
import threading

import dask
import pytest
from dask.distributed import Client

from flows.building.cluster import StudiesInFlight, connect
from spine_etl.errors import SchedulerLost
from tests.flows.conftest import Cluster

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://a"])
def test_a_scheduler_that_does_not_answer_is_an_error(address: str) -> None:
    levels = [logging.getLogger(name).level for name in ("distributed", "asyncio")]
    with pytest.raises(SchedulerLost, match="does not answer"), connect(2, address):
        pass
    assert [logging.getLogger(name).level for name in ("distributed", "asyncio")] == levels


def test_clients_without_the_certificate_are_rejected(tls_cluster: Cluster, tls: dict[str, str]) -> None:
    assert tls_cluster.address.startswith("tls://")
    for address in (tls_cluster.address, tls_cluster.address.replace("tls", "tcp")):
        with pytest.raises(SchedulerLost, match="does not answer"), connect(2, address):
            pass
    settings = {name.removeprefix("DASK_").replace("__", ".").lower(): value for name, value in tls.items()}
    with dask.config.set(settings), connect(2, tls_cluster.address) as client:
        assert client.submit(abs, -1).result(timeout=60) == 1


def test_the_limit_of_studies_in_flight_follows_the_cluster(cluster: Cluster) -> None:
    with Client(cluster.address) as client:
        client.wait_for_workers(2)
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
            assert acquired.acquire(timeout=60)  # the third worker raises the limit to six
        finally:
            os.killpg(third.pid, signal.SIGKILL)
            third.wait()
