"""Studies in a source folder: their files, their names, their problems."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from spine_etl.errors import MaskAmbiguous, SourceNotFound, StudyNameInvalid, TableInvalid
from spine_etl.source.layout import Study, discover_studies, studies_without_images

LEVELS = ["C1", "C2"]
HEADER = "StudyInstanceUID,patient_overall,C1,C2\n"
BOX_HEADER = "StudyInstanceUID,x,y,width,height,slice_number\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for uid in ("1.2", "1.10", "1.3"):
        (tmp_path / "train_images" / uid).mkdir(parents=True)
    (tmp_path / "segmentations").mkdir()
    (tmp_path / "segmentations/1.3.nii.gz").write_bytes(b"")
    (tmp_path / "segmentations/1.10.nii").write_bytes(b"")
    (tmp_path / "train.csv").write_text(HEADER + "1.2,1,0,1\n1.10,0,0,0\n1.99,0,0,0\n")
    (tmp_path / "train_bounding_boxes.csv").write_text(BOX_HEADER + "1.2,10.5,20,3.25,4,133\n")
    return tmp_path


def studies_by_uid(source: Path) -> dict[str, Study]:
    return {study.uid: study for study in discover_studies(source, LEVELS)}


def test_discover_studies_reads_files_and_tables(source: Path) -> None:
    studies = studies_by_uid(source)
    assert list(studies) == ["1.10", "1.2", "1.3"]
    assert studies["1.2"].labels == {"patient_overall": 1, "C1": 0, "C2": 1}
    assert studies["1.3"].labels is None
    assert studies["1.2"].mask is None
    assert {uid: study.mask.name for uid, study in studies.items() if study.mask} == {
        "1.3": "1.3.nii.gz",
        "1.10": "1.10.nii",
    }
    box = studies["1.2"].boxes[0]
    assert (box.x, box.y, box.width, box.height, box.slice_number) == (10.5, 20.0, 3.25, 4.0, 133)
    assert studies_without_images(source, LEVELS) == ["1.99"]


def test_tables_are_optional(source: Path) -> None:
    (source / "train.csv").unlink()
    (source / "train_bounding_boxes.csv").unlink()
    assert all(study.labels is None and not study.boxes for study in studies_by_uid(source).values())


@pytest.mark.parametrize(
    ("table", "line"), [("train.csv", "1.3,2,0,0\n"), ("train_bounding_boxes.csv", "1.3,a,1,1,1,5\n")]
)
def test_invalid_row_refuses_only_its_study(source: Path, table: str, line: str) -> None:
    path = source / table
    path.write_text(path.read_text() + line)
    studies = studies_by_uid(source)
    assert isinstance(studies["1.3"].problem, TableInvalid)
    assert studies["1.3"].problem.study == "1.3"
    assert studies["1.2"].problem is None
    assert studies["1.10"].problem is None


def test_invalid_table_refuses_the_source(source: Path) -> None:
    (source / "train.csv").write_text("StudyInstanceUID,patient_overall,C1\n1.2,0,0\n")
    with pytest.raises(TableInvalid, match="C2"):
        discover_studies(source, LEVELS)


def test_corrected_table_changes_the_digested_content(source: Path) -> None:
    """Otherwise the refusal would persist: an invalid row has no labels, like a missing one."""
    path = source / "train.csv"
    original = path.read_text()
    missing = studies_by_uid(source)["1.3"].table_content
    path.write_text(original + "1.3,x,0,0\n")
    invalid = studies_by_uid(source)["1.3"].table_content
    path.write_text(original + "1.3,0,0,0\n")
    assert len({missing, invalid, studies_by_uid(source)["1.3"].table_content}) == 3


def test_two_segmentations_refuse_the_study(source: Path) -> None:
    (source / "segmentations/1.3.nii").write_bytes(b"")
    assert isinstance(studies_by_uid(source)["1.3"].problem, MaskAmbiguous)
    assert studies_by_uid(source)["1.10"].problem is None


def test_layout_is_found_in_the_only_folder_of_a_source(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "download"
    root.mkdir()
    for name in ("train_images", "segmentations", "train.csv", "train_bounding_boxes.csv"):
        (source / name).rename(root / name)
    (tmp_path / ".trash").mkdir()
    (tmp_path / "README").write_text("")
    assert list(studies_by_uid(tmp_path)) == ["1.10", "1.2", "1.3"]
    assert studies_by_uid(tmp_path)["1.2"].labels == {"patient_overall": 1, "C1": 0, "C2": 1}
    (tmp_path / "other").mkdir()
    with pytest.raises(SourceNotFound, match="no folder train_images"):
        discover_studies(tmp_path, LEVELS)


def test_source_without_studies_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="train_images"):
        discover_studies(tmp_path, LEVELS)
    (tmp_path / "train_images").mkdir()
    with pytest.raises(SourceNotFound, match="no studies"):
        discover_studies(tmp_path, LEVELS)


@pytest.mark.parametrize("name", ["..x", "a b", "-rf", "1" * 65, "é"])
def test_folder_name_that_is_not_a_uid_is_refused(source: Path, name: str) -> None:
    (source / "train_images" / name).mkdir()
    refused = [study for study in studies_by_uid(source).values() if study.problem]
    expected = 0 if name.startswith(".") else 1  # hidden folders are ignored
    assert len(refused) == expected
    for study in refused:
        assert isinstance(study.problem, StudyNameInvalid)
        # The UID contains no part of the name, which can be a patient's.
        assert re.fullmatch(r"unnamed-[0-9a-f]{12}", study.uid)


@pytest.mark.parametrize("name", ["1", "a", "1" * 64, "1.2-3_x"])
def test_folder_name_of_up_to_64_characters_is_a_uid(source: Path, name: str) -> None:
    (source / "train_images" / name).mkdir()
    assert studies_by_uid(source)[name].problem is None


def test_error_of_an_invalid_name_gives_a_command_that_finds_the_folder(source: Path) -> None:
    """The name itself, which can be a patient's, is not in the message."""
    (source / "train_images" / "DOE JANE").mkdir()
    (problem,) = (study.problem for study in studies_by_uid(source).values() if study.problem)
    assert "DOE" not in str(problem)
    command = re.search(r"ls train_images \| grep \S+ '[^']+'", problem.action)
    assert command
    done = subprocess.run(command[0], shell=True, cwd=source, capture_output=True, text=True)  # noqa: S602
    assert done.stdout == "DOE JANE\n"


@pytest.mark.real_data
def test_official_tables_of_rsna_2022(real_data: Path, tmp_path: Path) -> None:
    levels = [f"C{n}" for n in range(1, 8)]
    (tmp_path / "train_images").mkdir()
    for name in ("train.csv", "train_bounding_boxes.csv"):
        (tmp_path / name).symlink_to(real_data / "rsna2022" / name)
    uids = (real_data / "rsna2022/slice_counts.csv").read_text().splitlines()[1:]
    for line in uids:
        (tmp_path / "train_images" / line.split(",")[0]).mkdir()
    studies = discover_studies(tmp_path, levels)
    assert len(studies) == 2019
    assert all(study.problem is None and study.labels for study in studies)
    assert sum(study.labels["patient_overall"] for study in studies if study.labels) == 961
    assert sum(len(study.boxes) for study in studies) == 7217
    assert sum(bool(study.boxes) for study in studies) == 235
