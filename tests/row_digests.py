"""Store a study several times and print the digest of each row and record, for `test_reproducibility`.

Run as ``python -m tests.row_digests SOURCE STORE [zarr] [shuffled] [spawn]``.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from spine_etl.pipeline import process_study
from spine_etl.recipe import Recipe
from spine_etl.source.files import LocalFile, LocalFolder
from spine_etl.source.layout import discover_studies
from spine_etl.store.writer import StoreWriter
from spine_etl.study_record import source_digest

RECIPE = Recipe.model_validate(
    {
        "name": "reproduced",
        "levels": {f"C{number}": number for number in range(1, 8)},
        "other_labels": {f"T{number}": 7 + number for number in range(1, 13)},
        # Large enough that blosc packs a row in several blocks, which its threads could place in any order.
        "crop": {"spacing_mm": 1.0, "shape": [48, 64, 64]},
        "overview": {"spacing_mm": 4.0, "shape": [64, 64, 64]},
    }
)
OBJECTS = ("image/c/{}/0/0/0/0", "mask/c/{}/0/0/0/0", "overview/image/c/{}/0/0/0", "overview/mask/c/{}/0/0/0")


@dataclass(frozen=True)
class ShuffledFolder(LocalFolder):
    """A folder that lists its files in another order each time."""

    def files(self) -> list[LocalFile]:
        files = super().files()
        random.shuffle(files)
        return files


def stored(source: str, store: str, threads: int = 1, shuffled: bool = False) -> str:
    """SHA-256 of the four objects of a new row, read from the disk, and of the record without its row."""
    (study,) = discover_studies(source, list(RECIPE.levels))
    if shuffled:
        study = replace(study, folder=ShuffledFolder(Path(source) / "train_images" / study.uid))
    record = process_study(study, StoreWriter(store, RECIPE), threads=threads)
    assert record.refusal is None, record.refusal
    assert source_digest(study, threads=threads) == record.source_digest
    running = hashlib.sha256(record.model_copy(update={"row": 0}).model_dump_json().encode())
    for key in OBJECTS:
        running.update((Path(store) / key.format(record.row)).read_bytes())
    return running.hexdigest()


def main(source: str, store: str, *options: str) -> None:
    if "zarr" in options:
        import zarr  # noqa: F401 - it switches blosc's threads off
    elif any(name.partition(".")[0] == "zarr" for name in sys.modules):
        sys.exit("zarr is imported already")
    shuffled = "shuffled" in options
    digests = [("main thread", stored(source, store, 1, shuffled)) for _ in range(2)]
    with ThreadPoolExecutor(4) as pool:
        digests.append(("thread", pool.submit(stored, source, store, 1, shuffled).result()))
        futures = [pool.submit(stored, source, store, threads, shuffled) for threads in (1, 1, 2, 3)]
        digests += [("four threads", future.result()) for future in futures]
    if "spawn" in options:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
            digests.append(("spawned", processes.submit(stored, source, store).result()))
    for where, digest in digests:
        print(f"{where}: {digest}")


if __name__ == "__main__":
    os.umask(int(os.environ.get("TEST_UMASK", "022"), 8))
    main(*sys.argv[1:])
