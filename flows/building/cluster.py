"""The Dask cluster of a build: a local one, or one that is running already; and how many studies it gets."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Protocol

import dask
from dask.distributed import Client, LocalCluster
from distributed import Security
from distributed.comm.core import connect as open_comm

from spine_etl.errors import SchedulerLost

MAX_WORKER_DEATHS = 3
"""Refuse a study after this many workers died while processing it. A running scheduler has its own limit."""

_MUTED_LOGGERS = ("distributed", "distributed.client", "tornado", "asyncio")


@contextmanager
def connect(workers: int, scheduler: str | None = None, timeout_s: float = 10) -> Iterator[Client]:
    """A Dask client for this block, on a running cluster or on a local one that ends with the block.

    Parameters
    ----------
    workers
        Processes of the local cluster, with one thread each: untrusted pixels are decoded in a process that
        may die.
    scheduler
        ``tcp://host:port`` of a running scheduler (``tls://`` with Dask's own settings). No local cluster is
        started then.
    timeout_s
        Time for a running scheduler to answer.

    Raises
    ------
    SchedulerLost
        If the running scheduler does not answer within ``timeout_s``.
    """
    settings = {
        "distributed.scheduler.allowed-failures": MAX_WORKER_DEATHS - 1,
        # Queue studies at the scheduler: one that waits on a worker is blamed too when that worker dies.
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.admin.tick.limit": "30s",  # a long numba call in a worker is normal
        # Workers keep the memory of a study for the next one: returning 300 MB to the system and asking for
        # it again, page by page, takes as long as sampling the crops.
        "distributed.nanny.pre-spawn-environ": {
            **dask.config.get("distributed.nanny.pre-spawn-environ"),
            "MALLOC_MMAP_MAX_": "0",
            "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
        },
    }
    with _muted_logs(), dask.config.set(settings):
        if scheduler:
            with _connect_to(scheduler, timeout_s) as client:
                yield client
            return
        with _ignore_sigint():
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                # No dashboard, and any free port: Dask warns if its default port is taken by another build.
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                silence_logs=logging.CRITICAL,
            )
        with cluster, Client(cluster) as client:
            yield client


def _connect_to(scheduler: str, timeout_s: float) -> Client:
    try:
        asyncio.run(_shake_hands(scheduler, timeout_s))
        try:
            return Client(scheduler, timeout=timeout_s)
        except AssertionError:  # distributed's event loop had not started after its 10 s: a busy machine
            return Client(scheduler, timeout=timeout_s)
    except (OSError, ValueError, TypeError) as error:  # no answer; not an address; tls:// without settings
        raise SchedulerLost(f"{scheduler} does not answer, or rejects these TLS settings.") from error


async def _shake_hands(scheduler: str, timeout_s: float) -> None:
    """Connect once, because `Client` waits forever for a server that accepts connections and stays silent."""
    settings = Security().get_connection_args("client")
    comm = await asyncio.wait_for(open_comm(scheduler, timeout=timeout_s, **settings), timeout_s)
    await comm.close()


class Threads(Protocol):
    """The part of a Dask client that `StudiesInFlight` needs."""

    def nthreads(self) -> Mapping[str, int]:
        """The number of threads of each worker, by its address."""


class StudiesInFlight:
    """Limits the studies in flight to twice the number of threads that the cluster has at the moment.

    A worker that finishes a study then finds the next one waiting, and the scheduler's queue stays short.
    The limit follows workers that join or leave: it is read again after ``refresh_s`` seconds of ``clock``,
    and at least that often while a study waits. Tests replace the clock.
    """

    def __init__(
        self, client: Threads, refresh_s: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client, self._refresh_s, self._clock = client, refresh_s, clock
        self._count, self._limit = 0, 2
        self._changed = threading.Condition()
        self._refresh_limit()

    def _refresh_limit(self) -> None:
        with suppress(Exception):  # a lost scheduler surfaces through the studies in flight
            self._limit = max(2, 2 * sum(self._client.nthreads().values()))
        self._refreshed = self._clock()

    def acquire(self) -> None:
        """Wait until fewer studies than the limit are in flight, then count one more."""
        with self._changed:
            if self._clock() - self._refreshed > self._refresh_s:
                self._refresh_limit()
            while self._count >= self._limit:
                if not self._changed.wait(self._refresh_s):
                    self._refresh_limit()
            self._count += 1

    def release(self) -> None:
        """Count one study less."""
        with self._changed:
            self._count -= 1
            self._changed.notify()


@contextmanager
def _muted_logs() -> Iterator[None]:
    """Mute Dask's messages about connections that open and close: real failures raise exceptions."""
    levels = {name: logging.getLogger(name).level for name in _MUTED_LOGGERS}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def _ignore_sigint() -> Iterator[None]:
    """Processes started in this block ignore Ctrl-C, which a terminal sends to the whole process group.

    The parent process handles it and ends them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signal handlers
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
