"""`expert_simpleitk`, with the mask read in a second thread while the slices are read."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from spine_etl.recipe import Recipe
from spine_etl.source.layout import Study
from tests.benchmarks.peers import Crops
from tests.benchmarks.peers.expert_simpleitk import configure, cut, read_mask, read_series


def prepare(study: Study, recipe: Recipe, out: Path) -> Callable[[], Crops]:
    configure()

    def run() -> Crops:
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(read_mask, study)
            return cut(read_series(study), *reading.result(), recipe, out)

    return run
