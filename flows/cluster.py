"""Where the work runs: a local Dask cluster of processes, or one that is given."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import dask
from dask.distributed import Client, LocalCluster

TRIES = 3
"""Workers that a study may take with it before it is refused."""


@contextmanager
def connect(workers: int, scheduler: str | None = None) -> Iterator[Client]:
    """A Dask client.

    Parameters
    ----------
    workers
        Processes of the local cluster, one thread each: a process is the sandbox of a study's pixels.
    scheduler
        ``tcp://host:port`` of a running scheduler; then nothing is started.
    """
    settings = {
        "distributed.scheduler.allowed-failures": TRIES - 1,
        "distributed.admin.tick.limit": "30s",  # a worker in a long numba call is not a fault
        "distributed.worker.daemon": True,
    }
    with dask.config.set(settings):
        if scheduler:
            with Client(scheduler, timeout=30) as client:
                yield client
            return
        with (
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
