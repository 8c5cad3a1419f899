"""The label table and the box table: valid rows, and the errors of invalid ones."""

from __future__ import annotations

import pytest

from spine_etl.errors import TableInvalid
from spine_etl.source.files import MemoryContent
from spine_etl.source.tables import read_boxes, read_folds, read_labels
from spine_etl.volume import FractureBox

LEVELS = ["C1", "C2"]
HEADER = "StudyInstanceUID,patient_overall,C1,C2\n"
BOX_HEADER = "StudyInstanceUID,x,y,width,height,slice_number\n"


class Table:
    """A table in memory with the interface of a source file."""

    listed_digest = None

    def __init__(self, name: str, content: str | bytes) -> None:
        self.name = name
        self.content = content.encode() if isinstance(content, str) else content

    def open(self) -> MemoryContent:
        return MemoryContent(self.content)

    def modified_at(self) -> None:
        return None

    def change_token(self) -> None:
        return None


def label_table(rows: str) -> Table:
    return Table("train.csv", HEADER + rows)


def box_table(rows: str) -> Table:
    return Table("train_bounding_boxes.csv", BOX_HEADER + rows)


def test_labels_of_each_study() -> None:
    labels = read_labels(label_table("1.2,1,0,1\n1.3, 0.0 ,0,0\n"), LEVELS)
    assert labels == {
        "1.2": {"patient_overall": 1, "C1": 0, "C2": 1},
        "1.3": {"patient_overall": 0, "C1": 0, "C2": 0},
    }


def test_columns_are_found_by_name_and_a_byte_order_mark_is_ignored() -> None:
    content = "\ufeffC2,ignored,StudyInstanceUID,C1,patient_overall\n1,x,1.2,0,1\n"
    assert read_labels(Table("train.csv", content), LEVELS) == {
        "1.2": {"patient_overall": 1, "C1": 0, "C2": 1}
    }


def test_boxes_of_each_study_keep_their_order() -> None:
    boxes = read_boxes(box_table("1.2,10.5,20,3.25,4,133\n1.3,1,2,3,4,5.0\n1.2,1,1,1,1,134\n"))
    assert boxes == {
        "1.2": [FractureBox(10.5, 20.0, 3.25, 4.0, 133), FractureBox(1.0, 1.0, 1.0, 1.0, 134)],
        "1.3": [FractureBox(1.0, 2.0, 3.0, 4.0, 5)],
    }


def test_missing_tables_are_empty() -> None:
    assert read_labels(None, LEVELS) == {}
    assert read_boxes(None) == {}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("1.3,2,0,0\n", "train.csv line 3: patient_overall is neither 0 nor 1."),
        ("1.3,,0,0\n", "train.csv line 3: patient_overall is neither 0 nor 1."),
        ("1.3,0,0\n", "train.csv line 3: C2 is neither 0 nor 1."),
        ("1.3,0,0,0\n1.3,0,0,0\n", "train.csv line 4: the study is listed twice."),
        ("1.3,0,1,0,0\n", "train.csv line 3: the row has more cells than the table has columns."),
        ("1.3,0,0,1\n", "train.csv line 3: patient_overall is 0 and C2 is 1."),
    ],
)
def test_invalid_label_row_is_an_error_of_its_study(rows: str, reason: str) -> None:
    labels = read_labels(label_table("1.2,0,0,0\n" + rows), LEVELS)
    problem = labels["1.3"]
    assert isinstance(problem, TableInvalid)
    assert (problem.reason, problem.study) == (reason, "1.3")
    assert labels["1.2"] == {"patient_overall": 0, "C1": 0, "C2": 0}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("1.3,a,1,1,1,5\n", "a cell is not a number"),
        ("1.3,1,1,1\n", "a cell is not a number"),
        ("1.3,1,nan,1,1,5\n", "a cell is not a finite number"),
        ("1.3,1,1,0,1,5\n", "its sides must be above 0"),
        ("1.3,1,1,1e9,1,5\n", "all pixels at most 65535"),
        ("1.3,1,1,1,1,5.5\n", "slice_number is not an integer"),
        ("1.3,1,1,1,1,99999999999\n", "slice_number is not an integer from 0 to 2147483647"),
        ("1.3,1,1,1,1,-5\n", "slice_number is not an integer"),
        ("1.3,1,1,1,1,5,6\n", "more cells than the table has columns"),
        ("1.3,1,1,1,1,5\n1.3,a,1,1,1,5\n", "a cell is not a number"),
    ],
)
def test_invalid_box_row_is_an_error_of_its_study(rows: str, reason: str) -> None:
    boxes = read_boxes(box_table("1.2,1,1,1,1,5\n" + rows + "1.3,1,1,1,1,5\n"))
    problem = boxes["1.3"]
    assert isinstance(problem, TableInvalid)
    assert problem.study == "1.3"
    assert problem.reason.startswith("train_bounding_boxes.csv line ")
    assert reason in problem.reason
    assert boxes["1.2"] == [FractureBox(1.0, 1.0, 1.0, 1.0, 5)]


@pytest.mark.parametrize(
    ("accepted", "refused"),
    [
        ("65535,1,1,1,5", "65535.01,1,1,1,5"),  # Rows and Columns are 16-bit in DICOM
        ("1,65535,1,1,5", "1,65536,1,1,5"),
        ("-65535,1,1,1,5", "-65535.01,1,1,1,5"),  # a box may begin outside the image
        ("1,-65535,1,1,5", "1,-65536,1,1,5"),
        ("1,1,65535,1,5", "1,1,65535.01,1,5"),
        ("1,1,1,65535,5", "1,1,1,65536,5"),
        ("1,1,1e-9,1,5", "1,1,0,1,5"),
        ("1,1,1,1e-9,5", "1,1,1,-1e-9,5"),
        ("1,1,1,1,0", "1,1,1,1,-1"),
        ("1,1,1,1,2147483647", "1,1,1,1,2147483648"),
        ("1,1,1,1,5.0", "1,1,1,1,5.000001"),
        ("1,1,1,1,1e3", "1,1,1,1,1e-3"),
        ("1,1,1,1,5", "1,1,1,1,inf"),
    ],
)
def test_both_sides_of_a_limit_of_boxes(accepted: str, refused: str) -> None:
    boxes = read_boxes(box_table(f"1.2,{accepted}\n1.3,{refused}\n"))
    x, y, width, height, number = map(float, accepted.split(","))
    assert boxes["1.2"] == [FractureBox(x, y, width, height, int(number))]
    assert isinstance(boxes["1.3"], TableInvalid)


@pytest.mark.parametrize("cell", ["2", "-1", "0.5", "1.00", "nan", "true", "01", "1e0", "-0", "١"])
def test_label_that_is_not_zero_or_one_is_refused(cell: str) -> None:
    for row in (f"{cell},1,1", f"1,{cell},0", f"1,0,{cell}"):
        assert isinstance(read_labels(label_table(f"1.2,{row}\n"), LEVELS)["1.2"], TableInvalid)


def test_patient_may_be_fractured_without_a_fractured_level() -> None:
    """The fracture may be at a level that the recipe does not crop; the reverse is an error."""
    labels = read_labels(label_table("1.2,1,0,0\n"), LEVELS)
    assert labels == {"1.2": {"patient_overall": 1, "C1": 0, "C2": 0}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("StudyInstanceUID,patient_overall,C1\n1.2,0,0\n", "0 columns named C2"),
        ("StudyInstanceUID,patient_overall,C1,C2,C2\n1.2,0,0,0,1\n", "2 columns named C2"),
        ("", "0 columns named StudyInstanceUID"),
        (HEADER + '1.2,0,0,"0\n', "not CSV text"),
        (b"\xff\xfe\x00", "not CSV text"),
    ],
)
def test_invalid_table_is_refused(content: str | bytes, reason: str) -> None:
    with pytest.raises(TableInvalid, match=reason):
        read_labels(Table("train.csv", content), LEVELS)


def test_box_table_without_a_column_is_refused() -> None:
    with pytest.raises(TableInvalid, match="0 columns named slice_number"):
        read_boxes(Table("train_bounding_boxes.csv", "StudyInstanceUID,x,y,width,height\n"))


def test_folds_of_each_study() -> None:
    table = Table("folds.csv", "fold,uid,note\n0,1.2,\n 3 ,1.3,x\n0,1.4,\n")
    assert read_folds(table) == {"1.2": 0, "1.3": 3, "1.4": 0}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("uid\n1.2\n", "folds.csv has 0 columns named fold"),
        ("StudyInstanceUID,fold\n1.2,0\n", "folds.csv has 0 columns named uid"),
        ("uid,fold\n1.2,0\n1.3,-1\n", "folds.csv line 3: fold is not an integer from 0 to 99"),
        ("uid,fold\n1.2,0\n1.3,1.5\n", "folds.csv line 3: fold is not an integer"),
        ("uid,fold\n1.2,0\n1.3,\n", "folds.csv line 3: fold is not an integer"),
        ("uid,fold\n1.2,0\n1.3,100\n", "folds.csv line 3: fold is not an integer"),
        ("uid,fold\n1.2,0\n1.2,0\n", "folds.csv line 3: the study is listed twice"),
        ("uid,fold\n1.2,0\n1.3,0\n", "folds.csv names fewer than two folds"),
        ("uid,fold\n", "folds.csv names fewer than two folds"),
    ],
)
def test_invalid_table_of_folds_is_refused(content: str, reason: str) -> None:
    with pytest.raises(TableInvalid, match=reason):
        read_folds(Table("folds.csv", content))
