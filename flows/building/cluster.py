"""Where the work runs: a local Dask cluster of processes, or one that is given, and how much goes there."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import dask
from dask.distributed import Client, LocalCluster

from spine_etl.errors import SchedulerLost

TRIES = 3
"""Workers that a study may take with it before it is refused. A given scheduler has its own number."""

_LOOK_EVERY_S = 5.0


@contextmanager
def connect(workers: int, scheduler: str | None = None) -> Iterator[Client]:
    """A Dask client.

    Parameters
    ----------
    workers
        Processes of the local cluster, one thread each: a process is the sandbox of a study's pixels.
    scheduler
        ``tcp://host:port`` of a running scheduler (``tls://`` with Dask's own settings); then nothing is
        started.

    Raises
    ------
    SchedulerLost
        If the given scheduler does not answer.
    """
    settings = {
        "distributed.scheduler.allowed-failures": TRIES - 1,
        # A study that merely waits on a worker must not lose a try with it: it waits at the scheduler.
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.admin.tick.limit": "30s",  # a worker in a long numba call is not a fault
        # Workers keep the memory of a study for the next one: handing 300 MB back and getting it anew,
        # page by page, costs as much as sampling the crops.
        "distributed.nanny.pre-spawn-environ": {
            **dask.config.get("distributed.nanny.pre-spawn-environ"),
            "MALLOC_MMAP_MAX_": "0",
            "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
        },
    }
    # What Dask tells of its comings and goings is no news; what matters comes as an exception.
    for name in ("distributed", "distributed.client", "tornado", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with dask.config.set(settings):
        if scheduler:
            with _client_of(scheduler) as client:
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


def _client_of(scheduler: str) -> Client:
    try:
        return Client(scheduler, timeout=10)
    except (OSError, ValueError, TypeError) as error:  # no answer; no address; tls:// without its settings
        raise SchedulerLost(f"{scheduler} does not answer, or not to these TLS settings.") from error


class Window:
    """Room for the studies in flight: twice as many as the cluster has threads at this moment.

    So no worker is ever without work, and no more waits at the scheduler than that. Workers that come and go
    make the window wider and narrower.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._in_flight, self._room = 0, 2
        self._changed = threading.Condition()
        self._look()

    def _look(self) -> None:
        with suppress(Exception):  # of a lost scheduler the studies in flight tell
            self._room = max(2, 2 * sum(self._client.nthreads().values()))
        self._looked = time.monotonic()

    def enter(self) -> None:
        """Wait for room, and take it."""
        with self._changed:
            if time.monotonic() - self._looked > _LOOK_EVERY_S:
                self._look()
            while self._in_flight >= self._room:
                if not self._changed.wait(_LOOK_EVERY_S):
                    self._look()
            self._in_flight += 1

    def leave(self) -> None:
        """Give the room back."""
        with self._changed:
            self._in_flight -= 1
            self._changed.notify()


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
