"""A store with a past: a refusal, an update, a new study and a row that belongs to none."""

from __future__ import annotations

from pathlib import Path

from spine_etl.errors import StudyWarning
from spine_etl.store import Store
from spine_etl.store.writer import StoreWriter
from tests.store.tiny import RECIPE, refused_record, voxels, write_study

SEEDS = {0: ("1.1", 1), 2: ("1.3", 3), 3: ("1.4", 4), 5: ("1.10", 10), 6: ("1.2", 12)}
"""UID and seed of the study in each row of the newest version; odd seeds are fractured at C1."""
RUNS = {"C1": ((3, 7), (9, 9)), "C2": ((8, 12),)}
"""Slices that show a level in study 1.10."""
ROWS = 7
"""Rows 1 and 4 are in no version any more, or never were."""


def write_history(root: Path) -> Store:
    """Three versions; the newest holds the studies of `SEEDS`."""
    writer = StoreWriter(root, RECIPE)
    writer.commit([write_study(writer, f"1.{n}", n, positive=n % 2) for n in range(1, 5)])
    writer.commit([refused_record("1.2")])
    writer.write_row(0, voxels(99))  # a build that was killed before it wrote the record
    warned = write_study(writer, "1.10", 10).model_copy(
        update={
            "warnings": (StudyWarning("SLICES_UNEVEN", "uneven."),),
            "mask_name": "of ten",
            "slice_runs": RUNS,
        }
    )
    return writer.commit([warned, write_study(writer, "1.2", 12)])
