"""Tables by row, as they are stored; tables of other releases, with more or fewer columns."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from spine_etl.errors import ChunkCorrupt, StoreSchemaUnsupported
from spine_etl.store import Store, open_store
from spine_etl.store.check import check_store
from spine_etl.store.columns import COLUMNS, Column, encode_column
from spine_etl.store.rows import decode_table, encode_table, root_digest, table_keys
from spine_etl.store.table import Folds, VersionTable, table_from_records
from spine_etl.store.writer import StoreWriter
from tests.store.history import ROWS, SEEDS, write_history
from tests.store.test_table import record
from tests.store.tiny import RECIPE, voxels, write_study

LEVELS = list(RECIPE.levels)


def by_row(table: VersionTable, rows: int, folder: Path) -> Any:
    """The table as zarr-python reads it."""
    for key, content in encode_table(table, rows, LEVELS, {}).items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(content)
    return zarr.open_group(folder, mode="r")


def test_index_of_each_column_is_the_row(tmp_path: Path) -> None:
    table = table_from_records([record("1.3", 1, (7, 3)), record("1.2", 4, (9,))], RECIPE)
    stored = by_row(table, 6, tmp_path)
    assert stored["row"][...].tolist() == [0, 1, 2, 3, 4, 5]
    assert stored["in_version"][...].tolist() == [False, True, False, False, True, False]
    assert stored["study_uid"][...].tolist() == ["", "1.3", "", "", "1.2", ""]
    assert [bytes(uid).rstrip(b"\0") for uid in stored["study_uid_ascii"][...]] == [
        b"", b"1.3", b"", b"", b"1.2", b"",
    ]  # fmt: skip
    assert stored["box_row"][...].tolist() == [1, 1, 4]
    assert stored["box_slice_number"][...].tolist() == [7, 3, 9]
    assert stored["level"][...].tolist() == LEVELS
    for name, column in COLUMNS.items():
        assert stored[name].metadata.dimension_names == column.dimensions
        if column.dimensions[0] == "row":
            assert stored[name].shape[0] == 6


def test_stored_table_is_read_again() -> None:
    table = table_from_records([record("1.3", 1, (7, 3)), record("1.2", 4, (9,))], RECIPE)
    objects = encode_table(table, 6, LEVELS, {"refused": []})
    attributes, again = decode_table({key: objects[key] for key in table_keys(objects)}, len(LEVELS))
    assert attributes["refused"] == []
    assert again.study_uids == ["1.2", "1.3"]
    for name, values in table.columns.items():
        assert again[name].dtype == values.dtype
        np.testing.assert_array_equal(again[name], values, err_msg=name)
    assert again.digests() == table.digests()


def test_a_box_without_a_study_is_an_error() -> None:
    table = table_from_records([record("1.2", 1, (9,))], RECIPE)
    objects = encode_table(table, 2, LEVELS, {})
    objects |= encode_column("box_row", COLUMNS["box_row"], np.zeros(1, np.int32))
    with pytest.raises(ValueError, match="a box belongs to no study"):
        decode_table(objects, len(LEVELS))


def test_rows_of_other_versions_are_marked(tmp_path: Path) -> None:
    store = write_history(tmp_path / "store")
    assert store.rows == ROWS
    assert dict(zip(store.table["row"].tolist(), store.study_uids, strict=True)) == {
        row: uid for row, (uid, _) in SEEDS.items()
    }


def rewrite_version(store: Store, added: dict[str, bytes], removed: str = "") -> None:
    """Change the newest version as another release would have written it."""
    root = Path(str(store.location))
    key = root / f"versions/{store.version}/zarr.json"
    group = json.loads(key.read_text())
    commit = group["attributes"]
    for name, content in added.items():
        path = root / commit["path"] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        commit["objects"][name] = hashlib.sha256(content).hexdigest()
        commit["columns"][name.partition("/")[0]] = "5" * 64
    if removed:
        del commit["columns"][removed]
        for name in [name for name in commit["objects"] if name.startswith(f"{removed}/")]:
            (root / commit["path"] / name).unlink()
            del commit["objects"][name]
    folds = Folds(**commit["folds"])
    commit["root_digest"] = root_digest(store.fingerprint, folds, commit["columns"], store.refused)
    key.write_text(json.dumps(group))


def test_a_column_of_a_newer_release_is_ignored(store: Store) -> None:
    column = Column("float32", ("row", "some_axis"), "a column of a later release")
    rewrite_version(store, encode_column("later", column, np.ones((2, 9), np.float32)))
    opened = open_store(str(store.location))
    assert opened.study_uids == store.study_uids
    assert "later" not in opened.table.columns
    np.testing.assert_array_equal(opened.image(1), voxels(2)["image"])
    assert list(check_store(opened)) == []
    writer = StoreWriter(str(store.location), RECIPE)
    newer = writer.commit([write_study(writer, "1.9", 9)])
    assert newer.study_uids == ["1.1", "1.2", "1.9"]
    assert newer.table["fold"].tolist()[:2] == store.table["fold"].tolist()


OPTIONAL = {"mask_name": 0, "label_share": 0, "straightened": False, "warnings": 0, "level_slices": -1}


@pytest.mark.parametrize("name", OPTIONAL)
def test_an_optional_column_may_be_missing(store: Store, name: str) -> None:
    rewrite_version(store, {}, removed=name)
    opened = open_store(str(store.location))
    assert (opened.table[name] == OPTIONAL[name]).all()
    np.testing.assert_array_equal(opened.table["fracture"], store.table["fracture"])
    writer = StoreWriter(str(store.location), RECIPE)
    assert writer.commit([write_study(writer, "1.9", 9)]).study_uids == ["1.1", "1.2", "1.9"]


@pytest.mark.parametrize("name", [name for name, column in COLUMNS.items() if column.is_optional])
def test_every_optional_column_has_a_value_for_unknown(store: Store, name: str) -> None:
    values = COLUMNS[name].array(3)
    assert values.shape == (3,)
    if name in store.table.columns:
        assert store.table[name].dtype == values.dtype


def test_a_table_without_a_required_column_is_refused(store: Store) -> None:
    rewrite_version(store, {}, removed="fracture")
    with pytest.raises(StoreSchemaUnsupported, match="has no column fracture"):
        open_store(str(store.location))


@pytest.mark.parametrize(
    "change",
    [
        {"root_digest": "0" * 64},
        {"studies": 3},
        {"folds": {"count": 4, "file": None}},
        {"columns": {}},
        {"objects": {}},
        {"path": "versions/2/0"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_edited_commit_is_noticed(store: Store, change: dict[str, Any]) -> None:
    key = Path(str(store.location)) / "versions/1/zarr.json"
    group = json.loads(key.read_text())
    group["attributes"] |= change
    key.write_text(json.dumps(group))
    with pytest.raises((ChunkCorrupt, StoreSchemaUnsupported, FileNotFoundError)) as caught:
        open_store(str(store.location))
    assert caught.value.code in {"CHUNK_CORRUPT", "CHUNK_MISSING", "STORE_SCHEMA_UNSUPPORTED"}


def test_an_edited_object_of_the_table_is_noticed(store: Store) -> None:
    """Also where it is metadata, which no checksum of a chunk covers."""
    root = Path(str(store.location))
    path = json.loads((root / "versions/1/zarr.json").read_text())["attributes"]["path"]
    for key in ("zarr.json", "fracture/zarr.json"):
        content = (root / path / key).read_text()
        (root / path / key).write_text(content.replace("\n", " \n", 1))
        with pytest.raises(ChunkCorrupt, match="differs from what was committed"):
            open_store(str(store.location))
        (root / path / key).write_text(content)
    (root / path / "study_uid/c/0").write_bytes(b"")  # not read by this package, so found by check
    faults = list(check_store(open_store(str(store.location))))
    assert [(fault.code, fault.study) for fault in faults] == [("CHUNK_CORRUPT", None)]
    assert "study_uid/c/0" in faults[0].reason
