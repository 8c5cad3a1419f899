"""Where the work runs: a local Dask cluster of processes, or one that is given."""

from __future__ import annotations

import logging
import signal
import threading
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
        # Workers keep the memory of a study for the next one: handing 300 MB back and getting it anew,
        # page by page, costs as much as sampling the crops.
        "distributed.nanny.pre-spawn-environ": {
            **dask.config.get("distributed.nanny.pre-spawn-environ"),
            "MALLOC_MMAP_MAX_": "0",
            "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
        },
    }
    with dask.config.set(settings):
        if scheduler:
            with Client(scheduler, timeout=30) as client:
                yield client
            return
        with _deaf_to_interrupts():
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
        with cluster, Client(cluster) as client:
            yield client


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """What is started here ignores Ctrl-C, which a terminal sends to all: the parent decides for them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers belong to the main thread; elsewhere there is no terminal either
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
