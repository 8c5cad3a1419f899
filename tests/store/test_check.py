"""Errors that only a comparison with the committed digests finds."""

from __future__ import annotations

from pathlib import Path

from spine_etl.store import Store
from spine_etl.store.check import check_store


def test_object_of_another_study_is_found(store: Store) -> None:
    first, second = (Path(str(store.location)) / store.arrays["image"].key(row) for row in (0, 1))
    first.write_bytes(second.read_bytes())  # complete, with a correct checksum of its own
    assert [(error.code, error.study) for error in check_store(store)] == [("CHUNK_CORRUPT", "1.2")]
