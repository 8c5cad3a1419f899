"""Building a store: rows by many workers at once, versions by one commit at a time."""

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

_COMMIT_TRIES = 20
_WRITERS = 8


class StoreWriter:
    """The way into a store for one build. Light and picklable: a worker gets a copy.

    Raises
    ------
    StoreFingerprintDiffers
        If the store was built with another recipe, or by code whose numbers differ.
    StoreNotFound
        If something else than a store lies there.
    """

    def __init__(self, store: str | Path, recipe: Recipe) -> None:
        self.location: Location = open_location(store)
        self.recipe = recipe
        self.arrays = row_arrays(recipe)
        self._prepare()

    def _prepare(self) -> None:
        if not self.location.exists("zarr.json"):
            self._found()
        try:
            found = json.loads(self.location.read("zarr.json"))["attributes"][ATTRIBUTES]["fingerprint"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreNotFound(f"{self.location} holds something else than a store.") from error
        wanted = self.recipe.fingerprint
        if found != wanted:
            raise StoreFingerprintDiffers(
                f"{self.location} has the fingerprint {found[:12]}, this recipe {wanted[:12]}."
            )
        self.publish()  # a build that was killed between commit and publishing is completed here

    def _found(self) -> None:
        """Lay the empty store out, its root last. Another build may do the same at this moment."""
        objects = {f"{array.name}/zarr.json": array.metadata(rows=0) for array in self.arrays.values()}
        objects |= {f"{group}/zarr.json": group_metadata({}) for group in ("overview", "studies", "versions")}
        objects["zarr.json"] = group_metadata(root_attributes(self.recipe, None))
        for key, content in objects.items():
            with contextlib.suppress(FileExistsError):
                self.location.create(key, content)

    def latest(self) -> Store | None:
        """The newest committed version, None where there is none."""
        root = read_root(self.location)
        commit = newest_commit(self.location, root.latest)
        return Store(self.location, root, commit) if commit else None

    def record(self, uid: str) -> Record | None:
        """The study's record under this fingerprint, None where there is none that can be read."""
        try:
            record = Record.model_validate_json(self.location.read(Record.key(uid)))
        except (FileNotFoundError, ValidationError):
            return None
        return record if record.fingerprint == self.recipe.fingerprint else None

    def write_row(self, first: int, voxels: Mapping[str, npt.NDArray[Any]]) -> tuple[int, dict[str, str]]:
        """Store a study's four arrays in a row of its own, ``first`` or the next free one after it.

        The image object is made exclusively, and by that claims the row: two builds never share one.

        Returns
        -------
        row, digests
            The row, and the SHA-256 of each object by name.
        """
        with ThreadPoolExecutor(_WRITERS) as pool:
            # Encoding and hashing release the interpreter lock, and flushing waits: side by side.
            encoding = {
                name: pool.submit(array.encode, voxels[name])
                for name, array in self.arrays.items()
                if name != "image"
            }
            image = self.arrays["image"].encode(voxels["image"])
            hashing = {"image": pool.submit(_sha256, image)}
            row = self._claim_row(first, image)
            for name, encoded in encoding.items():
                hashing[name] = pool.submit(_sha256, encoded.result())
                self.location.write(self.arrays[name].key(row), encoded.result())
            return row, {name: digest.result() for name, digest in hashing.items()}

    def _claim_row(self, first: int, image: bytes) -> int:
        row = first
        while True:
            key = self.arrays["image"].key(row)
            # Asked before it is tried, since trying sends the whole image.
            if not self.location.exists(key):
                with contextlib.suppress(FileExistsError):
                    self.location.create(key, image)
                    return row
            row += 1

    def write_record(self, record: Record) -> None:
        """Put the study's record in place; it vouches for the row, so it comes after it."""
        self.location.write(Record.key(record.uid), record.model_dump_json(indent=1).encode())

    def commit(self, records: Sequence[Record]) -> Store:
        """Make the next version: the newest one with those records added, replaced or refused.

        Where nothing differs from the newest version, that one is returned and none is made. Another
        build that commits meanwhile keeps its version, and this one is laid on top of it.

        Raises
        ------
        CommitConflict
            If other builds were faster twenty times in a row.
        """
        for _ in range(_COMMIT_TRIES):
            base = self.latest()
            table, refused = self._next(base, records)
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

    def _next(
        self, base: Store | None, records: Sequence[Record]
    ) -> tuple[VersionTable, list[dict[str, Any]]]:
        """Table and list of the refused. A study that is refused now leaves the table, not its fold.

        One that is here already stays as it is where the refusal is nobody's fault and may have passed by
        the next build: a network that was down must not take studies away.
        """
        levels = list(self.recipe.levels)
        table = table_from_records([], levels) if base is None else base.table
        refused = {entry["uid"]: entry for entry in ([] if base is None else base.refused)}
        folds = {uid: entry["fold"] for uid, entry in refused.items()}
        folds |= dict(zip(table.study_uids, table["fold"].tolist(), strict=True))
        here = set(table.study_uids)
        for record in records:
            if record.refusal and record.refusal.transient and record.uid in here:
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
        # Not by the root digest, which leaves rows out: another build of the same studies has other rows, and
        # what it writes must not replace what this one commits.
        place = hashlib.sha256(json.dumps([table_digest, refused]).encode()).hexdigest()
        commit = {
            "version": version,
            "path": f"versions/{version}/{place[:16]}",
            "root_digest": digest,
            "table_digest": table_digest,
            "studies": len(table),
            "rows": max(rows, table.rows),  # older versions still name the rows of studies that left
        }
        attributes = {**commit, "fingerprint": self.recipe.fingerprint, "refused": refused}
        columns = {name: (table[name], axes) for name, axes in DIMENSIONS.items()}
        objects = encode_group(attributes, columns)
        with ThreadPoolExecutor(_WRITERS) as pool:  # flushing many small files waits more than it works
            list(
                pool.map(
                    self.location.write, [f"{commit['path']}/{key}" for key in objects], objects.values()
                )
            )
        return commit

    def publish(self) -> None:
        """Bring root and array shapes up to the newest commit. Safe to repeat, at any time, by anyone."""
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
            named = {key: commit[key] for key in ("version", "path", "root_digest", "studies")}
            self.location.write("zarr.json", group_metadata(root_attributes(self.recipe, named)))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _root_digest(fingerprint: str, table: VersionTable, refused: list[dict[str, Any]]) -> str:
    left_out = [[entry["uid"], entry["code"]] for entry in refused]
    content = [fingerprint, table.digest(with_rows=False), left_out]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
