"""A mask from elsewhere gives the same row as the study's own segmentation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from spine_etl.dicom import read_series
from spine_etl.masks import read_mask
from spine_etl.nifti import read_label_map
from spine_etl.phantom import write_phantom
from spine_etl.pipeline import crop_study, process_study
from spine_etl.recipe import Recipe
from spine_etl.s3 import open_bucket
from spine_etl.source.files import LocalFolder, open_source
from spine_etl.source.label_names import LabelNames, load_label_names
from spine_etl.source.layout import Study, discover_studies
from spine_etl.source.masks import assign_masks
from spine_etl.store.schema import MASK_SOURCE
from spine_etl.store.writer import StoreWriter
from spine_etl.study_record import source_digest
from tests.external_masks import (
    LEVELS,
    RECIPE,
    load,
    phantom_masks,
    renumber,
    save,
    write_classes,
    write_multi_label,
)
from tests.true_localizer import TrueLocalizer

OWN = LabelNames(name="ours", labels={level: 200 - number for number, level in LEVELS.items()})
ALL_NAMES = [
    *map(
        load_label_names,
        ("rsna", "verse", "totalsegmentator-v1", "totalsegmentator-v2", "totalsegmentator-v3"),
    ),
    OWN,
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_phantom(folder, 1, 5, size=96, slices=60, masked_share=1)
    return folder


@pytest.fixture(scope="module")
def study(source: Path) -> Study:
    (study,) = discover_studies(source, list(RECIPE.levels))
    return study


def with_masks(study: Study, folder: Path | str, names: LabelNames) -> Study:
    """The study as if it had no segmentation of its own, with its mask in the folder."""
    assignment = assign_masks([replace(study, mask=None)], open_source(folder), names)
    assert assignment.unused == []
    (assigned,) = assignment.studies
    assert assigned.external_mask is not None
    return assigned


def assert_same_row(external: Study, own: Study, names: LabelNames) -> None:
    crops, expected = crop_study(external, RECIPE), crop_study(own, RECIPE)
    for name, voxels in expected.voxels.items():
        np.testing.assert_array_equal(crops.voxels[name], voxels)
    assert (crops.record.mask_source, crops.record.mask_name) == ("external", names.name)
    assert (expected.record.mask_source, expected.record.mask_name) == ("given", "")
    assert crops.record.levels == expected.record.levels
    assert crops.record.warnings == expected.record.warnings
    assert crops.record.source_digest == source_digest(external) != source_digest(own)


@pytest.mark.parametrize("names", ALL_NAMES, ids=lambda names: names.name)
def test_renumbered_mask_gives_the_same_row(
    names: LabelNames, source: Path, study: Study, tmp_path: Path
) -> None:
    write_multi_label(phantom_masks(source)[study.uid], tmp_path / f"{study.uid}.nii.gz", names)
    assert_same_row(with_masks(study, tmp_path, names), study, names)


def test_class_files_give_the_same_row(source: Path, study: Study, tmp_path: Path) -> None:
    names = load_label_names("totalsegmentator")
    write_classes(phantom_masks(source)[study.uid], tmp_path / study.uid)
    (tmp_path / study.uid / "liver.nii.gz").write_bytes(b"never read")
    assert_same_row(with_masks(study, tmp_path, names), study, names)


def test_organs_of_totalsegmentator_become_background(source: Path, study: Study, tmp_path: Path) -> None:
    names = load_label_names("totalsegmentator-v2")
    labels, affine = load(phantom_masks(source)[study.uid])
    renumbered = renumber(labels, names.labels)
    renumbered[(labels == 0) & (np.arange(labels.shape[0]) < 5)[:, None, None]] = 90  # brain
    save(tmp_path / f"{study.uid}.nii.gz", renumbered, affine)
    assert_same_row(with_masks(study, tmp_path, names), study, names)


def test_vertebrae_that_the_recipe_does_not_contain_become_background(
    source: Path, study: Study, tmp_path: Path
) -> None:
    labels, affine = load(phantom_masks(source)[study.uid])
    save(tmp_path / f"{study.uid}.nii.gz", labels, affine)
    recipe = Recipe.model_validate(RECIPE.model_dump() | {"other_labels": {"T1": 200}})
    mask = read_mask(with_masks(study, tmp_path, load_label_names("verse")), recipe)
    assert mask is not None
    expected = np.where(labels == 8, 200, np.where(labels > 8, 0, labels))
    np.testing.assert_array_equal(mask.labels, expected.T)


def test_other_label_names_change_the_digest(source: Path, study: Study, tmp_path: Path) -> None:
    write_multi_label(phantom_masks(source)[study.uid], tmp_path / f"{study.uid}.nii.gz", OWN)
    first = source_digest(with_masks(study, tmp_path, OWN))
    assert source_digest(with_masks(study, tmp_path, OWN)) == first
    other = OWN.model_copy(update={"ignore": (1,)})
    assert source_digest(with_masks(study, tmp_path, other)) != first


def test_given_external_and_predicted_masks_are_in_one_store(tmp_path: Path) -> None:
    source, masks = tmp_path / "source", tmp_path / "masks"
    write_phantom(source, 4, 5, size=96, slices=60, masked_share=1)
    own = phantom_masks(source)
    given, external, predicted, none = own
    write_multi_label(own[external], masks / f"{external}.nii.gz", OWN)
    studies = discover_studies(source, list(RECIPE.levels))
    without = [study if study.uid == given else replace(study, mask=None) for study in studies]
    assigned = assign_masks(without, open_source(masks), OWN).studies
    writer = StoreWriter(tmp_path / "store", RECIPE)
    records = []
    for study in assigned:
        ct = read_series(study.folder).grid
        localizer = TrueLocalizer(read_label_map(own[study.uid]), ct, RECIPE, {})
        records.append(process_study(study, writer, localizer=None if study.uid == none else localizer))
    store = writer.commit(records)
    shown = {
        uid: (MASK_SOURCE[store.table["mask_source"][index]], store.table.mask_names[name])
        for index, (uid, name) in enumerate(zip(store.study_uids, store.table["mask_name"], strict=True))
    }
    assert shown == {
        given: ("given", ""),
        external: ("external", "ours"),
        predicted: ("predicted", "first"),
        none: ("none", ""),
    }
    located = store.located().sum(axis=1)
    assert located[store.index(given)] == located[store.index(external)] == len(RECIPE.levels)
    assert located[store.index(predicted)] > 0
    assert located[store.index(none)] == 0


def test_archive_of_masks_gives_the_same_row(source: Path, study: Study, tmp_path: Path) -> None:
    write_multi_label(phantom_masks(source)[study.uid], tmp_path / "masks" / f"{study.uid}.nii.gz", OWN)
    write_classes(phantom_masks(source)[study.uid], tmp_path / "classes" / study.uid)
    for name in ("masks", "classes"):
        archive = Path(shutil.make_archive(str(tmp_path / name), "zip", tmp_path / name))
        assert_same_row(with_masks(study, archive, OWN), study, OWN)


def test_masks_on_s3_give_the_same_row(source: Path, study: Study, tmp_path: Path, s3_bucket: str) -> None:
    write_multi_label(phantom_masks(source)[study.uid], tmp_path / f"{study.uid}.nii.gz", OWN)
    key = f"masks/{study.uid}_seg.nii.gz"
    open_bucket(s3_bucket).put(key, (tmp_path / f"{study.uid}.nii.gz").read_bytes())
    assert_same_row(with_masks(study, f"{s3_bucket}/masks", OWN), study, OWN)


@pytest.mark.real_data
def test_real_mask_with_the_numbers_of_verse(real_data: Path, tmp_path: Path) -> None:
    """A lumbar CT's mask, L2 to L4, in another axis order: each vertebra gets the number of its name."""
    path = real_data / "ct_mask_pair_lumbar" / "sub-ct_seg-vert_label-22_msk.nii.gz"
    shutil.copyfile(path, tmp_path / "1.2.3_seg.nii.gz")
    study = with_masks(Study("1.2.3", LocalFolder(tmp_path)), tmp_path, load_label_names("verse"))
    levels = {"levels": {"L4": 1, "L2": 2}, "other_labels": {"L3": 3}}
    mask = read_mask(study, Recipe.model_validate(RECIPE.model_dump() | levels))
    stored = np.asarray(nibabel.load(path).dataobj)
    assert mask is not None
    for own, number in {21: 2, 22: 3, 23: 1}.items():
        assert (stored == own).sum() > 1000
        np.testing.assert_array_equal(number == mask.labels.T, stored == own)


def as_float(labels: np.ndarray, affine: np.ndarray) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(labels.astype(np.float32), affine)


def as_255(labels: np.ndarray, affine: np.ndarray) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(labels * np.uint8(255), affine)


def as_int64(labels: np.ndarray, affine: np.ndarray) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(labels.astype(np.int64), affine, dtype=np.int64)


def with_other_axes(labels: np.ndarray, affine: np.ndarray) -> nibabel.Nifti1Image:
    # Stored axes 2, 0, 1, the first of them reversed.
    return nibabel.Nifti1Image(labels, affine).as_reoriented(np.array([[1, 1], [2, 1], [0, -1]]))


def with_rounded_affine(labels: np.ndarray, affine: np.ndarray) -> nibabel.Nifti1Image:
    rounded = affine.copy()
    rounded[:3, 3] += np.array([1e-4, -1e-4, 1e-4]) * labels.any()
    return nibabel.Nifti1Image(labels, rounded)


@pytest.mark.parametrize("write", [as_float, as_255, as_int64, with_other_axes, with_rounded_affine])
def test_class_files_as_other_tools_write_them(
    write: Callable[[np.ndarray, np.ndarray], nibabel.Nifti1Image], source: Path, study: Study, tmp_path: Path
) -> None:
    labels, affine = load(phantom_masks(source)[study.uid])
    (tmp_path / study.uid).mkdir()
    for number, level in LEVELS.items():
        image = write((labels == number).astype(np.uint8), affine)
        nibabel.save(image, tmp_path / study.uid / f"vertebrae_{level}.nii.gz")
    crops = crop_study(with_masks(study, tmp_path, load_label_names("totalsegmentator")), RECIPE)
    expected = crop_study(study, RECIPE)
    assert crops.record.levels.keys() == expected.record.levels.keys()
    assert crops.grids.keys() == expected.grids.keys()
    same = np.mean(crops.voxels["mask"] == expected.voxels["mask"])
    assert same > 0.999  # a sample on a tie may change by the rounded affine
    assert [str(warning) for warning in crops.record.warnings] == [str(w) for w in expected.record.warnings]


def test_only_some_classes_are_absent_levels(source: Path, study: Study, tmp_path: Path) -> None:
    write_classes(phantom_masks(source)[study.uid], tmp_path / study.uid)
    for level in ("C1", "C2", "C6", "C7", *(f"T{number}" for number in range(1, 13))):
        (tmp_path / study.uid / f"vertebrae_{level}.nii.gz").unlink()
    crops = crop_study(with_masks(study, tmp_path, load_label_names("totalsegmentator")), RECIPE)
    assert list(crops.grids) == ["C3", "C4", "C5"]
    assert {level.status for name, level in crops.record.levels.items() if name not in crops.grids} == {
        "absent"
    }


def test_mask_of_a_part_of_the_field_on_a_coarser_grid(source: Path, study: Study, tmp_path: Path) -> None:
    """A tool may write its own grid: here every other voxel along two axes, without the outer ones."""
    labels, affine = load(phantom_masks(source)[study.uid])
    image = nibabel.Nifti1Image(renumber(labels, OWN.labels), affine).slicer[4:-4:2, 6:-6:2, :]
    nibabel.save(image, tmp_path / f"{study.uid}.nii.gz")
    crops, expected = crop_study(with_masks(study, tmp_path, OWN), RECIPE), crop_study(study, RECIPE)
    assert crops.grids.keys() == expected.grids.keys()
    for level, grid in crops.grids.items():
        assert np.abs(grid.center_mm - expected.grids[level].center_mm).max() <= 4
