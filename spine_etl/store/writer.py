"""Build a store: workers write rows concurrently, and each commit makes one version."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy.typing as npt
from pydantic import ValidationError

from spine_etl.errors import CommitConflict, StoreFingerprintDiffers
from spine_etl.recipe import Recipe
from spine_etl.store.arrays import row_arrays
from spine_etl.store.location import Location, open_location
from spine_etl.store.reader import Store, commit_key, newest_commit, read_root
from spine_etl.store.record import Record, StoredObject
from spine_etl.store.rows import encode_table, level_coordinate, root_digest
from spine_etl.store.schema import Json, group_json, json_bytes, root_json
from spine_etl.store.table import NO_FOLD, Folds, VersionTable, table_from_records

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
    StoreSchemaUnsupported
        If the store has another schema version.
    """

    def __init__(self, store: str | Path, recipe: Recipe) -> None:
        self.location: Location = open_location(store)
        self.recipe = recipe
        self.arrays = row_arrays(recipe)
        self._prepare()

    def _prepare(self) -> None:
        if not self.location.exists("zarr.json"):
            self._create()
        fingerprint = read_root(self.location).fingerprint
        if fingerprint != self.recipe.fingerprint:
            raise StoreFingerprintDiffers(
                f"{self.location} has the fingerprint {fingerprint[:12]}, "
                f"this recipe {self.recipe.fingerprint[:12]}."
            )
        self.publish()  # completes a build that was killed between commit and publish

    def _create(self) -> None:
        """Create an empty store, its root last. Another build can do the same at the same time."""
        members = self._members(rows=0)
        objects = {f"{path}/zarr.json": json_bytes(member) for path, member in members.items()}
        objects |= {f"{group}/zarr.json": json_bytes(group_json({})) for group in ("studies", "versions")}
        objects |= level_coordinate(list(self.recipe.levels))
        objects["zarr.json"] = json_bytes(root_json(self.recipe, None, members))
        for key, content in objects.items():
            with contextlib.suppress(FileExistsError):
                self.location.create(key, content)

    def _members(self, rows: int) -> dict[str, Json]:
        """The metadata, by path, of the arrays of voxels and of the group of overviews."""
        arrays = {array.name: array.metadata(rows) for array in self.arrays.values()}
        level = json.loads(level_coordinate(list(self.recipe.levels))["level/zarr.json"])
        return {"level": level, "overview": group_json({}), **arrays}

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

    def write_row(
        self, first: int, voxels: Mapping[str, npt.NDArray[Any]]
    ) -> tuple[int, dict[str, StoredObject]]:
        """Write a study's four arrays to a new row: ``first``, or the next free one after it.

        The image object is created exclusively, which reserves the row: two builds never share one.

        Returns
        -------
        row, objects
            The row, and the checksums of each object by name.
        """
        with ThreadPoolExecutor(_WRITE_THREADS) as pool:
            # Encoding and hashing release the GIL and flushing waits for the disk, so they run concurrently.
            # Never on the main thread: there blosc uses threads of its own, which place a row's blocks in any
            # order, so that the same voxels would have other bytes each time.
            encoding = {name: pool.submit(array.encode, voxels[name]) for name, array in self.arrays.items()}
            image, _ = encoding["image"].result()
            hashing = {"image": pool.submit(_sha256, image)}
            row = self._write_to_free_row(first, image)
            for name in [name for name in self.arrays if name != "image"]:
                content, _ = encoding[name].result()
                hashing[name] = pool.submit(_sha256, content)
                self.location.write(self.arrays[name].key(row), content)
            objects = {
                name: StoredObject(sha256=hashing[name].result(), crc32c=encoding[name].result()[1])
                for name in self.arrays
            }
            return row, objects

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

    def commit(self, records: Sequence[Record], folds: Mapping[str, int] | None = None) -> Store:
        """Commit a new version: the newest one with these records added, replaced or refused.

        If nothing differs from the newest version, that version is returned and no new one is made. If
        another build commits at the same time, its version is kept and this one is added to it.

        Parameters
        ----------
        records
            The records of the studies that are new, changed or refused.
        folds
            The fold of each study by UID, from 0. Without it, studies keep their folds. Studies that have
            none get one, so that the studies of each label are distributed evenly.

        Raises
        ------
        CommitConflict
            If other builds commit first twenty times in a row.
        """
        for _ in range(_MAX_COMMIT_TRIES):
            base = self.latest()
            division = self._division(base, folds)
            table, refused = self._merge(base, records, folds or {}, division)
            columns = table.digests()
            digest = root_digest(self.recipe.fingerprint, division, columns, refused)
            if base is not None and base.root_digest == digest:
                return base
            version, rows = (1, 0) if base is None else (base.version + 1, base.rows)
            commit = {
                "version": version,
                "root_digest": digest,
                "studies": len(table),
                "rows": max(rows, table.rows),  # older versions still use the rows of removed studies
                "folds": asdict(division),
                "columns": columns,
            }
            commit |= self._write_table(commit, table, refused)
            try:
                self.location.create(commit_key(version), json_bytes(group_json(commit)))
            except FileExistsError:
                continue
            self.publish()
            return Store(self.location, read_root(self.location), commit)
        raise CommitConflict(f"version {version} of {self.location} was committed by another build.")

    def _division(self, base: Store | None, folds: Mapping[str, int] | None) -> Folds:
        """How the next version is divided into folds: as given, as before, or as the recipe says."""
        if folds is not None:
            content = json.dumps(sorted(folds.items())).encode()
            return Folds(1 + max(folds.values(), default=self.recipe.folds - 1), _sha256(content))
        if base is not None and base.folds.file:
            return base.folds
        return Folds(self.recipe.folds)

    def _merge(
        self, base: Store | None, records: Sequence[Record], folds: Mapping[str, int], division: Folds
    ) -> tuple[VersionTable, list[dict[str, Any]]]:
        """The base's table and list of refused studies, updated with the records.

        A study that is refused leaves the table but keeps its fold. If the refusal is transient and the base
        has the study, it stays as it is: a network failure must not remove studies. Studies keep their folds
        unless the division changes.
        """
        table = table_from_records([], self.recipe) if base is None else base.table
        refused = {entry["uid"]: entry for entry in ([] if base is None else base.refused)}
        known_folds = {}
        if base is not None and base.folds == division:
            known_folds = {uid: entry["fold"] for uid, entry in refused.items()}
            known_folds |= dict(zip(table.study_uids, table["fold"].tolist(), strict=True))
        known_folds |= folds
        in_base = set(table.study_uids)
        for record in records:
            if record.refusal and record.refusal.transient and record.uid in in_base:
                continue
            refused.pop(record.uid, None)
            if record.refusal:
                entry = record.refusal.model_dump(include={"code", "reason", "action"})
                refused[record.uid] = {"uid": record.uid, **entry}
        refusals = [{**refused[uid], "fold": known_folds.get(uid, NO_FOLD)} for uid in sorted(refused)]
        newer = table_from_records(records, self.recipe)
        return table.without(set(refused)).updated(newer, known_folds, division.count), refusals

    def _write_table(self, commit: Json, table: VersionTable, refused: list[dict[str, Any]]) -> Json:
        """Write a version's table; returns its path, and the SHA-256 of each of its objects."""
        attributes = {
            "version": commit["version"], "fingerprint": self.recipe.fingerprint, "refused": refused,
        }  # fmt: skip
        objects = encode_table(table, commit["rows"], list(self.recipe.levels), attributes)
        digests = {key: _sha256(content) for key, content in objects.items()}
        # The root digest does not cover rows, so it cannot name the folder: a concurrent build of the same
        # studies has the same root digest but other rows, and would overwrite this table.
        path = f"versions/{commit['version']}/{_sha256(json.dumps(digests).encode())[:16]}"
        keys = [f"{path}/{key}" for key in objects]
        with ThreadPoolExecutor(_WRITE_THREADS) as pool:  # flushing many small files is mostly waiting
            list(pool.map(self.location.write, keys, objects.values()))
        return {"path": path, "objects": digests}

    def publish(self) -> None:
        """Update the root and the arrays' shapes to the newest commit. Safe to repeat at any time."""
        while True:
            latest = read_root(self.location).latest
            commit = newest_commit(self.location, latest)
            if commit is None:
                return
            for array in self.arrays.values():
                content = json_bytes(array.metadata(commit["rows"]))
                if self.location.read(f"{array.name}/zarr.json") != content:
                    self.location.write(f"{array.name}/zarr.json", content)
            if latest == commit["version"]:
                return
            summary = {key: commit[key] for key in ("version", "path", "root_digest", "studies", "rows")}
            members = {**self._members(commit["rows"]), **self._table_members(commit)}
            self.location.write("zarr.json", json_bytes(root_json(self.recipe, summary, members)))

    def _table_members(self, commit: Json) -> dict[str, Json]:
        """The metadata, by path, of a version's table and of the groups above it."""
        version_path, path = f"versions/{commit['version']}", commit["path"]
        paths = [
            f"{path}/{key.removesuffix('/zarr.json')}" for key in commit["objects"] if "/zarr.json" in key
        ]
        paths = ["versions", version_path, path, *paths]
        with ThreadPoolExecutor(_WRITE_THREADS) as pool:  # the store can be remote
            contents = pool.map(self.location.read, [f"{path}/zarr.json" for path in paths])
            return {path: json.loads(content) for path, content in zip(paths, contents, strict=True)}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
