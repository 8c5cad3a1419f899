"""Workers and schedulers that die during a build: real processes end."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from dask.distributed import Client

from spine_etl.phantom import write_phantom
from spine_etl.store import Store, open_store
from tests.flows.commands import build, start, wait
from tests.flows.conftest import Cluster
from tests.flows.deaths import DeathOfWorkers

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


def build_with_deaths(
    cluster: Cluster, phantom: Path, store: Path, times: int
) -> tuple[DeathOfWorkers, int, dict[str, object]]:
    """Build while the first ``times`` workers that start the second study die."""
    uid = sorted((phantom / "train_images").iterdir())[1].name
    deaths = DeathOfWorkers(uid, times, store.with_name("deaths"))
    with Client(cluster.address, timeout=120) as client:
        client.wait_for_workers(2, timeout=120)
        client.register_plugin(deaths)
    status, line, _ = build(phantom, store, "--dask", cluster.address)
    return deaths, status, line


def test_a_study_whose_worker_dies_twice_is_stored(
    cluster: Cluster, phantom: Path, undisturbed: Store, tmp_path: Path
) -> None:
    deaths, status, line = build_with_deaths(cluster, phantom, tmp_path / "store", times=2)
    assert deaths.count() == 2
    assert (status, line["processed"], line["refused"]) == (0, 6, 0)
    assert line["root_digest"] == undisturbed.root_digest


def test_a_study_whose_worker_dies_three_times_is_refused(
    cluster: Cluster, phantom: Path, undisturbed: Store, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    deaths, status, line = build_with_deaths(cluster, phantom, store, times=3)
    assert deaths.count() == 3
    assert (status, line["processed"], line["refused"]) == (3, 5, 1)
    (refused,) = open_store(store).refused
    assert (refused["uid"], refused["code"]) == (deaths.uid, "WORKER_LOST")
    assert refused["reason"] == "3 workers died while processing it."
    # The next run retries it.
    status, line, _ = build(phantom, store, "--dask", cluster.address)
    assert (status, line["processed"], line["unchanged"]) == (0, 1, 5)
    # Its fold differs, since folds are assigned in the order of arrival; its voxels are the same.
    np.testing.assert_array_equal(open_store(store).table["sha256"], undisturbed.table["sha256"])


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
