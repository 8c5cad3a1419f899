"""Build a store: workers write rows concurrently, and each commit makes one version."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy.typing as npt
from pydantic import ValidationError

from spine_etl.errors import CommitConflict, StoreFingerprintDiffers, StoreNotFound
from spine_etl.recipe import Recipe
from spine_etl.store.location import Location, open_location
from spine_etl.store.reader import Store, commit_key, newest_commit, read_root
from spine_etl.store.record import Record
from spine_etl.store.schema import ATTRIBUTES, encode_group, group_metadata, root_attributes, row_arrays
from spine_etl.store.table import DIMENSIONS, NO_FOLD, VersionTable, table_from_records

_MAX_COMMIT_TRIES = 20
_WRITE_THREADS = 8


class StoreWriter:
    """Writes to a store, which it creates if needed. Small and picklable: each worker gets a copy.

    Raises
    ------
    StoreFingerprintDiffers
        If the store was built with another recipe, or by code that computes different numbers.
    StoreNotFound
        If there is something other than a store.
    """

    def __init__(self, store: str | Path, recipe: Recipe) -> None:
        self.location: Location = open_location(store)
        self.recipe = recipe
        self.arrays = row_arrays(recipe)
        self._prepare()

    def _prepare(self) -> None:
        if not self.location.exists("zarr.json"):
            self._create()
        try:
            attributes = json.loads(self.location.read("zarr.json"))["attributes"][ATTRIBUTES]
            fingerprint: str = attributes["fingerprint"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreNotFound(f"{self.location} is not a spine-etl store.") from error
        if fingerprint != self.recipe.fingerprint:
            raise StoreFingerprintDiffers(
                f"{self.location} has the fingerprint {fingerprint[:12]}, "
                f"this recipe {self.recipe.fingerprint[:12]}."
            )
        self.publish()  # completes a build that was killed between commit and publish

    def _create(self) -> None:
        """Create an empty store, its root last. Another build can do the same at the same time."""
        objects = {f"{array.name}/zarr.json": array.metadata(rows=0) for array in self.arrays.values()}
        objects |= {f"{group}/zarr.json": group_metadata({}) for group in ("overview", "studies", "versions")}
        objects["zarr.json"] = group_metadata(root_attributes(self.recipe, None))
        for key, content in objects.items():
            with contextlib.suppress(FileExistsError):
                self.location.create(key, content)

    def latest(self) -> Store | None:
        """The newest committed version, None if there is none."""
        root = read_root(self.location)
        commit = newest_commit(self.location, root.latest)
        return Store(self.location, root, commit) if commit else None

    def record(self, uid: str) -> Record | None:
        """The study's record with this fingerprint, None if it is missing, unreadable or another study's."""
        try:
            record = Record.model_validate_json(self.location.read(Record.key(uid)))
        except (FileNotFoundError, ValidationError):
            return None
        is_expected = (record.uid, record.fingerprint) == (uid, self.recipe.fingerprint)
        return record if is_expected else None

    def write_row(self, first: int, voxels: Mapping[str, npt.NDArray[Any]]) -> tuple[int, dict[str, str]]:
        """Write a study's four arrays to a new row: ``first``, or the next free one after it.

        The image object is created exclusively, which reserves the row: two builds never share one.

        Returns
        -------
        row, digests
            The row, and the SHA-256 of each object by name.
        """
        with ThreadPoolExecutor(_WRITE_THREADS) as pool:
            # Encoding and hashing release the GIL and flushing waits for the disk, so they run concurrently.
            # Never on the main thread: there blosc uses threads of its own, which place a row's blocks in any
            # order, so that the same voxels would have other bytes each time.
            encoding = {name: pool.submit(array.encode, voxels[name]) for name, array in self.arrays.items()}
            image = encoding.pop("image").result()
            hashing = {"image": pool.submit(_sha256, image)}
            row = self._write_to_free_row(first, image)
            for name, encoded in encoding.items():
                hashing[name] = pool.submit(_sha256, encoded.result())
                self.location.write(self.arrays[name].key(row), encoded.result())
            return row, {name: digest.result() for name, digest in hashing.items()}

    def _write_to_free_row(self, first: int, image: bytes) -> int:
        """Create the image object in the first free row from ``first`` on; returns the row."""
        row = first
        while True:
            key = self.arrays["image"].key(row)
            # Checking first is cheap; a failed `create` would send the whole image.
            if not self.location.exists(key):
                with contextlib.suppress(FileExistsError):
                    self.location.create(key, image)
                    return row
            row += 1

    def write_record(self, record: Record) -> None:
        """Write a study's record. Call it after `write_row`: a record implies that its row is complete."""
        self.location.write(Record.key(record.uid), record.model_dump_json(indent=1).encode())

    def commit(self, records: Sequence[Record]) -> Store:
        """Commit a new version: the newest one with these records added, replaced or refused.

        If nothing differs from the newest version, that version is returned and no new one is made. If
        another build commits at the same time, its version is kept and this one is added to it.

        Raises
        ------
        CommitConflict
            If other builds commit first twenty times in a row.
        """
        for _ in range(_MAX_COMMIT_TRIES):
            base = self.latest()
            table, refused = self._merge(base, records)
            digest = _root_digest(self.recipe.fingerprint, table, refused)
            if base is not None and base.root_digest == digest:
                return base
            version, rows = (1, 0) if base is None else (base.version + 1, base.rows)
            commit = self._write_version(version, digest, table, refused, rows)
            try:
                self.location.create(commit_key(version), group_metadata(commit))
            except FileExistsError:
                continue
            self.publish()
            return Store(self.location, read_root(self.location), commit)
        raise CommitConflict(f"version {version} of {self.location} was committed by another build.")

    def _merge(
        self, base: Store | None, records: Sequence[Record]
    ) -> tuple[VersionTable, list[dict[str, Any]]]:
        """The base's table and list of refused studies, updated with the records.

        A study that is refused leaves the table but keeps its fold. If the refusal is transient and the base
        has the study, it stays as it is: a network failure must not remove studies.
        """
        levels = list(self.recipe.levels)
        table = table_from_records([], levels) if base is None else base.table
        refused = {entry["uid"]: entry for entry in ([] if base is None else base.refused)}
        folds = {uid: entry["fold"] for uid, entry in refused.items()}
        folds |= dict(zip(table.study_uids, table["fold"].tolist(), strict=True))
        in_base = set(table.study_uids)
        for record in records:
            if record.refusal and record.refusal.transient and record.uid in in_base:
                continue
            refused.pop(record.uid, None)
            if record.refusal:
                entry = record.refusal.model_dump(include={"code", "reason", "action"})
                refused[record.uid] = {"uid": record.uid, "fold": folds.get(record.uid, NO_FOLD), **entry}
        table = table.without(set(refused)).updated(
            table_from_records(records, levels), folds, self.recipe.folds
        )
        return table, [refused[uid] for uid in sorted(refused)]

    def _write_version(
        self, version: int, digest: str, table: VersionTable, refused: list[dict[str, Any]], rows: int
    ) -> dict[str, Any]:
        table_digest = table.digest(with_rows=True)
        # The root digest does not cover rows, so it cannot name the folder: a concurrent build of the same
        # studies has the same root digest but other rows, and would overwrite this table.
        folder = hashlib.sha256(json.dumps([table_digest, refused]).encode()).hexdigest()[:16]
        commit = {
            "version": version,
            "path": f"versions/{version}/{folder}",
            "root_digest": digest,
            "table_digest": table_digest,
            "studies": len(table),
            "rows": max(rows, table.rows),  # older versions still use the rows of removed studies
        }
        attributes = {**commit, "fingerprint": self.recipe.fingerprint, "refused": refused}
        columns = {name: (table[name], axes) for name, axes in DIMENSIONS.items()}
        objects = encode_group(attributes, columns)
        keys = [f"{commit['path']}/{key}" for key in objects]
        with ThreadPoolExecutor(_WRITE_THREADS) as pool:  # flushing many small files is mostly waiting
            list(pool.map(self.location.write, keys, objects.values()))
        return commit

    def publish(self) -> None:
        """Update the root and the arrays' shapes to the newest commit. Safe to repeat at any time."""
        while True:
            latest = read_root(self.location).latest
            commit = newest_commit(self.location, latest)
            if commit is None:
                return
            for array in self.arrays.values():
                content = array.metadata(commit["rows"])
                if self.location.read(f"{array.name}/zarr.json") != content:
                    self.location.write(f"{array.name}/zarr.json", content)
            if latest == commit["version"]:
                return
            summary = {key: commit[key] for key in ("version", "path", "root_digest", "studies")}
            self.location.write("zarr.json", group_metadata(root_attributes(self.recipe, summary)))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _root_digest(fingerprint: str, table: VersionTable, refused: list[dict[str, Any]]) -> str:
    refusals = [[entry["uid"], entry["code"]] for entry in refused]
    content = [fingerprint, table.digest(with_rows=False), refusals]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
