"""A build as one value, and its default number of workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from flows.building.request import BuildRequest
from tests.flows.services import ROOT
from tests.store.tiny import RECIPE


def test_the_cores_are_those_that_the_process_may_use() -> None:
    core = min(os.sched_getaffinity(0))
    code = "from flows.building.request import available_cores; print(available_cores())"
    done = subprocess.run(
        ["taskset", "-c", str(core), sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "1\n", done.stderr


def test_its_parameters_are_json() -> None:
    request = BuildRequest("source", "store", RECIPE, 3, "tcp://host:8786", "localizer", settle_s=90)
    parameters = json.loads(json.dumps(request.flow_parameters()))
    assert parameters.pop("recipe")["crop"] == {"spacing_mm": 1.0, "shape": [4, 6, 8]}
    assert parameters == {
        "source": "source", "store": "store", "workers": 3, "dask": "tcp://host:8786",
        "localizer": "localizer", "settle_minutes": 1.5, "masks": None, "label_names": None, "folds": None,
    }  # fmt: skip
