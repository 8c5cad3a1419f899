"""A version's table as it is stored: a zarr group with one array per column, by row.

Index i of each column is the study whose voxels are in row i of the arrays. In rows that the version does not
contain, ``in_version`` is false, the UID is empty and all other values mean "unknown".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from spine_etl.store.columns import (
    COLUMNS,
    FIXED_SIZES,
    TEXT,
    Column,
    column_keys,
    decode_column,
    encode_column,
)
from spine_etl.store.schema import AXES, JOIN, Json, group_json, json_bytes
from spine_etl.store.table import PART_COLUMNS, STUDY_COLUMNS, Folds, VersionTable, uids_from_ascii

LEVEL_COORDINATE = Column(TEXT, ("level",), "the names along the level axis", "")
WARNING_COORDINATE = Column(TEXT, ("warning",), "the codes along the warning axis: see docs/errors.md", "")
READ_COLUMNS = [name for name, column in COLUMNS.items() if column.data_type != TEXT and name != "row"]
"""Columns that `decode_table` uses."""

Values = npt.NDArray[Any]


def encode_table(table: VersionTable, rows: int, levels: Sequence[str], attributes: Json) -> dict[str, bytes]:
    """The objects, by key, of the group of a table with this many rows.

    ``attributes`` are added to the group's own, which explain the axes, the join and the codes.
    """
    values = _by_row(table, rows)
    about = {
        "axes": AXES,
        "join": JOIN,
        "levels": list(levels),
        "warning_codes": list(table.warning_codes),
        "mask_names": list(table.mask_names),
    }
    objects = {"zarr.json": json_bytes(group_json({**attributes, **about}))}
    objects |= level_coordinate(levels)
    objects |= encode_column("warning", WARNING_COORDINATE, np.array(table.warning_codes, object))
    codes = {"mask_name": {"codes": list(table.mask_names)}, "warnings": {"codes": list(table.warning_codes)}}
    for name, column in COLUMNS.items():
        objects |= encode_column(name, column, values[name], codes.get(name))
    return objects


def level_coordinate(levels: Sequence[str]) -> dict[str, bytes]:
    """The objects of the array of level names, in the root and in each table."""
    return encode_column("level", LEVEL_COORDINATE, np.array(list(levels), object))


def _by_row(table: VersionTable, rows: int) -> dict[str, Values]:
    row = table["row"]
    values = {
        name: COLUMNS[name].array(rows, *(table[name].shape[1:] if name in table.columns else ()))
        for name, column in COLUMNS.items()
        if column.dimensions[0] == "row"
    }
    for name in STUDY_COLUMNS:
        values[name][row] = table[name]
    values["row"] = np.arange(rows, dtype=np.int32)
    values["in_version"][row] = True
    values["study_uid"][row] = table.study_uids
    for kind, names in PART_COLUMNS.items():
        row_of_part = row[table[f"{kind}_study"]]
        order = np.argsort(row_of_part, kind="stable")
        values[f"{kind}_row"] = row_of_part[order]
        values |= {name: table[name][order] for name in names}
    return values


def table_keys(objects: Container[str]) -> list[str]:
    """Keys of the objects that `decode_table` needs, of those that a table has."""
    keys = ["zarr.json", *(key for name in READ_COLUMNS for key in column_keys(name))]
    return [key for key in keys if key in objects]


def decode_table(objects: Mapping[str, bytes], levels: int) -> tuple[Json, VersionTable]:
    """The attributes of a table's group, and the table.

    Parameters
    ----------
    objects
        The objects of `table_keys`, by key. Optional columns can be missing.
    levels
        Number of levels of the store.

    Raises
    ------
    MissingColumn
        If the table lacks a column that is not optional.
    KeyError
        If an object is missing.
    ValueError
        If an object is damaged, or the columns do not fit each other.
    """
    attributes: Json = json.loads(objects["zarr.json"])["attributes"]
    stored = {name: decode_column(name, objects) for name in READ_COLUMNS if column_keys(name)[0] in objects}
    for name, column in COLUMNS.items():
        if not column.is_optional and name not in stored:
            raise MissingColumn(name)
    warning_codes = attributes["warning_codes"] if "warnings" in stored else []
    mask_names = attributes["mask_names"] if "mask_name" in stored else [""]
    in_version = stored["in_version"]
    sizes = {**FIXED_SIZES, "level": levels, "warning": len(warning_codes)}
    sizes |= {"row": len(in_version)}
    sizes |= {kind: len(stored.get(f"{kind}_row", ())) for kind in PART_COLUMNS}
    for name in READ_COLUMNS:
        shape = tuple(sizes[axis] for axis in COLUMNS[name].dimensions)
        if name not in stored:
            stored[name] = COLUMNS[name].array(*shape)
        if stored[name].shape != shape:
            raise ValueError(f"{name} has the shape {stored[name].shape}, not {shape}")
    rows = np.flatnonzero(in_version)
    study_of_row = np.full(len(in_version), -1, np.int32)
    study_of_row[rows] = np.arange(len(rows))
    gathered = {name: stored[name][rows] for name in STUDY_COLUMNS}
    gathered["row"] = rows.astype(np.int32)
    for kind, names in PART_COLUMNS.items():
        gathered |= {name: stored[name] for name in names}
        gathered[f"{kind}_study"] = study_of_row[stored[f"{kind}_row"]]
        if (gathered[f"{kind}_study"] < 0).any():
            raise ValueError(f"a {kind} belongs to no study")
    if len(set(uids_from_ascii(gathered["study_uid_ascii"]))) != len(rows):
        raise ValueError("a study has two rows")
    return attributes, VersionTable(gathered, tuple(mask_names), tuple(warning_codes)).sorted_by_uid()


class MissingColumn(Exception):
    """A version's table lacks a column that every reader needs."""


def root_digest(
    fingerprint: str, folds: Folds, columns: Mapping[str, str], refused: Sequence[Mapping[str, Any]]
) -> str:
    """SHA-256 (64 hex digits) that identifies a version's content: voxels, labels, folds, refusals.

    ``columns`` are the digests of the columns' content, which do not depend on the rows.
    """
    refusals = [[entry["uid"], entry["code"]] for entry in refused]
    content = [fingerprint, [folds.count, folds.file], sorted(columns.items()), refusals]
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
