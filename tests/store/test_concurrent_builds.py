"""Concurrent builds into one store: no study and no version is lost."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from spine_etl.store import Store, open_store
from spine_etl.store.check import check_store
from tests.store.tiny import voxels, write_and_commit


def check_studies(store: Store) -> None:
    """Each study has a row of its own with its own voxels."""
    assert len(set(store.table["row"].tolist())) == len(store)
    assert list(check_store(store)) == []
    for index, uid in enumerate(store.study_uids):
        _, name, i = uid.split(".")
        np.testing.assert_array_equal(store.image(index), voxels(10 * int(name) + int(i))["image"])


def test_four_concurrent_builds(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    builds = [context.Process(target=write_and_commit, args=(str(tmp_path), name)) for name in range(4)]
    for build in builds:
        build.start()
    for build in builds:
        build.join()
    assert [build.exitcode for build in builds] == [0] * 4
    store = open_store(tmp_path)
    assert len(store) == 12
    check_studies(store)


@pytest.mark.integration
@pytest.mark.parametrize("rounds", [3, pytest.param(50, marks=pytest.mark.soak)])
@pytest.mark.parametrize("kind", ["disk", "s3"])
def test_rounds_of_two_concurrent_builds(
    kind: str, rounds: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = str(tmp_path) if kind == "disk" else request.getfixturevalue("s3_bucket")
    address = f"{root}/store"
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for number in range(rounds):
            builds = [pool.submit(write_and_commit, address, 2 * number + k) for k in (0, 1)]
            for build in builds:
                build.result()
            store = open_store(address)
            assert len(store) == 6 * (number + 1)
    check_studies(store)
    sizes = [len(open_store(address, version=version)) for version in range(1, store.version + 1)]
    assert sizes == sorted(sizes), "a later version has all studies of an earlier one"
