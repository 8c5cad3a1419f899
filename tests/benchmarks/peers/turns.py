"""The process of one contender: works when told to, one study a line.

python -m tests.benchmarks.peers.turns MODULE SOURCE RECIPE OUT
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from spine_etl.recipe import load_recipe
from spine_etl.source.layout import discover_studies


def main(name: str, source: str, recipe_file: str, out: str) -> None:
    # The answers have the pipe for themselves: libraries print to what they think is standard output.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    recipe, folder = load_recipe(recipe_file), Path(out)
    study = discover_studies(source, list(recipe.levels))[0]
    prepare = importlib.import_module(f"tests.benchmarks.peers.{name}").prepare
    imported_mb = _status_mb("VmRSS")
    for line in sys.stdin:
        _fresh(folder)
        # Once off the clock, at once before: what is measured is a process in the midst of a data set, its
        # code loaded and its memory at hand.
        prepare(study, recipe, folder)()
        _fresh(folder)
        job = prepare(study, recipe, folder)
        cpu, began = time.process_time(), time.perf_counter()
        crops = job()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        answer = {"seconds": seconds, "cpu": cpu, "imported_mb": imported_mb, "peak_mb": _status_mb("VmHWM")}
        answer["written_mb"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        if line.strip():
            np.savez(line.strip(), **crops())
        del job, crops
        print(json.dumps(answer), file=answers)


def _fresh(folder: Path) -> None:
    """An empty folder, and nothing on its way to the disk."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.sync()


def _status_mb(field: str) -> float:
    """Of this process alone: the kernel's ru_maxrss would count the parent that it was forked from."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1000


if __name__ == "__main__":
    main(*sys.argv[1:])
