"""Reading a committed version. Needs numpy, zarr and pydantic alone."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from spine_etl.errors import (
    ChunkCorrupt,
    ChunkMissing,
    StoreForbidden,
    StoreNotCommitted,
    StoreNotFound,
    StoreSchemaUnsupported,
    StudyNotInStore,
)
from spine_etl.geometry import Grid
from spine_etl.recipe import SCHEMA_VERSION, Recipe
from spine_etl.store.cache import DigestMismatch, ObjectCache
from spine_etl.store.location import Location, open_location
from spine_etl.store.schema import (
    ARRAY_NAMES,
    ATTRIBUTES,
    STATUS_LOCATED,
    RowArray,
    column_keys,
    decode_group,
    row_arrays,
)
from spine_etl.store.table import DIMENSIONS, VersionTable

_READERS = 16


@dataclass(frozen=True)
class Root:
    """What a store's root says: its recipe and fingerprint, and the latest version it names (0: none)."""

    recipe: Recipe
    fingerprint: str
    latest: int


class Store:
    """One committed version of a store, whatever is built into it meanwhile.

    Attributes
    ----------
    recipe, fingerprint
        What the dataset is made by, and its name.
    version, root_digest
        The version's number, and 64 hex digits over all it holds.
    rows
        Rows of the arrays that this version or one before it names.
    table
        Labels, folds, boxes and geometry of every study: a `VersionTable`.
    refused
        What was left out: dicts of uid, code, reason, action, fold.
    """

    def __init__(
        self, location: Location, root: Root, commit: dict[str, Any], cache: ObjectCache | None = None
    ) -> None:
        self.location = location
        self._cache = cache
        self.recipe = recipe = root.recipe
        self.fingerprint = root.fingerprint
        self.version: int = commit["version"]
        self.root_digest: str = commit["root_digest"]
        self.rows: int = commit["rows"]
        self.arrays = row_arrays(recipe)
        attributes, self.table = _read_table(location, commit)
        self.refused: list[dict[str, Any]] = attributes["refused"]
        self.levels = list(recipe.levels)
        self.study_uids = self.table.study_uids
        self._index = {uid: index for index, uid in enumerate(self.study_uids)}

    def __len__(self) -> int:
        return len(self.table)

    def index(self, uid: str) -> int:
        """The study's place in the table. Raises StudyNotInStore."""
        if uid not in self._index:
            raise StudyNotInStore(f"version {self.version} does not hold it.", study=uid)
        return self._index[uid]

    def image(self, study: int, out: npt.NDArray[Any] | None = None) -> npt.NDArray[np.int16]:
        """int16 HU (level, z, y, x) of the study at that place. A level that is not located holds air.

        Raises
        ------
        ChunkMissing, ChunkCorrupt
            If the object is not there, or its checksum does not match.
        """
        return self.read("image", study, out)

    def mask(self, study: int, out: npt.NDArray[Any] | None = None) -> npt.NDArray[np.uint8]:
        """uint8 source labels (level, z, y, x); raises as `image` does."""
        return self.read("mask", study, out)

    def read(self, name: str, study: int, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """One of the four `ARRAY_NAMES` of a study, decoded and verified, into ``out`` where given."""
        array = self.arrays[name]
        content = self.read_object(array, study)
        try:
            return array.decode(content, out)
        except (ValueError, RuntimeError) as error:
            raise ChunkCorrupt(
                f"{self._key(array, study)}: {error}.", study=self.study_uids[study]
            ) from error

    def read_object(self, array: RowArray, study: int) -> bytes:
        """The bytes of a study's object as they lie in the store, or in the cache. Raises ChunkMissing."""
        key = self._key(array, study)
        try:
            if self._cache is None:
                return self.location.read(key)
            digest = self.table["digest"][study, ARRAY_NAMES.index(array.name)].tobytes().hex()
            return self._cache.read(digest, lambda: self.location.read(key))
        except FileNotFoundError as error:
            raise ChunkMissing(f"{key} is not there.", study=self.study_uids[study]) from error
        except DigestMismatch as error:
            fault = f"{key} is not the object that was committed."
            raise ChunkCorrupt(fault, study=self.study_uids[study]) from error

    def _key(self, array: RowArray, study: int) -> str:
        return array.key(int(self.table["row"][study]))

    def located(self) -> npt.NDArray[np.bool_]:
        """(study, level): whether the level has a crop."""
        located: npt.NDArray[np.bool_] = self.table["level_status"] == STATUS_LOCATED
        return located

    def crop_grid(self, study: int, level: str) -> Grid:
        """Where a located level's crop lies in LPS."""
        origin = self.table["crop_origin_mm"][study, self.levels.index(level)]
        return Grid.from_origin(origin, self.recipe.crop.shape, self.recipe.crop.spacing_mm)

    def overview_grid(self, study: int) -> Grid:
        """Where the study's overview lies in LPS."""
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
        A folder or ``s3://bucket/prefix``. With a recipe: the root under which datasets lie by fingerprint.
    recipe
        Whose dataset is meant, by its fingerprint: `dataset_in` says where it lies.
    cache
        A folder of this machine that keeps the objects that were read: for a store that is far away.

    Raises
    ------
    StoreNotFound
        If nothing, or no store of this product, lies there.
    StoreSchemaUnsupported
        If another release wrote it in a layout that this one does not know.
    StoreNotCommitted
        If it holds no such committed version.
    ChunkMissing, ChunkCorrupt
        If what says what it holds is lost or damaged.
    StoreForbidden, StoreUnreachable
        If it may not, or cannot, be read.
    """
    location = open_location(dataset_in(store, recipe) if recipe else store)
    root = read_root(location)
    commit = newest_commit(location, root.latest) if version is None else read_commit(location, version)
    if commit is None:
        wanted = "committed version" if version is None else f"version {version}"
        raise StoreNotCommitted(f"{location} holds no {wanted}.")
    return Store(location, root, commit, ObjectCache(cache) if cache else None)


def dataset_in(root: str | Path, recipe: Recipe) -> str:
    """Where under a root the dataset of that recipe lies: a folder with the name of its fingerprint."""
    return f"{str(root).rstrip('/')}/{recipe.fingerprint[:16]}"


def read_root(location: Location) -> Root:
    """Read a store's root. Raises as `open_store` does."""
    try:
        attributes = json.loads(location.read("zarr.json"))["attributes"][ATTRIBUTES]
        version = attributes["schema_version"]
    except FileNotFoundError as error:
        raise StoreNotFound(f"there is no store at {location}.") from error
    except (ValueError, KeyError, TypeError, NotADirectoryError) as error:
        raise StoreNotFound(f"{location} holds something else than a store of this product.") from error
    if version != SCHEMA_VERSION:
        raise StoreSchemaUnsupported(f"{location} has schema version {version}, not {SCHEMA_VERSION}.")
    try:
        recipe = Recipe.model_validate(attributes["recipe"])
        latest = attributes["latest"]
        return Root(recipe, attributes["fingerprint"], latest["version"] if latest else 0)
    except ValidationError as error:
        raise StoreSchemaUnsupported(f"{location} names a recipe that this release cannot read.") from error
    except (KeyError, TypeError) as error:
        raise ChunkCorrupt(f"zarr.json of {location} is damaged.") from error


def commit_key(version: int) -> str:
    """Key of the object whose being there makes a version committed."""
    return f"versions/{version}/zarr.json"


def read_commit(location: Location, version: int) -> dict[str, Any] | None:
    """The commit of that version, None where it was never made. Raises ChunkCorrupt where it is damaged."""
    try:
        commit: dict[str, Any] = json.loads(location.read(commit_key(version)))["attributes"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ChunkCorrupt(f"{commit_key(version)} is damaged.") from error
    return commit


def newest_commit(location: Location, latest: int) -> dict[str, Any] | None:
    """The newest commit, from the one the root names onwards: a crash may have left the root behind."""
    commit = read_commit(location, latest) if latest else None
    while commit or not latest:
        try:
            later = read_commit(location, latest + 1)
        except StoreForbidden:  # how S3 says "not there" to those who may read but not list
            return commit
        if later is None:
            return commit
        commit, latest = later, latest + 1
    return None


def _read_table(location: Location, commit: dict[str, Any]) -> tuple[dict[str, Any], VersionTable]:
    path = commit["path"]
    try:
        attributes, columns = decode_group(_read_objects(location, path), DIMENSIONS)
        table = VersionTable(columns)
    except (FileNotFoundError, KeyError) as error:
        raise ChunkMissing(f"{path} is not whole: the version's table cannot be read.") from error
    except (ValueError, RuntimeError) as error:
        raise ChunkCorrupt(f"{path} is damaged: the version's table cannot be read.") from error
    # zarr reads a lost chunk as fill values, so the table is held against the commit's digest.
    if table.digest(with_rows=True) != commit["table_digest"]:
        raise ChunkCorrupt(f"{path} is damaged: the version's table differs from what was committed.")
    return attributes, table


def _read_objects(location: Location, path: str) -> dict[str, bytes]:
    """The objects of a version's table. Their keys are known, so that nothing needs to be listed; they are
    read side by side, since each is small and may be far away."""
    keys = ["zarr.json"]
    for name, axes in DIMENSIONS.items():
        keys += column_keys(name, len(axes))

    def read(key: str) -> bytes | None:
        try:
            return location.read(f"{path}/{key}")
        except FileNotFoundError:
            return None

    with ThreadPoolExecutor(_READERS) as pool:
        found = zip(keys, pool.map(read, keys), strict=True)
        return {key: content for key, content in found if content is not None}
