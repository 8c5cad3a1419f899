"""The limit of studies in flight, for clusters of given numbers of threads and by a given clock."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pytest

from flows.building.cluster import StudiesInFlight


class Workers:
    """Stands for a Dask client; ``reads`` counts how often it was asked."""

    def __init__(self, *threads: int) -> None:
        self.threads, self.reads, self.lost = threads, 0, False

    def nthreads(self) -> Mapping[str, int]:
        self.reads += 1
        if self.lost:
            raise OSError("the scheduler is lost")
        return {f"tcp://127.0.0.1:{port}": count for port, count in enumerate(self.threads)}


class Acquiring:
    """Acquires in another thread."""

    def __init__(self, in_flight: StudiesInFlight) -> None:
        self._acquired = threading.Event()
        threading.Thread(target=lambda: (in_flight.acquire(), self._acquired.set()), daemon=True).start()

    def within(self, seconds: float) -> bool:
        return self._acquired.wait(seconds)


@pytest.mark.parametrize(
    ("threads", "limit"), [((), 2), ((1,), 2), ((2,), 4), ((1, 1), 4), ((1, 1, 1), 6), ((4, 3), 14)]
)
def test_twice_as_many_studies_as_threads_are_in_flight(threads: tuple[int, ...], limit: int) -> None:
    in_flight = StudiesInFlight(Workers(*threads))
    for _ in range(limit):
        assert Acquiring(in_flight).within(10)
    one_more, another = Acquiring(in_flight), Acquiring(in_flight)
    assert not one_more.within(0.1)
    assert not another.within(0.1)
    in_flight.release()
    assert one_more.within(10) != another.within(0.1)  # one of them only


def test_the_cluster_is_read_again_after_five_seconds() -> None:
    workers, now = Workers(100), [1000.0]
    in_flight = StudiesInFlight(workers, clock=lambda: now[0])
    for time, reads in [(0, 1), (4.9, 1), (5.0, 1), (5.1, 2), (5.2, 2), (10.0, 2), (10.1, 2), (10.2, 3)]:
        now[0] = 1000 + time
        in_flight.acquire()
        assert workers.reads == reads, time


@pytest.mark.parametrize(("before", "after", "limit"), [((1,), (1, 1), 4), ((1, 1), (1,), 2)])
def test_the_limit_follows_the_workers(before: tuple[int, ...], after: tuple[int, ...], limit: int) -> None:
    workers, now = Workers(*before), [0.0]
    in_flight = StudiesInFlight(workers, clock=lambda: now[0])
    workers.threads, now[0] = after, 5.1
    for _ in range(limit):
        assert Acquiring(in_flight).within(10)
    assert not Acquiring(in_flight).within(0.1)


def test_a_waiting_study_starts_when_a_worker_joins() -> None:
    workers = Workers(1)
    in_flight = StudiesInFlight(workers, refresh_s=0.05)
    in_flight.acquire()
    in_flight.acquire()
    waiting = Acquiring(in_flight)
    assert not waiting.within(0.2)
    workers.threads = (1, 1)
    assert waiting.within(10)


def test_the_limit_stays_if_the_scheduler_is_lost() -> None:
    workers, now = Workers(1, 1), [0.0]
    in_flight = StudiesInFlight(workers, clock=lambda: now[0])
    workers.lost, now[0] = True, 5.1
    for _ in range(4):
        assert Acquiring(in_flight).within(10)
    assert not Acquiring(in_flight).within(0.1)
