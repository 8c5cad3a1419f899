"""Faults of masks from elsewhere: each one refuses its study with a code, or is named; none is silent."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest

from spine_etl.dicom import read_series
from spine_etl.errors import SpineError
from spine_etl.nifti import read_label_map, write_volume
from spine_etl.phantom import write_phantom
from spine_etl.pipeline import crop_study
from spine_etl.resample import sample_labels
from spine_etl.source.files import open_source
from spine_etl.source.label_names import LabelNames, load_label_names
from spine_etl.source.layout import Study, discover_studies
from spine_etl.source.masks import (
    EMPTY,
    NO_LEVEL,
    NO_STUDY,
    NOT_A_MASK,
    NOT_NAMED,
    TWO_STUDIES,
    MaskAssignment,
    assign_masks,
)
from tests.external_masks import (
    RECIPE,
    ct_datasets,
    load,
    renumber,
    save,
    write_classes,
    write_dicom_seg,
    write_multi_label,
)

NAMES = load_label_names("totalsegmentator-v2")
ALTERNATING = (1 + np.arange(96, dtype=np.uint8) % 2)[:, None, None]


class Case(NamedTuple):
    """Where a fault is written: the mask of the study, that of another study, and the folder of masks."""

    study: Study
    mask: Path
    other: Path
    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / f"{self.study.uid}.nii.gz"

    @property
    def classes(self) -> Path:
        return self.folder / self.study.uid

    @property
    def series(self) -> Path:
        return self.mask.parents[1] / "train_images" / self.study.uid

    def dicom_labels(self) -> np.ndarray:
        """The study's segmentation on its CT's voxels, from foot to head."""
        grid = read_series(self.series).grid
        labels = sample_labels(read_label_map(self.mask), grid)
        return labels if grid.to_mm([1, 0, 0])[2] > grid.to_mm([0, 0, 0])[2] else labels[::-1].copy()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_phantom(folder, 2, 5, size=96, slices=60, masked_share=1, transfer_syntax="explicit")
    return folder


@pytest.fixture
def case(source: Path, tmp_path: Path) -> Case:
    study, other = discover_studies(source, list(RECIPE.levels))
    masks = [source / "segmentations" / f"{uid}.nii" for uid in (study.uid, other.uid)]
    (tmp_path / "masks").mkdir()
    return Case(replace(study, mask=None), *masks, tmp_path / "masks")


def assign(case: Case, names: LabelNames = NAMES) -> MaskAssignment:
    return assign_masks([case.study], open_source(case.folder), names)


def multi(case: Case, names: str = "totalsegmentator-v2") -> None:
    write_multi_label(case.mask, case.path, load_label_names(names))


def edit_classes(case: Case, level: str, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    write_classes(case.mask, case.classes)
    path = case.classes / f"vertebrae_{level}.nii.gz"
    labels, affine = load(path)
    save(path, edit(labels), affine)


def truncate(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def with_table(case: Case) -> None:
    """A file of version 1, with its table of labels in the header as TotalSegmentator writes it."""
    names = load_label_names("totalsegmentator-v1")
    labels, affine = load(case.mask)
    entries = "".join(
        f'<Label Key="{number}" Red="1" Alpha="1"><![CDATA[vertebrae_{level}]]></Label>\n'
        for level, number in names.labels.items()
    )
    xml = f"<?xml version='1.0'?> <CaretExtension><LabelTable>{entries}</LabelTable></CaretExtension>"
    image = nib.Nifti1Image(renumber(labels, names.labels), affine)
    image.header.extensions.append(nib.nifti1.Nifti1Extension(0, xml.encode()))
    nib.save(image, case.path)


def exchanged_classes(case: Case) -> None:
    write_classes(case.mask, case.classes)
    first, second = (case.classes / f"vertebrae_{level}.nii.gz" for level in ("C2", "C7"))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def shifted_class(case: Case) -> None:
    write_classes(case.mask, case.classes)
    path = case.classes / "vertebrae_C4.nii.gz"
    labels, affine = load(path)
    affine[2, 3] += 3
    save(path, labels, affine)


def overlapping(case: Case) -> None:
    labels, _ = load(case.mask)
    edit_classes(case, "C5", lambda own: ((own > 0) | (labels == 4)).astype(np.uint8))


def twice(case: Case) -> None:
    multi(case)
    write_classes(case.mask, case.classes)


def probabilities(case: Case) -> None:
    labels, affine = load(case.mask)
    nib.save(nib.Nifti1Image((labels > 0) * np.float32(0.83), affine), case.path)


def four_dimensional(case: Case) -> None:
    labels, affine = load(case.mask)
    nib.save(nib.Nifti1Image(np.stack([labels == 1, labels == 2], -1).astype(np.uint8), affine), case.path)


def all_empty(case: Case) -> None:
    write_classes(case.mask, case.classes)
    for path in case.classes.iterdir():
        labels, affine = load(path)
        save(path, np.zeros_like(labels), affine)


def segmentation(case: Case, **options: bool) -> Path:
    path = case.folder / "mask.dcm"
    write_dicom_seg(case.series, case.dicom_labels(), path, **options)  # type: ignore[arg-type]
    return path


REFUSED: dict[str, tuple[Callable[[Case], object], str]] = {
    "version 2 read as RSNA's": (lambda case: multi(case), "LABEL_UNKNOWN rsna"),
    "version 2 read as VerSe's": (lambda case: multi(case), "LABEL_UNKNOWN verse"),
    "RSNA's read as version 2": (lambda case: multi(case, "rsna"), "MASK_IMPLAUSIBLE"),
    "version 2 read as version 1": (lambda case: multi(case), "MASK_IMPLAUSIBLE totalsegmentator-v1"),
    "version 1 with a table": (with_table, "LABEL_NAMES_DIFFER"),
    "truncated file": (lambda case: (multi(case), truncate(case.path, 0.5)), "MASK_UNREADABLE"),
    "empty file": (lambda case: case.path.write_bytes(b""), "MASK_UNREADABLE"),
    "text": (lambda case: case.path.write_text("no mask"), "MASK_UNREADABLE"),
    "probabilities": (probabilities, "MASK_UNREADABLE"),
    "four axes": (four_dimensional, "MASK_UNREADABLE"),
    "the CT itself": (
        lambda case: write_volume(case.path, read_series(case.series)),
        "LABEL_UNKNOWN",
    ),
    "no label at all": (
        lambda case: save(case.path, np.zeros_like(load(case.mask)[0]), load(case.mask)[1]),
        "MASK_IMPLAUSIBLE",
    ),
    "another study's": (
        lambda case: write_multi_label(case.other, case.path, NAMES),
        "MASK_OUTSIDE_VOLUME MASK_IMPLAUSIBLE",
    ),
    "file and class files": (twice, "MASK_AMBIGUOUS"),
    "class files overlap": (overlapping, "CLASSES_CONFLICT"),
    "class files on two grids": (shifted_class, "CLASSES_CONFLICT"),
    "class files exchanged": (exchanged_classes, "MASK_IMPLAUSIBLE"),
    "class files all empty": (all_empty, "MASK_IMPLAUSIBLE"),
    "class file with two labels": (
        lambda case: edit_classes(case, "C3", lambda own: own * ALTERNATING),
        "MASK_UNREADABLE",
    ),
    "class file truncated": (
        lambda case: (
            write_classes(case.mask, case.classes),
            truncate(case.classes / "vertebrae_C6.nii.gz", 0.7),
        ),
        "MASK_UNREADABLE",
    ),
    "unknown class file": (
        lambda case: (
            write_classes(case.mask, case.classes),
            save(case.classes / "liver.nii", *load(case.mask)),
        ),
        "LABEL_UNKNOWN rsna",
    ),
    "segments overlap": (lambda case: segmentation(case, overlap=True), "CLASSES_CONFLICT"),
    "segmentation truncated": (lambda case: truncate(segmentation(case), 0.6), "MASK_UNREADABLE"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_fault_refuses_the_study(fault: str, case: Case) -> None:
    write, expected = REFUSED[fault]
    codes = {word for word in expected.split() if word.isupper()}
    label_names = [word for word in expected.split() if not word.isupper()]
    write(case)
    assignment = assign(case, load_label_names(label_names[0]) if label_names else NAMES)
    with pytest.raises(SpineError) as caught:
        crop_study(assignment.studies[0], RECIPE)
    assert caught.value.code in codes, caught.value
    assert str(case.folder) not in str(caught.value)


NAMED: dict[str, tuple[Callable[[Case], object], str]] = {
    "empty folder": (lambda case: case.classes.mkdir(), EMPTY),
    "no vertebra in the folder": (
        lambda case: save(case.classes / "liver.nii.gz", *load(case.mask)),
        NO_LEVEL,
    ),
    "an absent study's": (lambda case: save(case.folder / "1.2.3.nii.gz", *load(case.mask)), NOT_NAMED),
    "named for an image": (
        lambda case: save(case.folder / f"{case.study.uid}_0000.nii.gz", *load(case.mask)),
        NOT_NAMED,
    ),
    "a study's file in another's folder": (
        lambda case: save(case.classes / f"{case.study.uid}x.nii.gz", *load(case.mask)),
        NO_LEVEL,
    ),
    "another format": (lambda case: (case.folder / f"{case.study.uid}.nrrd").write_text("NRRD"), NOT_A_MASK),
    "the CT's slices": (lambda case: ct_datasets(case.series)[0].save_as(case.folder / "1.dcm"), NOT_A_MASK),
    "a segmentation's first bytes": (lambda case: truncate(segmentation(case), 0.001), NOT_A_MASK),
}


@pytest.mark.parametrize("fault", NAMED)
def test_fault_is_named(fault: str, case: Case) -> None:
    write, reason = NAMED[fault]
    write(case)
    assignment = assign(case)
    assert [unused.reason for unused in assignment.unused] == [reason]
    assert assignment.studies[0].external_mask is None
    assert crop_study(assignment.studies[0], RECIPE).record.mask_source == "none"


def test_segmentation_of_an_absent_study_is_named(case: Case, source: Path) -> None:
    segmentation(case)
    others = [study for study in discover_studies(source, list(RECIPE.levels)) if study.uid != case.study.uid]
    unused = assign_masks(others, open_source(case.folder), NAMES).unused
    assert unused == [("mask.dcm", NO_STUDY)]


def test_file_in_the_folder_of_another_study_is_named(case: Case, source: Path) -> None:
    studies = [replace(study, mask=None) for study in discover_studies(source, list(RECIPE.levels))]
    save(case.folder / studies[0].uid / f"{studies[1].uid}.nii.gz", *load(case.mask))
    assert [unused.reason for unused in assign_masks(studies, open_source(case.folder), NAMES).unused] == [
        TWO_STUDIES
    ]


def test_misspelt_class_warns(case: Case) -> None:
    """TotalSegmentator's other classes are ignored, so a class under another name is an absent level."""
    write_classes(case.mask, case.classes)
    (case.classes / "vertebrae_C1.nii.gz").rename(case.classes / "vertebrae-C1.nii.gz")
    record = crop_study(assign(case).studies[0], RECIPE).record
    assert record.levels["C1"].status == "absent"
    warnings = [warning for warning in record.warnings if warning.code == "CLASS_NAME_IGNORED"]
    assert [warning.text for warning in warnings] == [
        "Class files with names like a vertebra's are ignored: vertebrae-C1."
    ]


def test_version_1_read_as_version_2_without_a_table_warns(case: Case) -> None:
    """C1 to T2 of version 1 are T3 to T11 of version 2: in order and of bone, but no level of the recipe."""
    multi(case, "totalsegmentator-v1")
    record = crop_study(assign(case).studies[0], RECIPE).record
    assert {level.status for level in record.levels.values()} == {"absent"}
    assert "NO_LEVEL_SHOWN" in [warning.code for warning in record.warnings]


def test_absent_folder_or_damaged_archive_refuses_the_build(case: Case) -> None:
    with pytest.raises(SpineError) as absent:
        assign_masks([case.study], open_source(case.folder / "absent"), NAMES)
    assert absent.value.code == "SOURCE_NOT_FOUND"
    path = case.folder / "masks.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(case.mask, "1.nii")
    truncate(path, 0.9)
    with pytest.raises(SpineError) as damaged:
        open_source(path)
    assert damaged.value.code == "ARCHIVE_INVALID"
