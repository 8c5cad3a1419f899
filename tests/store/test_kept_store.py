"""A store that was written when schema 3 was new: every later release must read these numbers."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest

from spine_etl.store import Store, open_store
from spine_etl.store.check import check_store
from spine_etl.store.record import Record

ARCHIVE = Path(__file__).parent / "kept" / "schema3.zip"
UIDS = [f"1.2.826.0.1.3680043.{number}" for number in (54193, 62112, 70031, 77950)]
FRACTURES = {54193: ["C4", "C5"], 62112: [], 70031: ["C3", "C7"], 77950: []}
"""What the phantom printed when it made the studies."""
IMAGES = ["69904e45fe5f", "71b6d8fa6acc", "a8e112af0f5c", "7b50e120978b"]
MASKS = ["7959ab5c88e5", "2386b5c2f7b9", "1470e601c6ed", "c858b21ce4b7"]
OVERVIEW_IMAGES = ["623e37feb78c", "efcee0ab7352", "a774bef561da", "459cc91f1e2a"]
OVERVIEW_MASKS = ["57b4c136e5a1", "361aa86ed82b", "2e060e5dd7f9", "59ec91dcb7dc"]
"""Starts of the SHA-256 of the voxels in C order, little-endian."""
ROOT_DIGESTS = [
    "5448c4e97f24f4fae971550c1f999179db3901a50b710f63c8932225089be2c0",
    "1f9f76ae316e3eb557ca5a0e168ddfa4672ced057b864f8d3e39eae9bfafc36f",
    "b6939716a47f96202ef0c58aaa97f2722c4e753af8c99a938abe45532131db5e",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kept")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(root)
    return root


def test_archive_is_small() -> None:
    assert ARCHIVE.stat().st_size < 300_000


@pytest.mark.parametrize(
    ("version", "studies", "rows", "folds", "digest"),
    [
        (1, [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 1, 0], ROOT_DIGESTS[0]),
        (2, [0, 2, 3], [0, 2, 3], [0, 1, 0], ROOT_DIGESTS[1]),
        (3, [0, 1, 2, 3], [0, 4, 2, 3], [0, 1, 2, 0], ROOT_DIGESTS[2]),
    ],
)
def test_each_version_is_read(
    root: Path, version: int, studies: list[int], rows: list[int], folds: list[int], digest: str
) -> None:
    store = open_store(root, version)
    assert store.study_uids == [UIDS[study] for study in studies]
    assert store.table["row"].tolist() == rows
    assert store.table["fold"].tolist() == folds
    assert store.recipe.folds == max(folds) + 1
    assert store.root_digest == digest
    assert [(entry["uid"], entry["code"]) for entry in store.refused] == (
        [(UIDS[1], "DICOM_UNREADABLE")] if version == 2 else []
    )
    for index, study in enumerate(studies):
        assert_study(store, index, study)
    assert list(check_store(store)) == []


def assert_study(store: Store, index: int, study: int) -> None:
    fractured = FRACTURES[int(UIDS[study].rsplit(".", 1)[1])]
    assert store.table["fracture"][index].tolist() == [int(level in fractured) for level in store.levels]
    assert store.table["patient_overall"][index] == bool(fractured)
    assert store.located()[index].all() == (study != 3)
    assert store.table["mask_source"][index] == int(study != 3)
    expected = (IMAGES[study], MASKS[study], OVERVIEW_IMAGES[study], OVERVIEW_MASKS[study])
    for name, digest in zip(store.arrays, expected, strict=True):
        assert hashlib.sha256(store.read(name, index).tobytes()).hexdigest()[:12] == digest


def test_values_of_the_first_study(root: Path) -> None:
    store = open_store(root)
    assert store.levels == ["C1", "C2", "C3", "C4", "C5", "C6", "C7"]
    assert store.image(0)[3, 6, 7, 6:12].tolist() == [465, 236, 236, 490, 457, 154]
    assert store.mask(0)[3, 6, 7, 6:12].tolist() == [4, 0, 0, 4, 4, 0]
    assert store.read_crop("image", 0, 3)[6, 7, 6:12].tolist() == [465, 236, 236, 490, 457, 154]
    grid = store.crop_grid(0, "C4")
    np.testing.assert_allclose(grid.to_mm((0, 0, 0)), [-22.499, -140.455750, -450.094008], atol=1e-6)
    np.testing.assert_allclose(grid.to_mm((1, 1, 1)) - grid.to_mm((0, 0, 0)), 5.0)
    np.testing.assert_allclose(
        store.overview_grid(0).to_mm((0, 0, 0)), [-100.233375, -210.846375, -613.3625], atol=1e-6
    )
    np.testing.assert_allclose(store.table["source_spacing_mm"][0], [3.179, 2.46875, 2.46875], rtol=1e-6)
    assert store.table["slices"].tolist() == [60, 60, 60, 60]
    np.testing.assert_allclose(store.table["label_share"][0], 1)


def test_warnings_and_boxes(root: Path) -> None:
    table = open_store(root).table
    assert table.warning_codes == ("SLICE_LEFT_OUT",)
    assert table["warnings"].tolist() == [[0], [0], [1], [0]]
    assert table.mask_names == ("",)
    assert table["box_study"].tolist() == [2] * 8
    assert table["box_level"].tolist() == [2] * 4 + [6] * 4


def test_slices_of_each_level(root: Path) -> None:
    store = open_store(root)
    shown = store.levels_in_slices(UIDS[0], [1, 13, 29, 49])
    assert shown == [set(), {"C1", "C2"}, {"C4"}, {"T1"}]
    assert store.levels_in_slices(UIDS[3], [29]) == [set()]  # it has no mask


def test_records_are_read(root: Path) -> None:
    for uid, row in zip(UIDS, (0, 4, 2, 3), strict=True):
        record = Record.model_validate_json((root / Record.key(uid)).read_bytes())
        assert (record.uid, record.row) == (uid, row)
    (warning,) = Record.model_validate_json((root / Record.key(UIDS[2])).read_bytes()).warnings
    assert (warning.code, warning.text) == ("SLICE_LEFT_OUT", "999.dcm was left out: duplicate.")
