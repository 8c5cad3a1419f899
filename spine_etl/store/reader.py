"""Open and read a committed version of a store. Needs only numpy, zarr and pydantic."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from spine_etl.errors import (
    ChunkCorrupt,
    ChunkMissing,
    SpineError,
    StoreForbidden,
    StoreNotCommitted,
    StoreNotFound,
    StoreSchemaUnsupported,
    StudyNotInStore,
)
from spine_etl.geometry import Grid
from spine_etl.recipe import SCHEMA_VERSION, Recipe
from spine_etl.store.arrays import ARRAY_NAMES, RowArray, row_arrays
from spine_etl.store.cache import DigestMismatch, ObjectCache
from spine_etl.store.location import Location, open_location
from spine_etl.store.rows import MissingColumn, decode_table, root_digest, table_keys
from spine_etl.store.schema import ATTRIBUTES, STATUS_LOCATED
from spine_etl.store.table import Folds, VersionTable

_READ_THREADS = 16


@dataclass(frozen=True)
class Root:
    """A store's root: its recipe and fingerprint, and the number of its latest version (0 if none)."""

    recipe: Recipe
    fingerprint: str
    latest: int


class Store:
    """One committed version of a store; later builds do not change it.

    Attributes
    ----------
    recipe, fingerprint
        The recipe of the dataset, and the 64 hex digits that identify recipe and code.
    version, root_digest
        The version's number, and a digest of its contents (64 hex digits).
    rows
        Number of array rows that this version and earlier ones use.
    table
        Labels, folds, boxes and geometry of all studies: a `VersionTable`.
    folds
        How many folds there are, and whether they were given in a file.
    refused
        The studies that were left out: dicts of uid, code, reason, action, fold.
    levels, study_uids
        Names along the level axis, and UIDs in the order of the table.
    commit
        The attributes of the version's commit: docs/store-format.md lists them.
    arrays
        The `RowArray` of each name in `ARRAY_NAMES`.
    """

    def __init__(
        self, location: Location, root: Root, commit: dict[str, Any], cache: ObjectCache | None = None
    ) -> None:
        self.location = location
        self._cache = cache
        self.commit = commit
        self.folds = Folds.of_commit(commit)
        self.recipe = recipe = root.recipe.model_copy(update={"folds": self.folds.count})
        self.fingerprint = root.fingerprint
        self.version: int = commit["version"]
        self.root_digest: str = commit["root_digest"]
        self.rows: int = commit["rows"]
        self.arrays = row_arrays(recipe)
        attributes, self.table = _read_table(location, root, commit)
        self.refused: list[dict[str, Any]] = attributes["refused"]
        self.levels = list(recipe.levels)
        self.study_uids = self.table.study_uids
        self._index = {uid: index for index, uid in enumerate(self.study_uids)}

    def __len__(self) -> int:
        return len(self.table)

    def index(self, uid: str) -> int:
        """Index of a study in the table. Raises StudyNotInStore."""
        if uid not in self._index:
            raise StudyNotInStore(f"version {self.version} does not contain it.", study=uid)
        return self._index[uid]

    def image(self, study: int, out: npt.NDArray[Any] | None = None) -> npt.NDArray[np.int16]:
        """The crops of the study at this index: int16 HU (level, z, y, x); air for levels without a crop.

        Raises
        ------
        ChunkMissing, ChunkCorrupt
            If the object is missing or damaged, or is not the one that was committed.
        """
        return self.read("image", study, out)

    def mask(self, study: int, out: npt.NDArray[Any] | None = None) -> npt.NDArray[np.uint8]:
        """The labels of the crops: uint8 (level, z, y, x); raises as `image` does."""
        return self.read("mask", study, out)

    def read(self, name: str, study: int, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """A study's row of one of the `ARRAY_NAMES`, verified and decoded, into ``out`` if given.

        Raises as `image` does, and TypeError if ``out`` has another type, shape or memory layout.
        """
        array, checksums = self.arrays[name], self._checksums(name, study)
        if array.is_sharded and self._cache is None:
            # A chunk at a time: the memory of one is used again for the next, which is faster than one copy.
            chunks = self.location.read_parts(self._key(array, study), array.index_bytes, array.chunk_ranges)
            with self._absence_as_chunk_missing(array, study), self._damage_as_chunk_corrupt(array, study):
                return array.decode_chunks(chunks, checksums, out)
        content = self.read_object(array, study)
        with self._damage_as_chunk_corrupt(array, study):
            return array.decode(content, checksums, out)

    def read_crop(
        self, name: str, study: int, level: int, out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """One level of a study's ``image`` or ``mask``: the (z, y, x) crop, verified; no other is decoded."""
        array = self.arrays[name]
        if not array.is_sharded:
            raise ValueError(f"{name} has no levels")
        if self._cache is not None:
            content = self.read_object(array, study)
            with self._damage_as_chunk_corrupt(array, study):
                start, size = array.chunk_ranges(content[-array.index_bytes :])[level]
            chunk = content[start : start + size]
        else:
            key = self._key(array, study)
            with self._absence_as_chunk_missing(array, study):
                index = self.location.read_tail(key, array.index_bytes)
                with self._damage_as_chunk_corrupt(array, study):
                    start, size = array.chunk_ranges(index)[level]
                chunk = self.location.read_range(key, start, size)
        with self._damage_as_chunk_corrupt(array, study):
            return array.decode_chunk(chunk, int(self._checksums(name, study)[level]), out)

    def _checksums(self, name: str, study: int) -> npt.NDArray[Any]:
        """The CRC-32C of each chunk of a study's row, from the table."""
        return np.atleast_1d(self.table[f"{name.replace('/', '_')}_crc32c"][study])

    @contextmanager
    def _damage_as_chunk_corrupt(self, array: RowArray, study: int) -> Iterator[None]:
        try:
            yield
        except (ValueError, RuntimeError) as error:
            raise ChunkCorrupt(
                f"{self._key(array, study)}: {error}.", study=self.study_uids[study]
            ) from error

    @contextmanager
    def _absence_as_chunk_missing(self, array: RowArray, study: int) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if isinstance(error, SpineError):
                raise
            fault = f"{self._key(array, study)} is missing."
            raise ChunkMissing(fault, study=self.study_uids[study]) from error

    def read_object(self, array: RowArray, study: int) -> bytes:
        """The encoded bytes of a study's object, from the cache or the store. Raises ChunkMissing."""
        key = self._key(array, study)
        with self._absence_as_chunk_missing(array, study):
            if self._cache is None:
                return self.location.read(key)
            digest = self.table["sha256"][study, ARRAY_NAMES.index(array.name)].tobytes().hex()
            try:
                checksums = self._checksums(array.name, study)
                return self._cache.read(
                    digest,
                    fetch=lambda: self.location.read(key),
                    is_intact=lambda content: array.is_intact(content, checksums),
                )
            except DigestMismatch as error:
                fault = f"{key} is not the object that was committed."
                raise ChunkCorrupt(fault, study=self.study_uids[study]) from error

    def _key(self, array: RowArray, study: int) -> str:
        return array.key(int(self.table["row"][study]))

    def located(self) -> npt.NDArray[np.bool_]:
        """bool (study, level): True if the level has a crop."""
        located: npt.NDArray[np.bool_] = self.table["level_status"] == STATUS_LOCATED
        return located

    def levels_in_slices(self, uid: str, file_numbers: Sequence[int]) -> list[frozenset[str]]:
        """The levels and other labels of the recipe that each of a study's slices shows, in the mask.

        ``file_numbers`` are the numbers in the names of the slices' files, such as a box's ``slice_number``;
        of a number that the series does not have, no or any levels are returned. The sets are empty if the
        study has no mask. A level that is ambiguous is among those of each slice that shows one of its parts.

        Raises
        ------
        StudyNotInStore
            If this version does not contain the study.
        """
        names = {label: name for name, label in {**self.recipe.levels, **self.recipe.other_labels}.items()}
        of_study = self.table["run_study"] == self.index(uid)
        labels, runs = self.table["run_label"][of_study], self.table["run_slices"][of_study]
        numbers = np.asarray(file_numbers, np.int64)[:, None]
        shown = (runs[:, 0] <= numbers) & (numbers <= runs[:, 1])
        return [frozenset(names[label] for label in labels[of_slice].tolist()) for of_slice in shown]

    def crop_grid(self, study: int, level: str) -> Grid:
        """The grid of a located level's crop, in LPS millimetres."""
        origin = self.table["crop_origin_mm"][study, self.levels.index(level)]
        return Grid.from_origin(origin, self.recipe.crop.shape, self.recipe.crop.spacing_mm)

    def overview_grid(self, study: int) -> Grid:
        """The grid of the study's overview, in LPS millimetres."""
        origin = self.table["overview_origin_mm"][study]
        return Grid.from_origin(origin, self.recipe.overview.shape, self.recipe.overview.spacing_mm)


def open_store(
    store: str | Path,
    version: int | None = None,
    *,
    recipe: Recipe | None = None,
    cache: str | Path | None = None,
) -> Store:
    """Open a committed version, the newest by default.

    Parameters
    ----------
    store
        A folder or ``s3://bucket/prefix``. With ``recipe``: a root that contains one store per recipe.
    version
        The version's number; the newest if None.
    recipe
        Open the store that `dataset_in` gives for this recipe.
    cache
        A local folder in which to keep the objects that are read, for a remote store.

    Raises
    ------
    StoreNotFound
        If there is nothing, or something other than a store.
    StoreSchemaUnsupported
        If the store has another schema version, or a recipe that this release cannot read.
    StoreNotCommitted
        If the version, or any version, does not exist.
    ChunkMissing, ChunkCorrupt
        If the root, the commit or the version's table is incomplete or damaged.
    StoreForbidden, StoreUnreachable
        If access is denied, or the server or the disk does not answer.
    """
    location = open_location(dataset_in(store, recipe) if recipe else store)
    root = read_root(location)
    commit = newest_commit(location, root.latest) if version is None else read_commit(location, version)
    if commit is None:
        missing = "committed version" if version is None else f"version {version}"
        raise StoreNotCommitted(f"{location} has no {missing}.")
    return Store(location, root, commit, ObjectCache(cache) if cache else None)


def dataset_in(root: str | Path, recipe: Recipe) -> str:
    """Address of the store of a recipe under a root: a folder named after the recipe's fingerprint."""
    return f"{str(root).rstrip('/')}/{recipe.fingerprint[:16]}"


def read_root(location: Location) -> Root:
    """Read a store's root. Raises as `open_store` does."""
    try:
        attributes = json.loads(location.read("zarr.json"))["attributes"][ATTRIBUTES]
        version = attributes["schema_version"]
    except FileNotFoundError as error:
        raise StoreNotFound(f"there is no store at {location}.") from error
    except (ValueError, KeyError, TypeError, NotADirectoryError) as error:
        raise StoreNotFound(f"{location} is not a spine-etl store.") from error
    if version != SCHEMA_VERSION:
        raise _unsupported(location, version, attributes)
    try:
        recipe = Recipe.model_validate(attributes["recipe"])
        latest = attributes["latest"]
        return Root(recipe, attributes["fingerprint"], latest["version"] if latest else 0)
    except ValidationError as error:
        raise StoreSchemaUnsupported(f"{location} has a recipe that this release cannot read.") from error
    except (KeyError, TypeError) as error:
        raise ChunkCorrupt(f"zarr.json of {location} is damaged.") from error


def _unsupported(location: Location, version: Any, attributes: dict[str, Any]) -> StoreSchemaUnsupported:
    reason = f"{location} has schema version {version}; this release reads version {SCHEMA_VERSION}."
    if isinstance(version, int) and version > SCHEMA_VERSION:
        action = "Install a newer release of spine-etl."
    else:
        recipe = (attributes.get("recipe") or {}).get("name", "RECIPE")
        command = f"python -m flows.build_dataset --source SOURCE --store NEW_STORE --recipe {recipe}"
        action = f"Build it again into a new store: {command}."
    return StoreSchemaUnsupported(reason, action=action)


def commit_key(version: int) -> str:
    """Key of a version's commit; the version is committed once this object exists."""
    return f"versions/{version}/zarr.json"


def read_commit(location: Location, version: int) -> dict[str, Any] | None:
    """The commit of a version, None if it does not exist. Raises ChunkCorrupt if it is damaged."""
    try:
        commit: dict[str, Any] = json.loads(location.read(commit_key(version)))["attributes"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ChunkCorrupt(f"{commit_key(version)} is damaged.") from error
    return commit


def newest_commit(location: Location, latest: int) -> dict[str, Any] | None:
    """The newest commit, None if there is none.

    ``latest`` is the version in the root; newer ones exist if a build was killed before it updated the root.

    Raises
    ------
    ChunkMissing, ChunkCorrupt
        If the commit of ``latest``, or a newer one, is missing or damaged.
    """
    commit = read_commit(location, latest) if latest else None
    if latest and commit is None:
        raise ChunkMissing(f"{commit_key(latest)} is missing.")
    while commit or not latest:
        try:
            later = read_commit(location, latest + 1)
        except StoreForbidden:  # S3 answers 403, not 404, to credentials that cannot list
            return commit
        if later is None:
            return commit
        commit, latest = later, latest + 1
    return None


def _read_table(
    location: Location, root: Root, commit: dict[str, Any]
) -> tuple[dict[str, Any], VersionTable]:
    """The attributes of a version's table, and the table; both are compared with the commit."""
    try:
        path, columns, objects = commit["path"], commit["columns"], commit["objects"]
        contents = _read_objects(location, path, table_keys(objects))
        for key, content in contents.items():
            if hashlib.sha256(content).hexdigest() != objects[key]:
                raise ChunkCorrupt(f"{path}/{key} differs from what was committed.")
        attributes, table = decode_table(contents, len(root.recipe.levels))
        digest = root_digest(root.fingerprint, Folds.of_commit(commit), columns, attributes["refused"])
    except MissingColumn as error:
        raise StoreSchemaUnsupported(f"{path} has no column {error}.") from error
    except KeyError as error:
        raise ChunkCorrupt(
            f"{commit_key(commit.get('version', 0))} is damaged: it has no {error}."
        ) from error
    except (ValueError, TypeError, RuntimeError) as error:
        if isinstance(error, SpineError):
            raise
        raise ChunkCorrupt(f"{path} is damaged: {error}.") from error
    computed = table.digests()
    differing = [name for name in computed if name in columns and computed[name] != columns[name]]
    if differing or digest != commit["root_digest"] or len(table) != commit["studies"]:
        raise ChunkCorrupt(f"{path} is damaged: the version's table differs from what was committed.")
    return attributes, table


def _read_objects(location: Location, path: str, keys: list[str]) -> dict[str, bytes]:
    """Objects of a version's table, by key.

    They are read concurrently because they are small and the store can be remote.
    """

    def read(key: str) -> bytes:
        try:
            return location.read(f"{path}/{key}")
        except FileNotFoundError as error:
            if isinstance(error, SpineError):
                raise
            raise ChunkMissing(f"{path}/{key} is missing: the version's table cannot be read.") from error

    with ThreadPoolExecutor(_READ_THREADS) as pool:
        return dict(zip(keys, pool.map(read, keys), strict=True))
