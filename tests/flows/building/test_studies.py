"""Workers and schedulers that die in the middle of a build: real processes, really killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import dask
import numpy as np
import pytest
from dask.distributed import Client

from flows.building.cluster import Window, connect
from spine_etl.errors import SchedulerLost
from spine_etl.phantom import write_phantom
from spine_etl.store import Store, open_store
from tests.flows.commands import build, ended, start

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("phantom")
    write_phantom(source, 6, 5, size=192, slices=80)
    return source


@pytest.fixture(scope="module")
def undisturbed(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """What a build that nothing befalls comes to."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    assert build(phantom, store)[0] == 0
    return open_store(store)


class Killer(threading.Thread):
    """Kills the worker process that has a study in its hands, so many times."""

    def __init__(self, address: str, victim: str, times: int) -> None:
        super().__init__(daemon=True)
        self.address, self.victim, self.times = address, victim, times
        self.killed: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        with Client(self.address) as client:
            while not self.over.is_set() and len(self.killed) < self.times:
                for worker, keys in client.processing().items():
                    if any(key.startswith(self.victim) for key in keys) and worker not in self.killed:
                        with suppress(Exception):  # it may be gone by itself just now
                            (pid,) = client.run(os.getpid, workers=[worker]).values()
                            os.kill(pid, signal.SIGKILL)
                            self.killed.append(worker)
                time.sleep(0.005)


def killing(cluster, phantom: Path, store: Path, times: int) -> tuple[Killer, int, dict[str, object]]:
    killer = Killer(cluster.address, sorted((phantom / "train_images").iterdir())[1].name, times)
    killer.start()
    status, line, _ = build(phantom, store, "--dask", cluster.address)
    killer.over.set()
    killer.join()
    return killer, status, line


def test_a_worker_that_dies_costs_one_try_of_one_study(cluster, phantom, undisturbed, tmp_path) -> None:
    killer, status, line = killing(cluster, phantom, tmp_path / "store", times=1)
    assert len(killer.killed) == 1
    assert (status, line["processed"], line["refused"]) == (0, 6, 0)
    assert line["root_digest"] == undisturbed.root_digest


def test_three_deaths_refuse_the_study_and_no_other(cluster, phantom, undisturbed, tmp_path) -> None:
    store = tmp_path / "store"
    killer, status, line = killing(cluster, phantom, store, times=3)
    assert len(killer.killed) == 3
    assert (status, line["processed"], line["refused"]) == (3, 5, 1)
    (refused,) = open_store(store).refused
    assert (refused["uid"], refused["code"]) == (killer.victim, "WORKER_LOST")
    assert "took 3 workers" in refused["reason"]
    # The next run tries it anew.
    status, line, _ = build(phantom, store, "--dask", cluster.address)
    assert (status, line["processed"], line["unchanged"]) == (0, 1, 5)
    # Its fold is another, since folds are given as studies come; its voxels are the same.
    np.testing.assert_array_equal(open_store(store).table["digest"], undisturbed.table["digest"])


def test_a_scheduler_that_goes_away_ends_the_run_and_the_next_resumes(
    cluster, phantom, undisturbed, tmp_path
) -> None:
    store = tmp_path / "store"
    running = start("build_dataset", phantom, "--store", store, "--dask", cluster.address)
    deadline = time.monotonic() + 200
    while len(list(store.glob("studies/*/record.json"))) < 2:
        assert time.monotonic() < deadline
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    cluster.close()
    status, line, told = ended(running)
    assert (status, line["error"]["code"]) == (1, "SCHEDULER_LOST")
    assert told.count("SCHEDULER_LOST") == 1
    kept = len(list(store.glob("studies/*/record.json")))
    status, line, _ = build(phantom, store)
    assert (status, line["unchanged"], line["processed"]) == (0, kept, 6 - kept)
    assert line["root_digest"] == undisturbed.root_digest


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://a"])
def test_a_scheduler_that_is_not_there(address: str) -> None:
    with pytest.raises(SchedulerLost, match="does not answer"), connect(2, address):
        pass


def test_mutual_tls_is_dasks_own(tls_cluster, tls: dict[str, str]) -> None:
    assert tls_cluster.address.startswith("tls://")
    for stranger in (tls_cluster.address, tls_cluster.address.replace("tls", "tcp")):
        with pytest.raises(SchedulerLost, match="does not answer"), connect(2, stranger):
            pass
    ours = {name.removeprefix("DASK_").replace("__", ".").lower(): value for name, value in tls.items()}
    with dask.config.set(ours), connect(2, tls_cluster.address) as client:
        assert client.submit(abs, -1).result(timeout=60) == 1


def test_the_window_follows_the_cluster(cluster) -> None:
    with Client(cluster.address) as client:
        client.wait_for_workers(2)
        window = Window(client)
        taken = threading.Semaphore(0)

        def take() -> None:
            for _ in range(6):
                window.enter()
                taken.release()

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        assert all(taken.acquire(timeout=10) for _ in range(4))  # two threads: four in flight
        assert not taken.acquire(timeout=0.5)
        window.leave()
        assert taken.acquire(timeout=10)
        more = cluster._start("worker", cluster.address, "--nthreads", "1", "--no-dashboard")
        try:
            assert taken.acquire(timeout=60)  # six, once the third is there
        finally:
            os.killpg(more.pid, signal.SIGKILL)
            more.wait()
