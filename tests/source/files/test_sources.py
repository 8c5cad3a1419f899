"""The same source as a folder, in archives and on S3 gives the same voxels."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from spine_etl.dicom import read_header, read_series, series_files
from spine_etl.errors import SourceNotFound
from spine_etl.nifti import read_label_map
from spine_etl.pipeline import process_study, source_digest
from spine_etl.recipe import load_recipe
from spine_etl.source.files import open_source
from spine_etl.source.layout import discover_studies, studies_without_images, tables_modified_at
from spine_etl.store.writer import StoreWriter

RECIPE = load_recipe("quick")
LEVELS = list(RECIPE.levels)

PLACES = [
    "stored",
    "deflated",
    "top folder",
    "zip64",
    pytest.param("s3", marks=pytest.mark.integration),
    pytest.param("s3 prefix", marks=pytest.mark.integration),
]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, phantom: Path, pack) -> str:
    kind = request.param
    if kind.startswith("s3"):
        address = request.getfixturevalue("s3_bucket") + ("/sets/a b" if kind == "s3 prefix" else "")
        put(phantom, address)
        return address
    method = zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED
    return str(pack(method, "rsna 2022/" if kind == "top folder" else "", kind == "zip64"))


def put(folder: Path, address: str) -> None:
    from spine_etl.s3 import open_bucket

    client = open_bucket(address)
    for path in folder.rglob("*"):
        if path.is_file():
            client.put(path.relative_to(folder).as_posix(), path.read_bytes())


def test_the_same_lies_in_it(phantom: Path, place: str, tmp_path: Path) -> None:
    ours, truths = discover_studies(place, LEVELS), discover_studies(phantom, LEVELS)
    assert len(truths) == 3
    assert sum(study.mask is not None for study in truths) == 2
    writer, reference = StoreWriter(tmp_path / "ours", RECIPE), StoreWriter(tmp_path / "truth", RECIPE)
    for study, truth in zip(ours, truths, strict=True):
        assert (study.uid, study.labels, study.boxes) == (truth.uid, truth.labels, truth.boxes)
        volume, expected = read_series(study.folder), read_series(truth.folder)
        np.testing.assert_array_equal(volume.voxels, expected.voxels)
        np.testing.assert_array_equal(volume.grid.affine, expected.grid.affine)
        assert (volume.facts, volume.file_numbers.tolist()) == (
            expected.facts,
            expected.file_numbers.tolist(),
        )
        if truth.mask:
            labels = read_label_map(study.mask)
            np.testing.assert_array_equal(labels.labels, read_label_map(truth.mask).labels)
        sent = pickle.dumps(study)
        assert len(sent) < 2000 + 100 * expected.voxels.shape[0]  # names and numbers, never a connection
        assert b"writer-secret" not in sent
        record = process_study(pickle.loads(sent), writer)  # noqa: S301
        expected_record = process_study(truth, reference)
        assert record.refusal is None
        assert record.digests == expected_record.digests
        assert record.levels == expected_record.levels
        assert record.source_digest == source_digest(study)


def test_its_header_is_that_of_the_file(phantom: Path, place: str) -> None:
    study, truth = discover_studies(place, LEVELS)[0], discover_studies(phantom, LEVELS)[0]
    for file, expected in zip(series_files(study.folder), series_files(truth.folder), strict=True):
        assert file.name == expected.name
    assert read_header(file) == read_header(expected)


def test_a_label_without_images_is_told(place: str) -> None:
    assert studies_without_images(place, LEVELS) == []
    assert studies_without_images(open_source(place), LEVELS) == []


def test_dates_are_told_where_there_are_any(place: str) -> None:
    dates = [tables_modified_at(place), discover_studies(place, LEVELS)[0].folder.modified_at()]
    assert [date is None for date in dates] == [place.endswith(".zip")] * 2


def test_one_byte_makes_another_source(phantom: Path, pack) -> None:
    before = {study.uid: source_digest(study) for study in discover_studies(pack(), LEVELS)}

    def change(archive: zipfile.ZipFile) -> None:
        archive.writestr(f"train_images/{next(iter(before))}/LICENSE", b"no slice")
        archive.writestr(f"train_images/{list(before)[1]}/slice", bytes(128) + b"DICM")

    after = {study.uid: source_digest(study) for study in discover_studies(pack(change=change), LEVELS)}
    assert [after[uid] == before[uid] for uid in before] == [True, False, True]


@pytest.mark.parametrize(
    "wrong", ["http://host/a.zip", "gs://bucket/a", "s3://", "s3:///a", "no.zip", "nothing"]
)
def test_places_that_are_none(wrong: str) -> None:
    with pytest.raises(SourceNotFound):
        discover_studies(wrong, LEVELS)
