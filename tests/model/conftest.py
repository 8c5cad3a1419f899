"""A small store of random voxels, written with the writer that builds use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.data.transfer import CpuBuffers, CpuTransfer
from spine_etl.recipe import Recipe
from spine_etl.store import Store
from spine_etl.store.record import LevelRecord, Record, StoredObject
from spine_etl.store.writer import StoreWriter

RECIPE = Recipe.model_validate(
    {
        "name": "tiny",
        "levels": {"C1": 1, "C2": 2},
        "crop": {"spacing_mm": 1.0, "shape": [6, 8, 10]},
        "overview": {"spacing_mm": 4.0, "shape": [8, 4, 4]},
        "folds": 3,
    }
)


def voxels(number: int) -> dict[str, np.ndarray]:
    """The arrays of one row, different for each study."""
    random = np.random.default_rng(number)
    return {
        "image": random.integers(-1024, 2000, (2, 6, 8, 10)).astype(np.int16),
        "mask": random.integers(0, 3, (2, 6, 8, 10)).astype(np.uint8),
        "overview/image": random.integers(-1024, 2000, (8, 4, 4)).astype(np.int16),
        "overview/mask": random.integers(0, 3, (8, 4, 4)).astype(np.uint8),
    }


def record(number: int, row: int, objects: dict[str, StoredObject], **fields: Any) -> Record:
    """The record of study ``1.<number>``: both levels located, C1 fractured where ``number`` is odd."""
    positive = number % 2
    fracture = {"C1": positive, "C2": 0, "patient_overall": positive}
    located = LevelRecord(status="located", origin_mm=(0.0, 0.0, 0.0), coverage=1.0, volume_mm3=1.0)
    defaults: dict[str, Any] = {
        "uid": f"1.{number:03d}",
        "fingerprint": RECIPE.fingerprint,
        "source_digest": f"{number:064x}",
        "row": row,
        "objects": objects,
        "mask_source": "given",
        "levels": {"C1": located, "C2": located},
        "fracture": fracture,
    }
    return Record(**{**defaults, **fields})


@pytest.fixture(scope="session")
def build_store() -> Callable[..., Store]:
    """build_store(path, n, {number: fields of its record}): a committed store of studies 1.000 to 1.<n-1>."""

    def build(path: Path | str, studies: int, fields: dict[int, dict[str, Any]] | None = None) -> Store:
        writer = StoreWriter(path, RECIPE)
        records = []
        for number in range(studies):
            row, objects = writer.write_row(number, voxels(number))
            records.append(record(number, row, objects, **(fields or {}).get(number, {})))
        return writer.commit(records)

    return build


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory, build_store: Callable[..., Store]) -> Store:
    """Twelve studies, six of them fractured, two levels, crops of (6, 8, 10), three folds. Read-only."""
    return build_store(tmp_path_factory.mktemp("tiny") / "store", 12)


class CopyingTransfer(CpuTransfer):
    """A transfer into separate buffers, which the reading threads copy into, as on a GPU."""

    def batch_buffers(self, host: Any) -> Any:
        class Buffers(CpuBuffers):
            def start_copy(self, samples: int) -> None:
                for name, buffer in host.items():
                    self.device[name][:samples].copy_(buffer[:samples])

        return Buffers({name: torch.empty_like(buffer) for name, buffer in host.items()})


@pytest.fixture
def copying_transfer(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Returns a function that makes new loaders copy their batches, with `CopyingTransfer`."""
    return lambda: monkeypatch.setattr("model.data.loader.transfer_to", lambda device: CopyingTransfer())
