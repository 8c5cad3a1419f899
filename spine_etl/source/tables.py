"""The tables of labels, boxes and folds: CSV text with a header row.

A table that is not CSV or lacks a column is an error of the whole source. An invalid row is an error of its
own study only, so it is returned in place of the study's values.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from spine_etl.errors import SourceError, TableInvalid
from spine_etl.source.files import File
from spine_etl.volume import FractureBox

PATIENT_OVERALL = "patient_overall"
"""Column of the patient's label: 1 if any level is fractured."""

Labels: TypeAlias = dict[str, int]
"""``patient_overall`` and each level to 0 or 1."""

_UID_COLUMN = "StudyInstanceUID"
_BOX_COLUMNS = ("x", "y", "width", "height", "slice_number")
_MAX_PIXELS = 2**16 - 1  # Rows and Columns are 16-bit in DICOM
_MAX_FILE_NUMBER = 2**31 - 1  # stored as int32
MAX_FOLDS = 100
"""The limit of a recipe's ``folds`` too."""


def read_labels(table: File | None, levels: Sequence[str]) -> dict[str, Labels | TableInvalid]:
    """Labels by study UID, or the error in the study's row; empty if there is no table.

    Raises
    ------
    TableInvalid
        If the table is not CSV, or lacks a column or has it twice.
    """
    columns = [PATIENT_OVERALL, *levels]
    labels: dict[str, Labels | TableInvalid] = {}
    for row in _rows(table, columns):
        try:
            if row.uid in labels:
                raise ValueError("the study is listed twice")
            labels[row.uid] = _parse_labels(row, columns)
        except ValueError as error:
            labels[row.uid] = TableInvalid(f"{row.position}: {error}.", study=row.uid)
    return labels


def read_boxes(table: File | None) -> dict[str, list[FractureBox] | TableInvalid]:
    """Boxes by study UID, or the error in the first invalid row of the study; empty if there is no table.

    Raises
    ------
    TableInvalid
        If the table is not CSV, or lacks a column or has it twice.
    """
    boxes: dict[str, list[FractureBox] | TableInvalid] = {}
    for row in _rows(table, _BOX_COLUMNS):
        earlier = boxes.setdefault(row.uid, [])
        if isinstance(earlier, TableInvalid):
            continue
        try:
            earlier.append(_parse_box(row))
        except ValueError as error:
            boxes[row.uid] = TableInvalid(f"{row.position}: {error}.", study=row.uid)
    return boxes


def read_folds(table: File) -> dict[str, int]:
    """The fold of each study by UID, from a table with the columns ``uid`` and ``fold``.

    Raises
    ------
    TableInvalid
        If the table is not CSV, lacks a column, lists a study twice, or a fold is not an integer from 0.
    """
    folds: dict[str, int] = {}
    for row in _rows(table, ["fold"], uid_column="uid"):
        try:
            fold = row.cell("fold")
            if not fold.isdecimal() or int(fold) >= MAX_FOLDS:
                raise ValueError(f"fold is not an integer from 0 to {MAX_FOLDS - 1}")
            if row.uid in folds:
                raise ValueError("the study is listed twice")
        except ValueError as error:
            raise TableInvalid(f"{row.position}: {error}.") from error
        folds[row.uid] = int(fold)
    if len(set(folds.values())) < 2:
        raise TableInvalid(f"{table.name} names fewer than two folds.")
    return folds


class _Row(NamedTuple):
    """A row of a table; ``cells`` is None if it has more cells than the header."""

    position: str
    uid: str
    cells: dict[str, str] | None

    def cell(self, column: str) -> str:
        if self.cells is None:  # the cells may be shifted, so none of them can be trusted
            raise ValueError("the row has more cells than the table has columns")
        return self.cells[column].strip()


def _parse_labels(row: _Row, columns: Sequence[str]) -> Labels:
    """The labels of a row. Raises ValueError with the reason if they are invalid or contradictory."""
    for column in columns:
        if row.cell(column) not in ("0", "1", "0.0", "1.0"):
            raise ValueError(f"{column} is neither 0 nor 1")
    labels = {column: int(float(row.cell(column))) for column in columns}
    fractured = [column for column in columns if labels[column] and column != PATIENT_OVERALL]
    if fractured and not labels[PATIENT_OVERALL]:
        raise ValueError(f"{PATIENT_OVERALL} is 0 and {fractured[0]} is 1")
    return labels


def _parse_box(row: _Row) -> FractureBox:
    """The box of a row. Raises ValueError with the reason if it is invalid."""
    cells = [row.cell(column) for column in _BOX_COLUMNS]
    try:
        x, y, width, height, number = map(float, cells)
    except ValueError as error:
        raise ValueError("invalid box: a cell is not a number") from error
    if not all(map(math.isfinite, (x, y, width, height, number))):
        raise ValueError("invalid box: a cell is not a finite number")
    if min(width, height) <= 0 or max(abs(x), abs(y), width, height) > _MAX_PIXELS:
        raise ValueError(f"invalid box: its sides must be above 0, and all pixels at most {_MAX_PIXELS}")
    if number % 1 or not 0 <= number <= _MAX_FILE_NUMBER:
        raise ValueError(f"invalid box: slice_number is not an integer from 0 to {_MAX_FILE_NUMBER}")
    return FractureBox(x, y, width, height, int(number))


def _rows(table: File | None, columns: Sequence[str], uid_column: str = _UID_COLUMN) -> Iterator[_Row]:
    if table is None:
        return
    columns = [uid_column, *columns]
    try:
        reader = csv.DictReader(io.StringIO(_text(table), newline=""), strict=True)
        header = list(reader.fieldnames or [])
        for column in columns:
            if header.count(column) != 1:
                raise TableInvalid(f"{table.name} has {header.count(column)} columns named {column}.")
        for row in reader:
            position, uid = f"{table.name} line {reader.line_num}", (row[uid_column] or "").strip()
            # DictReader collects surplus cells under the key None.
            yield _Row(position, uid, None if None in row else {name: row[name] or "" for name in columns})
    except csv.Error as error:
        raise TableInvalid(f"{table.name} is not CSV text.") from error


def _text(table: File) -> str:
    try:
        with table.open() as content:
            return content.read().decode("utf-8-sig")
    except SourceError:
        raise
    except UnicodeDecodeError as error:
        raise TableInvalid(f"{table.name} is not CSV text.") from error
    except OSError as error:
        raise TableInvalid(f"{table.name} cannot be read: {error.strerror}.") from error
