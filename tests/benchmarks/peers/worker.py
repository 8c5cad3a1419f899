"""The process of one peer: for each line on standard input it processes the study once.

python -m tests.benchmarks.peers.worker MODULE SOURCE RECIPE OUT
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
    # Answers use a copy of standard output; file descriptor 1 now leads to standard error, because some
    # libraries print to it.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    recipe, folder = load_recipe(recipe_file), Path(out)
    study = discover_studies(source, list(recipe.levels))[0]
    prepare = importlib.import_module(f"tests.benchmarks.peers.{name}").prepare
    imported_mb = _status_mb("VmRSS")
    for line in sys.stdin:
        _make_empty(folder)
        # One run before the timed one: a process in the middle of a data set is to be measured, with its code
        # loaded and its memory allocated.
        prepare(study, recipe, folder)()
        _make_empty(folder)
        job = prepare(study, recipe, folder)
        cpu_start, start = time.process_time(), time.perf_counter()
        crops = job()
        answer = {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - cpu_start,
            "imported_mb": imported_mb,
            "peak_mb": _status_mb("VmHWM"),
            "written_mb": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6,
        }
        if line.strip():
            np.savez(line.strip(), **crops())
        del job, crops
        print(json.dumps(answer), file=answers)


def _make_empty(folder: Path) -> None:
    """Empty the folder and flush all pending writes to the disk."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.sync()


def _status_mb(field: str) -> float:
    """A memory field of this process in MB; ru_maxrss would include the parent that forked it."""
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return int(match[1]) / 1000


if __name__ == "__main__":
    main(*sys.argv[1:])
