"""Columns as zarr arrays: zarr-python reads what is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.buffer import cpu
from zarr.storage import MemoryStore

from spine_etl.store.columns import COLUMNS, FIXED_SIZES, TEXT, column_keys, decode_column, encode_column

SIZES = {**FIXED_SIZES, "row": 3, "run": 3, "box": 2, "level": 2, "warning": 1}


def example(name: str, sizes: dict[str, int] = SIZES) -> Any:
    column = COLUMNS[name]
    shape = [sizes[axis] for axis in column.dimensions]
    if column.data_type == TEXT:
        return np.array(["1.2", "", "neck, \u00e9"][: shape[0]], object)
    random = np.random.default_rng(1)
    return random.integers(0, 2 if column.data_type == "bool" else 100, shape).astype(column.data_type)


def read_with_zarr(objects: dict[str, bytes], name: str) -> Any:
    store = MemoryStore({key: cpu.Buffer.from_bytes(content) for key, content in objects.items()})
    return zarr.open_array(store, path=name, mode="r")


@pytest.mark.parametrize("name", COLUMNS)
def test_zarr_python_reads_the_column(name: str) -> None:
    column, values = COLUMNS[name], example(name)
    array = read_with_zarr(encode_column(name, column, values), name)
    assert array.metadata.dimension_names == column.dimensions
    assert array.attrs["description"] == column.meaning
    if column.data_type != TEXT:
        assert array.dtype == column.data_type
        np.testing.assert_equal(array.fill_value, np.asarray(column.fill, column.data_type)[()])
    np.testing.assert_array_equal(array[...], values)


@pytest.mark.parametrize("name", [name for name in COLUMNS if COLUMNS[name].data_type != TEXT])
def test_column_is_decoded_as_it_was_encoded(name: str) -> None:
    values = example(name)
    decoded = decode_column(name, encode_column(name, COLUMNS[name], values))
    assert decoded.dtype == values.dtype
    np.testing.assert_array_equal(decoded, values)


def test_column_without_values_has_no_chunk() -> None:
    values = example("fracture", {**SIZES, "row": 0})
    objects = encode_column("fracture", COLUMNS["fracture"], values)
    assert list(objects) == ["fracture/zarr.json"]
    assert decode_column("fracture", objects).shape == (0, 2)
    assert read_with_zarr(objects, "fracture")[...].shape == (0, 2)


def test_values_in_another_byte_order_are_stored_the_same() -> None:
    values = example("box_source")
    swapped = values.astype(values.dtype.newbyteorder(">"))
    column = COLUMNS["box_source"]
    assert encode_column("box_source", column, values) == encode_column("box_source", column, swapped)


def test_missing_or_damaged_chunk_is_an_error_not_fill_values() -> None:
    objects = encode_column("fracture", COLUMNS["fracture"], example("fracture"))
    _, chunk = column_keys("fracture")
    with pytest.raises(KeyError):
        decode_column("fracture", {key: objects[key] for key in objects if key != chunk})
    with pytest.raises(ValueError, match="checksum"):
        decode_column("fracture", {**objects, chunk: bytes([objects[chunk][0] ^ 1]) + objects[chunk][1:]})


def test_column_of_another_type_is_refused() -> None:
    column = COLUMNS["fold"]  # int16 (row,) stored under the name of an int8 (row,)
    objects = encode_column("patient_overall", column, example("fold"))
    with pytest.raises(ValueError, match="patient_overall is not stored as the format says"):
        decode_column("patient_overall", objects)


def test_the_format_page_lists_every_column() -> None:
    page = (Path(__file__).parents[2] / "docs" / "store-format.md").read_text(encoding="utf-8")
    lines = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for name, column in COLUMNS.items():
        cells = [cell.strip() for cell in lines[name].split("|")[1:-1]]
        assert cells[1:3] == [column.data_type, ", ".join(column.dimensions)]
        assert cells[4] == ("" if column.is_optional else "yes")
        assert cells[5] == column.meaning
