"""Compare each committed object with its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from spine_etl.errors import ChunkCorrupt, ChunkMissing, SpineError
from spine_etl.store.arrays import ARRAY_NAMES
from spine_etl.store.reader import Store


def check_study(store: Store, study: int) -> Iterator[SpineError]:
    """Yield an error for each of a study's four objects that is missing or differs from the committed one."""
    uid = store.study_uids[study]
    for position, name in enumerate(ARRAY_NAMES):
        array = store.arrays[name]
        try:
            content = store.read_object(array, study)
            if hashlib.sha256(content).digest() != store.table["sha256"][study, position].tobytes():
                key = array.key(int(store.table["row"][study]))
                raise ChunkCorrupt(f"{key}: its SHA-256 differs from the committed one.", study=uid)
            store.read(name, study)
        except SpineError as error:
            yield error


def check_table(store: Store) -> Iterator[SpineError]:
    """Yield an error for each object of the version's table that is missing or differs.

    Opening a version compares only those that it reads: not the text of UIDs, nor columns of later releases.
    """
    path: str = store.commit["path"]
    for name, digest in store.commit["objects"].items():
        key = f"{path}/{name}"
        try:
            if hashlib.sha256(store.location.read(key)).hexdigest() != digest:
                yield ChunkCorrupt(f"{key}: its SHA-256 differs from the committed one.")
        except SpineError as error:
            yield error
        except FileNotFoundError:
            yield ChunkMissing(f"{key} is missing.")


def check_store(store: Store) -> Iterator[SpineError]:
    """Yield the errors of a version's table and all its studies; none if every object is as committed."""
    yield from check_table(store)
    for study in range(len(store)):
        yield from check_study(store, study)
