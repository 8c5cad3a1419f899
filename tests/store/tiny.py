"""A store with rows of a few hundred voxels, which is built in milliseconds."""

from __future__ import annotations

import numpy as np

from spine_etl.recipe import Recipe
from spine_etl.store.record import BoxRecord, LevelRecord, Record, Refusal, StoredObject
from spine_etl.store.writer import StoreWriter

RECIPE = Recipe.model_validate(
    {
        "name": "tiny",
        "levels": {"C1": 1, "C2": 2},
        "crop": {"spacing_mm": 1.0, "shape": [4, 6, 8]},
        "overview": {"spacing_mm": 4.0, "shape": [8, 4, 4]},
    }
)
BOX = BoxRecord(x=1, y=2, width=3, height=4, slice_number=7, level="C1", in_crops={"C1": (0, 1, 2, 3, 4, 5)})


def voxels(seed: int) -> dict[str, np.ndarray]:
    """Random arrays of one study, by name."""
    random = np.random.default_rng(seed)
    return {
        "image": random.integers(-1024, 2000, (2, 4, 6, 8)).astype(np.int16),
        "mask": random.integers(0, 3, (2, 4, 6, 8)).astype(np.uint8),
        "overview/image": random.integers(-1024, 2000, (8, 4, 4)).astype(np.int16),
        "overview/mask": random.integers(0, 3, (8, 4, 4)).astype(np.uint8),
    }


def no_objects() -> dict[str, StoredObject]:
    """Checksums of objects that do not exist, for records whose voxels no test reads."""
    chunks = {"image": 2, "mask": 2, "overview/image": 1, "overview/mask": 1}
    return {name: StoredObject(sha256="0" * 64, crc32c=(0,) * n) for name, n in chunks.items()}


def write_study(writer: StoreWriter, uid: str, seed: int, *, positive: int = 0, first: int = 0) -> Record:
    """Write the row and the record of a study with ``voxels(seed)``."""
    row, objects = writer.write_row(first, voxels(seed))
    record = Record(
        uid=uid,
        fingerprint=RECIPE.fingerprint,
        source_digest=f"{seed:064x}",
        row=row,
        objects=objects,
        mask_source="given",
        levels={
            "C1": LevelRecord(status="located", origin_mm=(1.0, 2.0, 3.5), coverage=0.75, volume_mm3=9.0),
            "C2": LevelRecord(status="absent"),
        },
        overview_origin_mm=(-1.0, -2.0, -3.0),
        fracture={"C1": positive, "C2": 0, "patient_overall": positive},
        boxes=(BOX,) if positive else (),
    )
    writer.write_record(record)
    return record


def refused_record(uid: str, *, transient: bool = False) -> Record:
    refusal = Refusal(code="SLICE_GAP", reason="a gap.", action="fix it.", transient=transient)
    return Record(uid=uid, fingerprint=RECIPE.fingerprint, source_digest="0" * 64, refusal=refusal)


def write_and_commit(address: str, name: int, studies: int = 3) -> None:
    """A complete build of studies that no other ``name`` has."""
    writer = StoreWriter(address, RECIPE)
    writer.commit([write_study(writer, f"2.{name}.{i}", 10 * name + i) for i in range(studies)])
