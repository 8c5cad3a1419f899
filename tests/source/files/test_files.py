"""A source in a folder, in an archive or on S3 gives the same studies and the same voxels."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from spine_etl.dicom import read_header, read_series, series_files
from spine_etl.errors import SourceNotFound
from spine_etl.nifti import read_label_map
from spine_etl.pipeline import process_study
from spine_etl.recipe import load_recipe
from spine_etl.source.files import open_source
from spine_etl.source.layout import discover_studies, studies_without_images, tables_modified_at
from spine_etl.store.writer import StoreWriter
from spine_etl.study_record import source_digest

RECIPE = load_recipe("quick")
LEVELS = list(RECIPE.levels)

KINDS = [
    "stored",
    "deflated",
    "top folder",
    "zip64",
    pytest.param("s3", marks=pytest.mark.integration),
    pytest.param("s3 prefix", marks=pytest.mark.integration),
]


@pytest.fixture(params=KINDS)
def source(request: pytest.FixtureRequest, phantom: Path, pack) -> str:
    """The address of a copy of ``phantom``, one for each kind of source."""
    kind = request.param
    if kind.startswith("s3"):
        address = request.getfixturevalue("s3_bucket") + ("/sets/a b" if kind == "s3 prefix" else "")
        upload(phantom, address)
        return address
    method = zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED
    return str(pack(method, "rsna 2022/" if kind == "top folder" else "", kind == "zip64"))


def upload(folder: Path, address: str) -> None:
    from spine_etl.s3 import open_bucket

    client = open_bucket(address)
    for path in folder.rglob("*"):
        if path.is_file():
            client.put(path.relative_to(folder).as_posix(), path.read_bytes())


def test_every_kind_of_source_gives_the_same_studies(phantom: Path, source: str, tmp_path: Path) -> None:
    studies, expected_studies = discover_studies(source, LEVELS), discover_studies(phantom, LEVELS)
    assert len(expected_studies) == 3
    assert sum(study.mask is not None for study in expected_studies) == 2
    writer = StoreWriter(tmp_path / "store", RECIPE)
    expected_writer = StoreWriter(tmp_path / "expected", RECIPE)
    for study, expected_study in zip(studies, expected_studies, strict=True):
        assert (study.uid, study.labels, study.boxes) == (
            expected_study.uid,
            expected_study.labels,
            expected_study.boxes,
        )
        volume, expected = read_series(study.folder), read_series(expected_study.folder)
        np.testing.assert_array_equal(volume.voxels, expected.voxels)
        np.testing.assert_array_equal(volume.grid.affine, expected.grid.affine)
        assert (volume.facts, volume.file_numbers.tolist()) == (
            expected.facts,
            expected.file_numbers.tolist(),
        )
        if expected_study.mask:
            labels = read_label_map(study.mask)
            np.testing.assert_array_equal(labels.labels, read_label_map(expected_study.mask).labels)
        pickled = pickle.dumps(study)
        assert len(pickled) < 2000 + 100 * expected.voxels.shape[0]  # names and numbers, never a connection
        assert b"writer-secret" not in pickled
        record = process_study(pickle.loads(pickled), writer)  # noqa: S301
        expected_record = process_study(expected_study, expected_writer)
        assert record.refusal is None
        assert record.objects == expected_record.objects
        assert record.levels == expected_record.levels
        assert record.source_digest == source_digest(study)


def test_every_kind_of_source_gives_the_same_header(phantom: Path, source: str) -> None:
    study, expected_study = discover_studies(source, LEVELS)[0], discover_studies(phantom, LEVELS)[0]
    for file, expected in zip(series_files(study.folder), series_files(expected_study.folder), strict=True):
        assert file.name == expected.name
    assert read_header(file) == read_header(expected)


def test_studies_without_images_takes_an_address_or_a_folder(source: str) -> None:
    assert studies_without_images(source, LEVELS) == []
    assert studies_without_images(open_source(source), LEVELS) == []


def test_modification_times_exist_except_in_archives(source: str) -> None:
    times = [tables_modified_at(source), discover_studies(source, LEVELS)[0].folder.modified_at()]
    assert [time is None for time in times] == [source.endswith(".zip")] * 2


def test_source_digest_changes_with_dicom_files_only(phantom: Path, pack) -> None:
    before = {study.uid: source_digest(study) for study in discover_studies(pack(), LEVELS)}

    def change(archive: zipfile.ZipFile) -> None:
        archive.writestr(f"train_images/{next(iter(before))}/LICENSE", b"not a slice")
        archive.writestr(f"train_images/{list(before)[1]}/slice", bytes(128) + b"DICM")

    after = {study.uid: source_digest(study) for study in discover_studies(pack(change=change), LEVELS)}
    assert [after[uid] == before[uid] for uid in before] == [True, False, True]


@pytest.mark.parametrize(
    "address", ["http://host/a.zip", "gs://bucket/a", "s3://", "s3:///a", "no.zip", "nothing"]
)
def test_invalid_or_missing_source_is_refused(address: str) -> None:
    with pytest.raises(SourceNotFound):
        discover_studies(address, LEVELS)
