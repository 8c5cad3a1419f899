"""What is found in a source folder, and what is made of its tables."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from spine_etl.errors import MaskUnreadable, SourceNotFound, StudyNameInvalid, TableInvalid
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


def found(source: Path) -> dict[str, Study]:
    return {study.uid: study for study in discover_studies(source, LEVELS)}


def test_what_is_there_is_found(source: Path) -> None:
    studies = found(source)
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


def test_tables_may_be_absent(source: Path) -> None:
    (source / "train.csv").unlink()
    (source / "train_bounding_boxes.csv").unlink()
    assert all(study.labels is None and not study.boxes for study in found(source).values())


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("train.csv", "1.3,2,0,0\n"),
        ("train.csv", "1.3,,0,0\n"),
        ("train.csv", "1.3,0,0\n"),
        ("train.csv", "1.3,0,0,0\n1.3,0,0,0\n"),
        ("train_bounding_boxes.csv", "1.3,a,1,1,1,5\n"),
        ("train_bounding_boxes.csv", "1.3,1,1,0,1,5\n"),
        ("train_bounding_boxes.csv", "1.3,1,nan,1,1,5\n"),
        ("train_bounding_boxes.csv", "1.3,1,1,1,1,5.5\n"),
        ("train_bounding_boxes.csv", "1.3,1,1,1,1,99999999999\n"),
        ("train_bounding_boxes.csv", "1.3,1,1,1,1,-5\n"),
        ("train_bounding_boxes.csv", "1.3,1,1,1e9,1,5\n"),
        ("train_bounding_boxes.csv", "1.3,1,1,1,1,5,6\n"),
        ("train.csv", "1.3,0,1,0,0\n"),  # a cell too many: all others may be shifted
        ("train.csv", "1.3,0,0,1\n"),  # a fractured level of an unfractured patient
    ],
)
def test_a_bad_row_costs_its_own_study(source: Path, table: str, line: str) -> None:
    path = source / table
    path.write_text(path.read_text() + line)
    studies = found(source)
    assert isinstance(studies["1.3"].problem, TableInvalid)
    assert studies["1.3"].problem.study == "1.3"
    assert table in studies["1.3"].problem.reason
    assert studies["1.2"].problem is None
    assert studies["1.10"].problem is None


def test_the_refusal_of_a_name_says_how_to_find_it(source: Path) -> None:
    """Without telling it."""
    (source / "train_images" / "DOE JANE").mkdir()
    (problem,) = (study.problem for study in found(source).values() if study.problem)
    assert "DOE" not in str(problem)
    command = re.search(r"ls train_images \| grep \S+ '[^']+'", problem.action)
    assert command
    told = subprocess.run(command[0], shell=True, cwd=source, capture_output=True, text=True)  # noqa: S602
    assert told.stdout == "DOE JANE\n"


def test_two_segmentations_are_one_too_many(source: Path) -> None:
    (source / "segmentations/1.3.nii").write_bytes(b"")
    assert isinstance(found(source)["1.3"].problem, MaskUnreadable)
    assert found(source)["1.10"].problem is None


def test_a_mended_table_changes_what_is_digested(source: Path) -> None:
    """Else the refusal would stay: an unreadable row says as little as no row."""
    path = source / "train.csv"
    sound = path.read_text()
    without = found(source)["1.3"].table_content
    path.write_text(sound + "1.3,x,0,0\n")
    wrong = found(source)["1.3"].table_content
    path.write_text(sound + "1.3,0,0,0\n")
    assert len({without, wrong, found(source)["1.3"].table_content}) == 3


def test_a_table_without_its_columns_refuses_the_source(source: Path) -> None:
    (source / "train.csv").write_text("StudyInstanceUID,patient_overall,C1\n1.2,0,0\n")
    with pytest.raises(TableInvalid, match="C2"):
        discover_studies(source, LEVELS)
    (source / "train.csv").write_text("StudyInstanceUID,patient_overall,C1,C2,C2\n1.2,0,0,0,1\n")
    with pytest.raises(TableInvalid, match="2 columns C2"):
        discover_studies(source, LEVELS)
    (source / "train.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TableInvalid):
        discover_studies(source, LEVELS)


def test_no_source(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="train_images"):
        discover_studies(tmp_path, LEVELS)
    (tmp_path / "train_images").mkdir()
    with pytest.raises(SourceNotFound, match="no studies"):
        discover_studies(tmp_path, LEVELS)


@pytest.mark.parametrize("name", ["..x", "a b", "-rf", "1" * 65, "é"])
def test_a_name_that_is_no_uid_is_refused_and_never_a_path(source: Path, name: str) -> None:
    (source / "train_images" / name).mkdir()
    refused = [study for study in found(source).values() if study.problem]
    expected = 0 if name.startswith(".") else 1  # hidden folders are none of ours
    assert len(refused) == expected
    for study in refused:
        assert isinstance(study.problem, StudyNameInvalid)
        assert re.fullmatch(
            r"unnamed-[0-9a-f]{12}", study.uid
        )  # nothing of the name, which may be a patient's


@pytest.mark.real_data
def test_the_official_tables(real_data: Path, tmp_path: Path) -> None:
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
