"""This project: `process_study`, including digests, checksums, fsync and the record of the study."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numcodecs import blosc

from spine_etl.pipeline import process_study, warm_up
from spine_etl.recipe import Recipe
from spine_etl.source.layout import Study
from spine_etl.store.writer import StoreWriter
from tests.benchmarks.peers import THREADS, Crops


def prepare(study: Study, recipe: Recipe, out: Path) -> Callable[[], Crops]:
    warm_up()
    blosc.set_nthreads(THREADS)
    writer = StoreWriter(out, recipe)

    def run() -> Crops:
        record = process_study(study, writer, threads=THREADS)
        assert record.refusal is None
        return lambda: dict(zip(recipe.levels, _stored_crops(writer, record.row or 0), strict=True))

    return run


def _stored_crops(writer: StoreWriter, row: int) -> npt.NDArray[np.int16]:
    image = writer.arrays["image"]
    return image.decode(writer.location.read(image.key(row)))
