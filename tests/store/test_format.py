"""A reader written from docs/store-format.md alone, with codecs but none of this package's code."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from numcodecs import blosc, zstd

from spine_etl.store import open_store
from tests.store.history import SEEDS, write_history
from tests.store.tiny import RECIPE, voxels


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("format") / "store"
    write_history(root)
    return root


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def attributes(path: Path) -> Any:
    return json.loads((path / "zarr.json").read_text())["attributes"]


def unpacked(content: bytes, decompress: Any) -> bytes:
    """A chunk without its checksum, which is verified."""
    assert google_crc32c.value(content[:-4]) == int.from_bytes(content[-4:], "little")
    result: bytes = decompress(content[:-4])
    return result


def column(table: Path, name: str) -> Any:
    metadata = json.loads((table / name / "zarr.json").read_text())
    shape = metadata["shape"]
    chunk = table / name / "/".join(["c", *["0"] * len(shape)])
    if not chunk.exists():
        assert 0 in shape
        return np.empty(shape, "O" if metadata["data_type"] == "string" else metadata["data_type"])
    content = unpacked(chunk.read_bytes(), zstd.decompress)
    if metadata["data_type"] != "string":
        return np.frombuffer(content, np.dtype(metadata["data_type"]).newbyteorder("<")).reshape(shape)
    texts, position = [], 4
    for _ in range(struct.unpack_from("<I", content)[0]):
        (size,) = struct.unpack_from("<I", content, position)
        texts.append(content[position + 4 : position + 4 + size].decode())
        position += 4 + size
    return np.array(texts, object).reshape(shape)


def test_objects_columns_and_root_have_their_digests(root: Path) -> None:
    latest = attributes(root)["spine_etl"]["latest"]
    commit = attributes(root / f"versions/{latest['version']}")
    table = root / commit["path"]
    assert latest == {key: commit[key] for key in ("version", "path", "root_digest", "studies", "rows")}
    written = {str(path.relative_to(table)): path for path in table.rglob("*") if path.is_file()}
    assert {key: sha256(path.read_bytes()) for key, path in written.items()} == commit["objects"]

    about = attributes(table)
    uids = column(table, "study_uid")
    rows = sorted(np.flatnonzero(column(table, "in_version")).tolist(), key=lambda row: uids[row].encode())
    assert [uids[row] for row in rows] == sorted(uid for uid, _ in SEEDS.values())
    owners, orders = {}, {}
    for part in ("box", "run"):
        owners[part] = np.array([rows.index(row) for row in column(table, f"{part}_row")], np.int32)
        orders[part] = np.argsort(owners[part], kind="stable")
    codes = {"mask_name": about["mask_names"], "warnings": about["warning_codes"]}
    digests = {}
    for name in {key.partition("/")[0] for key in written} - {
        "zarr.json", "row", "in_version", "study_uid", "level", "warning",
    }:  # fmt: skip
        values = column(table, name)
        part, _, rest = name.partition("_")
        if rest == "row":
            values = owners[part]
        values = values[orders.get(part, rows)]
        data_type = json.loads((table / name / "zarr.json").read_text())["data_type"]
        description = [name, data_type, list(values.shape), codes.get(name, [])]
        digests[name] = sha256(compact(description) + values.tobytes())
    assert digests == commit["columns"]

    folds = commit["folds"]
    refusals = [[entry["uid"], entry["code"]] for entry in about["refused"]]
    content = [about["fingerprint"], [folds["count"], folds["file"]], sorted(digests.items()), refusals]
    assert sha256(compact(content)) == commit["root_digest"]


def test_fingerprint(root: Path) -> None:
    store = attributes(root)["spine_etl"]
    recipe = {
        "levels": {"C1": 1, "C2": 2},
        "crop": {"spacing_mm": 1.0, "shape": [4, 6, 8]},
        "overview": {"spacing_mm": 4.0, "shape": [8, 4, 4]},
    }
    assert {name: store["recipe"][name] for name in recipe} == recipe
    numbers = {number: sha256(json.dumps([3, number, recipe]).encode()) for number in range(20)}
    assert store["fingerprint"] in numbers.values()


def test_one_crop_is_read_by_its_range(root: Path) -> None:
    table = root / attributes(root)["spine_etl"]["latest"]["path"]
    checksums = column(table, "image_crc32c")
    for row, (_, seed) in SEEDS.items():
        content = (root / f"image/c/{row}/0/0/0/0").read_bytes()
        index = content[-16 * 2 - 4 :]
        assert google_crc32c.value(index[:-4]) == int.from_bytes(index[-4:], "little")
        for level in range(2):
            offset, size = struct.unpack_from("<QQ", index, 16 * level)
            chunk = content[offset : offset + size]
            assert int.from_bytes(chunk[-4:], "little") == checksums[row, level]
            crop = np.frombuffer(unpacked(chunk, blosc.decompress), "<i2").reshape(4, 6, 8)
            np.testing.assert_array_equal(crop, voxels(seed)["image"][level])


def test_position_of_a_voxel(root: Path) -> None:
    table = root / attributes(root)["spine_etl"]["latest"]["path"]
    row = column(table, "study_uid").tolist().index("1.3")
    left, posterior, superior = column(table, "crop_origin_mm")[row, 0]
    store = open_store(root)
    z, y, x = 3, 1, 2
    expected = (left + x, posterior + y, superior + z)  # the voxels' edge is 1 mm
    assert RECIPE.crop.spacing_mm == 1
    np.testing.assert_allclose(store.crop_grid(store.index("1.3"), "C1").to_mm((z, y, x)), expected)
