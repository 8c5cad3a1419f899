"""Which files of a folder of masks belong to which study, and what is named as not used."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from spine_etl.errors import MaskAmbiguous
from spine_etl.source.files import LocalFile, LocalFolder, open_source
from spine_etl.source.label_names import load_label_names
from spine_etl.source.layout import Study
from spine_etl.source.masks import (
    EMPTY,
    NO_LEVEL,
    NO_STUDY,
    NOT_A_MASK,
    NOT_NAMED,
    OWN_MASK,
    SEVERAL_STUDIES,
    TOO_DEEP,
    TWO_STUDIES,
    MaskAssignment,
    assign_masks,
)

NAMES = load_label_names("totalsegmentator-v2")
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
UIDS = ("1.2.3", "1.2.30", "sub-verse004", "case_1")


def studies(*uids: str, own: str = "") -> list[Study]:
    mask = LocalFile("/own.nii")
    return [Study(uid, LocalFolder(Path("/absent")), mask if uid == own else None) for uid in uids]


def assign(folder: Path, *paths: str, own: str = "", uids: tuple[str, ...] = UIDS) -> MaskAssignment:
    """Create empty files (or folders, if the path ends with a slash) and assign them."""
    for path in paths:
        if path.endswith("/"):
            (folder / path).mkdir(parents=True)
            continue
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"")
    return assign_masks(studies(*uids, own=own), open_source(folder), NAMES)


def found(assignment: MaskAssignment) -> dict[str, list[str]]:
    """Names of the files of each study that has an external mask."""
    return {
        study.uid: [file.name for file in study.external_mask.files]
        for study in assignment.studies
        if study.external_mask
    }


def unused(assignment: MaskAssignment) -> dict[str, str]:
    return dict(assignment.unused)


@pytest.mark.parametrize(
    "path",
    [
        "1.2.3.nii",
        "1.2.3.nii.gz",
        "1.2.3.NII.GZ",
        "1.2.3_seg.nii.gz",
        "1.2.3-label.nii",
        "1.2.3.seg.nii.gz",
        "1.2.3_ct_TotalSegmentator_mask.nii.gz",
        "batch1/1.2.3.nii.gz",
        "1.2.3/segmentation.nii.gz",
        "1.2.3/segmentations/1.2.3.nii.gz",
        "1.2.3_seg/labels.nii",
        "a/b/1.2.3/pred_mask.nii.gz",
    ],
)
def test_multi_label_file_finds_its_study(path: str, tmp_path: Path) -> None:
    assignment = assign(tmp_path, path)
    assert found(assignment) == {"1.2.3": [path.rpartition("/")[2]]}
    assert assignment.unused == []
    assert assignment.studies[0].external_mask is not None
    assert assignment.studies[0].external_mask.form == "labels"


def test_files_of_verse_find_their_study(tmp_path: Path) -> None:
    """The names of the subject-based structure: the image beside the mask is not taken for it."""
    image = "rawdata/sub-verse004/sub-verse004_dir-ax_ct.nii.gz"
    mask = "derivatives/sub-verse004/sub-verse004_dir-ax_seg-vert_msk.nii.gz"
    assignment = assign(tmp_path, image, mask)
    assert found(assignment) == {"sub-verse004": [mask.rpartition("/")[2]]}
    assert unused(assignment) == {"rawdata/sub-verse004": NO_LEVEL}


def test_the_longest_uid_in_a_name_is_taken(tmp_path: Path) -> None:
    uids = ("1.2.3", "1.2.3.4", "1.2.3.4_seg", "1.2")
    assignment = assign(tmp_path, "1.2.3.4-mask.nii.gz", "1.2.3.4_seg.nii.gz", "1.2.seg.nii", uids=uids)
    assert found(assignment) == {
        "1.2": ["1.2.seg.nii"],
        "1.2.3.4": ["1.2.3.4-mask.nii.gz"],
        "1.2.3.4_seg": ["1.2.3.4_seg.nii.gz"],
    }


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("1.2.4.nii.gz", NOT_NAMED),
        ("1.2.3.4.nii.gz", NOT_NAMED),  # another UID that begins alike
        ("1.2.3_0000.nii.gz", NOT_NAMED),  # nnU-Net's name of an image
        ("1.2.3_ct.nii.gz", NOT_NAMED),
        ("case_1_2_seg.nii.gz", NOT_NAMED),  # may be the mask of a study case_1_2
        ("case_1_b_seg.nii.gz", NOT_NAMED),
        ("x1.2.3.nii.gz", NOT_NAMED),
        ("vertebrae_C1.nii.gz", NOT_NAMED),
        ("README.md", NOT_A_MASK),
        ("1.2.3.json", NOT_A_MASK),
        ("1.2.3.nrrd", NOT_A_MASK),
        ("1.2.30/1.2.3.nii.gz", TWO_STUDIES),
        ("1.2.30/1.2.3_seg.nii.gz", TWO_STUDIES),
        ("/".join("abcdefghi") + "/1.2.3.nii", TOO_DEEP),
    ],
)
def test_what_finds_no_study_is_named(path: str, reason: str, tmp_path: Path) -> None:
    assignment = assign(tmp_path, path)
    assert found(assignment) == {}
    expected = "a/b/c/d/e/f/g/h" if reason == TOO_DEEP else path
    assert unused(assignment) == {expected: reason}


def test_class_files_are_one_mask(tmp_path: Path) -> None:
    files = [f"1.2.3/vertebrae_{level}.nii.gz" for level in ("T1", "C2", "C1", "L5")]
    assignment = assign(tmp_path, *files, "1.2.3/liver.nii.gz", "1.2.3/statistics.json")
    mask = assignment.studies[0].external_mask
    assert mask is not None
    assert (mask.form, mask.other_classes) == ("classes", ("liver",))
    assert set(mask.levels) == {"T1", "C2", "C1", "L5"}
    assert [file.name for file in mask.files] == [f"vertebrae_{level}.nii.gz" for level in mask.levels]
    assert unused(assignment) == {"1.2.3/statistics.json": NOT_A_MASK}


def test_training_set_of_totalsegmentator(tmp_path: Path) -> None:
    files = ["1.2.3/ct.nii.gz", "1.2.3/segmentations/vertebrae_C1.nii.gz", "1.2.3/segmentations/liver.nii.gz"]
    assignment = assign(tmp_path, *files)
    assert found(assignment) == {"1.2.3": ["vertebrae_C1.nii.gz"]}
    assert unused(assignment) == {"1.2.3": NO_LEVEL}


@pytest.mark.parametrize("files", [("1.2.3/liver.nii.gz",), ("1.2.3/vertebrae.nii.gz",)])
def test_folder_without_a_vertebra_is_named(files: tuple[str, ...], tmp_path: Path) -> None:
    assignment = assign(tmp_path, *files)
    assert found(assignment) == {}
    assert unused(assignment) == {"1.2.3": NO_LEVEL}


def test_empty_folders_are_named_and_hidden_files_are_not(tmp_path: Path) -> None:
    assignment = assign(tmp_path, "1.2.3/", "1.2.30/.DS_Store", "._1.2.3.nii.gz", ".git/1.2.3.nii.gz")
    assert found(assignment) == {}
    assert unused(assignment) == {"1.2.3": EMPTY, "1.2.30": EMPTY}


def test_empty_folder_of_masks_is_named(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    assert unused(assign(tmp_path / "masks")) == {"masks": EMPTY}


@pytest.mark.parametrize(
    "files",
    [
        ("1.2.3.nii", "1.2.3.nii.gz"),
        ("1.2.3.nii.gz", "1.2.3_seg.nii.gz"),
        ("a/1.2.3.nii.gz", "b/1.2.3.nii.gz"),
        ("1.2.3.nii.gz", "1.2.3/vertebrae_C1.nii.gz"),
        ("1.2.3/segmentation.nii.gz", "1.2.3/vertebrae_C1.nii.gz"),
        ("1.2.3/vertebrae_C1.nii.gz", "1.2.3/segmentations/vertebrae_C1.nii.gz"),
    ],
)
def test_two_masks_refuse_their_study_only(files: tuple[str, str], tmp_path: Path) -> None:
    assignment = assign(tmp_path, *files, "1.2.30.nii.gz")
    assert found(assignment) == {"1.2.30": ["1.2.30.nii.gz"]}
    problem = assignment.studies[0].problem
    assert isinstance(problem, MaskAmbiguous)
    assert problem.study == "1.2.3"
    assert "2 segmentations" in problem.reason


def test_own_segmentation_is_kept_and_the_others_are_named(tmp_path: Path) -> None:
    assignment = assign(tmp_path, "1.2.3.nii.gz", "1.2.3_seg.nii.gz", "1.2.30.nii.gz", own="1.2.3")
    assert found(assignment) == {"1.2.30": ["1.2.30.nii.gz"]}
    assert unused(assignment) == {"1.2.3.nii.gz": OWN_MASK, "1.2.3_seg.nii.gz": OWN_MASK}
    assert assignment.studies[0].mask is not None
    assert assignment.studies[0].problem is None


def write_segmentation(path: Path, study: str, *, series: str = "", other: str = "", sop: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop or SEGMENTATION
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "9.9"
    dataset.StudyInstanceUID = study
    if series:
        item = Dataset()
        item.SeriesInstanceUID = series
        dataset.ReferencedSeriesSequence = [item]
    if other:
        item = Dataset()
        item.StudyInstanceUID = other
        dataset.StudiesContainingOtherReferencedInstancesSequence = [item]
    dataset.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("path", ["anything.dcm", "no_suffix", "a/b/1.2.30.dcm", "1.2.840.113"])
def test_dicom_segmentation_finds_the_study_of_its_header(path: str, tmp_path: Path) -> None:
    write_segmentation(tmp_path / path, "1.2.3")
    assignment = assign(tmp_path)
    assert found(assignment) == {"1.2.3": [path.rpartition("/")[2]]}
    assert assignment.studies[0].external_mask is not None
    assert assignment.studies[0].external_mask.form == "dicom"


def test_dicom_segmentation_finds_the_study_it_refers_to(tmp_path: Path) -> None:
    write_segmentation(tmp_path / "a.dcm", "7.7", other="1.2.3")
    write_segmentation(tmp_path / "b.dcm", "7.8", series="1.2.30")
    assert found(assign(tmp_path)) == {"1.2.3": ["a.dcm"], "1.2.30": ["b.dcm"]}


def test_dicom_files_without_a_study_are_named(tmp_path: Path) -> None:
    write_segmentation(tmp_path / "ct.dcm", "1.2.3", sop="1.2.840.10008.5.1.4.1.1.2")
    write_segmentation(tmp_path / "other.dcm", "7.7")
    write_segmentation(tmp_path / "several.dcm", "1.2.3", other="1.2.30")
    (tmp_path / "broken.dcm").write_bytes((tmp_path / "other.dcm").read_bytes()[:150])
    assert unused(assign(tmp_path)) == {
        "ct.dcm": NOT_A_MASK,
        "other.dcm": NO_STUDY,
        "several.dcm": SEVERAL_STUDIES,
        "broken.dcm": NOT_A_MASK,
    }


@pytest.mark.parametrize(("count", "listed"), [(20, 20), (21, 1)])
def test_many_files_that_are_no_masks_are_counted(count: int, listed: int, tmp_path: Path) -> None:
    assignment = assign(tmp_path, *(f"1.2.3/{number}.dcm" for number in range(count)), "1.2.3.nii.gz")
    assert found(assignment) == {"1.2.3": ["1.2.3.nii.gz"]}
    assert len(assignment.unused) == listed
    if listed == 1:
        assert unused(assignment) == {"1.2.3/(21 files)": NOT_A_MASK}


def test_dicom_segmentation_beside_a_nifti_file_is_ambiguous(tmp_path: Path) -> None:
    write_segmentation(tmp_path / "a.dcm", "1.2.3")
    assert isinstance(assign(tmp_path, "1.2.3.nii.gz").studies[0].problem, MaskAmbiguous)


def test_archive_gives_the_same_masks_as_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    paths = ("1.2.3.nii.gz", "1.2.30/vertebrae_C1.nii.gz", "x/README.md")
    by_folder = assign(folder, *paths)
    with zipfile.ZipFile(tmp_path / "masks.zip", "w") as archive:
        for path in paths:
            archive.write(folder / path, path)
    by_archive = assign_masks(studies(*UIDS), open_source(tmp_path / "masks.zip"), NAMES)
    assert found(by_archive) == found(by_folder) != {}
    assert by_archive.unused == by_folder.unused


def test_digest_covers_files_and_label_names(tmp_path: Path) -> None:
    def digest(names: str = "totalsegmentator-v2") -> str:
        assignment = assign_masks(studies("1.2.3"), open_source(tmp_path), load_label_names(names))
        mask = assignment.studies[0].external_mask
        assert mask is not None
        assert pickle.loads(pickle.dumps(mask)) == mask  # noqa: S301 - it goes to a worker
        return mask.digest()

    assign(tmp_path, "1.2.3/vertebrae_C1.nii.gz", "1.2.3/vertebrae_C2.nii.gz")
    first = digest()
    assert digest() == first
    assert digest("totalsegmentator-v3") != first
    (tmp_path / "1.2.3/vertebrae_C1.nii.gz").write_bytes(b"1")
    second = digest()
    (tmp_path / "1.2.3/vertebrae_C1.nii.gz").write_bytes(b"")
    (tmp_path / "1.2.3/vertebrae_C2.nii.gz").write_bytes(b"1")
    third = digest()
    (tmp_path / "1.2.3/vertebrae_C2.nii.gz").unlink()
    assert len({first, second, third, digest()}) == 4
