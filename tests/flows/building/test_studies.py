"""Workers and schedulers that die during a build: real processes are killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from dask.distributed import Client

from spine_etl.phantom import write_phantom
from spine_etl.store import Store, open_store
from tests.flows.commands import build, start, wait
from tests.flows.conftest import Cluster

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("phantom")
    write_phantom(source, 6, 5, size=192, slices=80)
    return source


@pytest.fixture(scope="module")
def undisturbed(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of a build without failures."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    assert build(phantom, store)[0] == 0
    return open_store(store)


class Killer(threading.Thread):
    """Kills the worker process that is processing a given study, a given number of times."""

    def __init__(self, address: str, uid: str, times: int) -> None:
        super().__init__(daemon=True)
        self.address, self.uid, self.times = address, uid, times
        self.killed: list[str] = []
        self.stop = threading.Event()

    def run(self) -> None:
        with Client(self.address) as client:
            while not self.stop.is_set() and len(self.killed) < self.times:
                for worker, keys in client.processing().items():
                    if any(key.startswith(self.uid) for key in keys) and worker not in self.killed:
                        with suppress(Exception):  # the worker may have ended in the meantime
                            (pid,) = client.run(os.getpid, workers=[worker]).values()
                            os.kill(pid, signal.SIGKILL)
                            self.killed.append(worker)
                time.sleep(0.005)


def build_while_killing(
    cluster: Cluster, phantom: Path, store: Path, times: int
) -> tuple[Killer, int, dict[str, object]]:
    killer = Killer(cluster.address, sorted((phantom / "train_images").iterdir())[1].name, times)
    killer.start()
    status, line, _ = build(phantom, store, "--dask", cluster.address)
    killer.stop.set()
    killer.join()
    return killer, status, line


def test_a_study_whose_worker_dies_once_is_retried(
    cluster: Cluster, phantom: Path, undisturbed: Store, tmp_path: Path
) -> None:
    killer, status, line = build_while_killing(cluster, phantom, tmp_path / "store", times=1)
    assert len(killer.killed) == 1
    assert (status, line["processed"], line["refused"]) == (0, 6, 0)
    assert line["root_digest"] == undisturbed.root_digest


def test_a_study_whose_worker_dies_three_times_is_refused(
    cluster: Cluster, phantom: Path, undisturbed: Store, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    killer, status, line = build_while_killing(cluster, phantom, store, times=3)
    assert len(killer.killed) == 3
    assert (status, line["processed"], line["refused"]) == (3, 5, 1)
    (refused,) = open_store(store).refused
    assert (refused["uid"], refused["code"]) == (killer.uid, "WORKER_LOST")
    assert "3 workers died" in refused["reason"]
    # The next run retries it.
    status, line, _ = build(phantom, store, "--dask", cluster.address)
    assert (status, line["processed"], line["unchanged"]) == (0, 1, 5)
    # Its fold differs, since folds are assigned in the order of arrival; its voxels are the same.
    np.testing.assert_array_equal(open_store(store).table["digest"], undisturbed.table["digest"])


def test_a_lost_scheduler_ends_the_run_and_the_next_run_resumes(
    cluster: Cluster, phantom: Path, undisturbed: Store, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    process = start("build_dataset", phantom, "--store", store, "--dask", cluster.address)
    deadline = time.monotonic() + 200
    while len(list(store.glob("studies/*/record.json"))) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    cluster.close()
    status, line, stderr = wait(process)
    assert (status, line["error"]["code"]) == (1, "SCHEDULER_LOST")
    assert stderr.count("SCHEDULER_LOST") == 1
    kept = len(list(store.glob("studies/*/record.json")))
    status, line, _ = build(phantom, store)
    assert (status, line["unchanged"], line["processed"]) == (0, kept, 6 - kept)
    assert line["root_digest"] == undisturbed.root_digest
