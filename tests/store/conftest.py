"""A small local store."""

from __future__ import annotations

from pathlib import Path

import pytest

from spine_etl.store import Store, open_store
from spine_etl.store.writer import StoreWriter
from tests.store.tiny import RECIPE, refused_record, write_study


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A version with the studies 1.1 and 1.2, of which 1.2 is fractured, and the refused study 1.3."""
    writer = StoreWriter(tmp_path / "store", RECIPE)
    writer.commit(
        [
            write_study(writer, "1.2", 2, positive=1),
            write_study(writer, "1.1", 1),
            refused_record("1.3"),
        ]
    )
    return open_store(tmp_path / "store")
