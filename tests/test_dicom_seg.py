"""DICOM segmentations written by highdicom from phantoms, against the phantoms' own segmentations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from spine_etl.dicom import read_series
from spine_etl.dicom_seg import read_dicom_seg
from spine_etl.errors import ClassesConflict, LabelUnknown, MaskUnreadable, SourceNotFound, SpineError
from spine_etl.nifti import read_label_map
from spine_etl.phantom import write_phantom
from spine_etl.resample import sample_labels
from spine_etl.source.digest import file_digest
from spine_etl.source.label_names import LabelNames, load_label_names
from spine_etl.volume import LabelMap
from tests.external_masks import RECIPE, labelled, write_dicom_seg

RSNA = load_label_names("rsna")
Labels = npt.NDArray[np.uint8]
PHANTOMS = (0, 3)  # the second is oblique


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_phantom(folder, 4, 5, size=64, slices=40, masked_share=1, transfer_syntax="explicit")
    return folder


def study(source: Path, index: int = 0) -> tuple[Path, LabelMap]:
    """The series' folder, and the segmentation on the CT's voxels, from foot to head."""
    mask = sorted((source / "segmentations").iterdir())[index]
    folder = source / "train_images" / mask.name.removesuffix(".nii")
    grid = read_series(folder).grid
    labels = sample_labels(read_label_map(mask), grid)
    if grid.to_mm([1, 0, 0])[2] < grid.to_mm([0, 0, 0])[2]:
        labels = np.ascontiguousarray(labels[::-1])
    return folder, LabelMap(labels, grid)


def assert_same_labels(read: LabelMap, folder: Path, source: Path) -> None:
    """The labels are where the study's own segmentation has them."""
    grid = read_series(folder).grid
    own = read_label_map(source / "segmentations" / f"{folder.name}.nii")
    np.testing.assert_array_equal(sample_labels(read, grid), sample_labels(own, grid))


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_segments_with_codes_are_read(kind: str, index: int, source: Path, tmp_path: Path) -> None:
    folder, mask = study(source, index)
    path = tmp_path / "mask.dcm"
    write_dicom_seg(folder, mask.labels, path, kind=kind)
    read = read_dicom_seg(path, RSNA, RECIPE)
    assert_same_labels(read, folder, source)
    assert read.source_digest == file_digest(path)


def test_segments_with_labels_are_read(source: Path, tmp_path: Path) -> None:
    folder, mask = study(source)
    write_dicom_seg(folder, mask.labels, tmp_path / "mask.dcm", describe=labelled)
    assert_same_labels(read_dicom_seg(tmp_path / "mask.dcm", RSNA, RECIPE), folder, source)


def test_segments_without_a_name_are_read_by_number(source: Path, tmp_path: Path) -> None:
    folder, mask = study(source)
    names = load_label_names("totalsegmentator-v2")
    path = tmp_path / "mask.dcm"
    write_dicom_seg(folder, mask.labels, path, kind="LABELMAP", describe=nameless, numbers=names.labels)
    assert_same_labels(read_dicom_seg(path, names, RECIPE), folder, source)
    with pytest.raises(LabelUnknown, match="which rsna neither names nor ignores"):
        read_dicom_seg(path, RSNA, RECIPE)


def test_retired_codes_are_read(source: Path, tmp_path: Path) -> None:
    """SRT codes, which older files have, mean the same as those of SNOMED CT."""
    folder, mask = study(source)
    only_c1 = np.where(mask.labels == 1, 1, 0).astype(np.uint8)
    write_dicom_seg(
        folder, only_c1, tmp_path / "mask.dcm", describe=lambda *_: ("a", Code("T-11610", "SRT", "C1"))
    )
    assert read_dicom_seg(tmp_path / "mask.dcm", RSNA, RECIPE).labels.max() == 1


def nameless(level: str, number: int) -> tuple[str, object]:
    return f"segment {number}", codes.SCT.Vertebra


def discs(level: str, number: int) -> tuple[str, object]:
    """C1 as itself, every other segment as something else whose label mentions a vertebra."""
    return (
        ("C1", codes.SCT.Bone)
        if level == "C1"
        else (f"disc-{level}", Code("360499006", "SCT", "Intervertebral disc"))
    )


def fracture(level: str, number: int) -> tuple[str, object]:
    return f"fracture {level}", Code("72704001", "SCT", "Fracture")


def contradictory(level: str, number: int) -> tuple[str, object]:
    return "C2" if level == "C1" else level, getattr(codes.SCT, f"{level}Vertebra")


def twice(level: str, number: int) -> tuple[str, object]:
    return "C1" if level == "C2" else level, codes.SCT.Vertebra


@pytest.mark.parametrize(
    ("describe", "error", "reason"),
    [
        (discs, LabelUnknown, "which rsna neither names nor ignores"),
        (contradictory, ClassesConflict, "is C1 by its code and C2 by its label"),
        (twice, ClassesConflict, "Several segments of mask.dcm are C1"),
    ],
)
def test_segments_that_are_not_one_level_each_are_refused(
    describe: Callable[[str, int], tuple[str, object]],
    error: type[SpineError],
    reason: str,
    source: Path,
    tmp_path: Path,
) -> None:
    folder, mask = study(source)
    write_dicom_seg(folder, mask.labels, tmp_path / "mask.dcm", describe=describe)
    with pytest.raises(error, match=reason):
        read_dicom_seg(tmp_path / "mask.dcm", RSNA, RECIPE)


def test_ignored_segments_are_background_and_lookalikes_warn(source: Path, tmp_path: Path) -> None:
    folder, mask = study(source)
    write_dicom_seg(folder, mask.labels, tmp_path / "mask.dcm", describe=discs)
    names = LabelNames(name="own", labels={"C1": 1}, ignore="all others")
    read = read_dicom_seg(tmp_path / "mask.dcm", names, RECIPE)
    assert set(np.unique(read.labels)) == {0, 1}
    assert [warning.code for warning in read.warnings] == ["CLASS_NAME_IGNORED"]


def test_fractures_of_a_vertebra_are_not_the_vertebra(source: Path, tmp_path: Path) -> None:
    folder, mask = study(source)
    write_dicom_seg(folder, mask.labels, tmp_path / "mask.dcm", describe=fracture)
    names = LabelNames(name="own", labels={"C1": 200}, ignore="all others")
    with pytest.raises(LabelUnknown, match="no segment that is one of the recipe's levels"):
        read_dicom_seg(tmp_path / "mask.dcm", names, RECIPE)


def test_overlapping_segments_are_refused(source: Path, tmp_path: Path) -> None:
    folder, mask = study(source)
    write_dicom_seg(folder, mask.labels, tmp_path / "mask.dcm", overlap=True)
    with pytest.raises(ClassesConflict, match=r"Segments of mask.dcm overlap"):
        read_dicom_seg(tmp_path / "mask.dcm", RSNA, RECIPE)


def test_slices_without_a_frame_are_background(source: Path, tmp_path: Path) -> None:
    """Empty frames are usually left out: two vertebrae with a gap between them keep their distance."""
    folder, mask = study(source)
    apart = np.where(np.isin(mask.labels, [2, 7]), mask.labels, 0).astype(np.uint8)
    assert (~apart.any(axis=(1, 2))).sum() > 2
    write_dicom_seg(folder, apart, tmp_path / "mask.dcm")
    read = read_dicom_seg(tmp_path / "mask.dcm", RSNA, RECIPE)
    grid = read_series(folder).grid
    own = read_label_map(source / "segmentations" / f"{folder.name}.nii")
    expected = sample_labels(own, grid)
    np.testing.assert_array_equal(sample_labels(read, grid), np.where(np.isin(expected, [2, 7]), expected, 0))


def change(path: Path, edit: Callable[[pydicom.Dataset], object]) -> None:
    dataset = pydicom.dcmread(path)
    edit(dataset)
    dataset.save_as(path)


def drop_positions(dataset: pydicom.Dataset) -> None:
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        del frame.PlanePositionSequence


def move_a_frame(dataset: pydicom.Dataset) -> None:
    position = dataset.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0]
    position.ImagePositionPatient[2] += 0.37


def halve_the_pixels(dataset: pydicom.Dataset) -> None:
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 4 * 2]


@pytest.mark.parametrize(
    "edit",
    [
        drop_positions,
        move_a_frame,
        halve_the_pixels,
        lambda dataset: setattr(dataset, "SegmentationType", "FRACTIONAL"),
        lambda dataset: setattr(dataset, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"),
        lambda dataset: delattr(dataset, "SegmentSequence"),
        lambda dataset: setattr(dataset, "Rows", 60000),
    ],
)
def test_damaged_file_is_refused_by_name(
    edit: Callable[[pydicom.Dataset], object], source: Path, tmp_path: Path
) -> None:
    folder, mask = study(source)
    path = tmp_path / "mask.dcm"
    write_dicom_seg(folder, mask.labels, path)
    change(path, edit)
    with pytest.raises(MaskUnreadable) as caught:
        read_dicom_seg(path, RSNA, RECIPE)
    assert "mask.dcm" in caught.value.reason
    assert "Phantom" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 100, 132, 1000, 5000])
def test_truncated_file_is_refused(length: int, source: Path, tmp_path: Path) -> None:
    folder, mask = study(source)
    path = tmp_path / "mask.dcm"
    write_dicom_seg(folder, mask.labels, path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(MaskUnreadable, match=r"mask\.dcm"):
        read_dicom_seg(path, RSNA, RECIPE)


def test_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound):
        read_dicom_seg(tmp_path / "absent.dcm", RSNA, RECIPE)
