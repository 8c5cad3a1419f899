"""Two builds into one store at once, again and again: nothing is lost, whoever is faster."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from spine_etl.store import open_store
from spine_etl.store.check import check_store
from tests.store.tiny import build_alone, voxels

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("rounds", [3, pytest.param(50, marks=pytest.mark.soak)])
@pytest.mark.parametrize("place", ["disk", "s3"])
def test_two_builds_at_once(place: str, rounds: int, tmp_path, request: pytest.FixtureRequest) -> None:
    root = str(tmp_path) if place == "disk" else request.getfixturevalue("s3_bucket")
    address = f"{root}/store"
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for number in range(rounds):
            builds = [pool.submit(build_alone, address, 2 * number + side) for side in (0, 1)]
            for build in builds:
                build.result()
            store = open_store(address)
            assert len(store) == 6 * (number + 1)
    assert len(set(store.table["row"].tolist())) == len(store)
    assert list(check_store(store)) == []
    for index, uid in enumerate(store.study_uids):
        _, name, i = uid.split(".")
        np.testing.assert_array_equal(store.image(index), voxels(10 * int(name) + int(i))["image"])
    sizes = [len(open_store(address, version=version)) for version in range(1, store.version + 1)]
    assert sizes == sorted(sizes), "a later version holds all that an earlier one does"
