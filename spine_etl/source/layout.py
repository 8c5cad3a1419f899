"""What lies in a source folder: slices, masks, labels and boxes of each study, in the RSNA 2022 layout.

    <root>/train_images/<StudyInstanceUID>/<n>.dcm
    <root>/segmentations/<StudyInstanceUID>.nii[.gz]      for some studies
    <root>/train.csv                                      StudyInstanceUID, patient_overall, C1 ... C7
    <root>/train_bounding_boxes.csv                       StudyInstanceUID, x, y, width, height, slice_number

The tables may be absent. A table that cannot be understood at all refuses the whole source, before any work;
a row that cannot refuses its own study and no other.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from spine_etl.errors import (
    MaskUnreadable,
    SourceError,
    SourceNotFound,
    SpineError,
    StudyNameInvalid,
    TableInvalid,
)
from spine_etl.source.files import File, Folder, FolderOrAddress, open_source
from spine_etl.volume import FractureBox

_IMAGES, _MASKS = "train_images", "segmentations"
_LABELS, _BOXES = "train.csv", "train_bounding_boxes.csv"
_BOX_COLUMNS = ("x", "y", "width", "height", "slice_number")
_MOST_PIXELS, _MOST_FILES = 2**16 - 1, 2**31 - 1
_UID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")
PATIENT = "patient_overall"
_Named = TypeVar("_Named", File, Folder)


@dataclass(frozen=True)
class Study:
    """One study of a source folder.

    ``labels`` maps each level and ``patient_overall`` to 0 or 1, None where the table has no such study.
    ``problem`` is what its table rows or its name got wrong: such a study is refused with it.
    """

    uid: str
    folder: Folder
    mask: File | None = None
    labels: dict[str, int] | None = None
    boxes: tuple[FractureBox, ...] = ()
    problem: SpineError | None = None

    @property
    def table_content(self) -> str:
        """What the tables say, and what is wrong with it, as text to be digested with the files."""
        said = repr((sorted((self.labels or {}).items()), self.boxes))
        return f"{said} {self.problem.reason}" if self.problem else said


def discover_studies(place: FolderOrAddress, levels: Sequence[str]) -> list[Study]:
    """The studies of a source, in the order of their UIDs.

    Parameters
    ----------
    place
        A folder, a ``.zip``, ``s3://bucket/prefix``, or what `open_source` made of it. It has
        the layout, or holds one folder that has it.
    levels
        Columns of the label table, beside ``patient_overall``.

    Raises
    ------
    SourceNotFound
        If there is no ``train_images`` folder with at least one study in it.
    ArchiveInvalid, SourceUnreachable
        If the archive cannot be trusted, or S3 does not answer.
    TableInvalid
        If a table is there but lacks a column, or is no CSV text.
    """
    root = _layout(place)
    folders = sorted(_named(_named(root.folders())[_IMAGES].folders()).items())
    if not folders:
        raise SourceNotFound(f"the folder {_IMAGES} of {root.name} holds no studies.")
    tables = _named(root.files())
    labels, boxes = _read_labels(tables.get(_LABELS), levels), _read_boxes(tables.get(_BOXES))
    masks = _named(root.folders()).get(_MASKS)
    known = _named(masks.files()) if masks else {}
    return [_study(folder, known, labels, boxes) for _, folder in folders]


def studies_without_images(place: FolderOrAddress, levels: Sequence[str]) -> list[str]:
    """UIDs that the label table names and ``train_images`` does not hold; raises as `discover_studies`."""
    root = _layout(place)
    named = _read_labels(_named(root.files()).get(_LABELS), levels)
    return sorted(named.keys() - _named(_named(root.folders())[_IMAGES].folders()).keys())


def tables_modified_at(place: FolderOrAddress) -> float | None:
    """When the newest table changed, seconds since the epoch; None where there is none, or nobody knows."""
    tables = _named(_layout(place).files())
    dates = [tables[name].modified_at() for name in (_LABELS, _BOXES) if name in tables]
    return max((date for date in dates if date is not None), default=None)


def _layout(place: FolderOrAddress) -> Folder:
    """The folder that has the layout: the one that is named, or the only one in it."""
    root = open_source(place)
    inside = _named(root.folders())
    if _IMAGES not in inside and len(inside) == 1:
        (root,) = inside.values()
        inside = _named(root.folders())
    if _IMAGES not in inside:
        raise SourceNotFound(f"there is no folder {_IMAGES} in {root.name}.")
    return root


def _named(found: Iterable[_Named]) -> dict[str, _Named]:
    """Files or folders by name, without those that are hidden."""
    return {one.name: one for one in found if not one.name.startswith(".")}


def _study(
    folder: Folder,
    masks: Mapping[str, File],
    labels: dict[str, dict[str, int] | TableInvalid],
    boxes: dict[str, list[FractureBox] | TableInvalid],
) -> Study:
    uid = folder.name
    if not _UID.fullmatch(uid):
        # Such a name never becomes part of a path in the store, and it may be a patient's.
        safe = f"unnamed-{hashlib.sha256(uid.encode()).hexdigest()[:12]}"
        reason = f"the name of a folder in {_IMAGES}, {len(uid)} characters long, is no UID."
        return Study(safe, folder, problem=StudyNameInvalid(reason, study=safe))
    mask = masks.get(f"{uid}.nii") or masks.get(f"{uid}.nii.gz")
    if f"{uid}.nii" in masks and f"{uid}.nii.gz" in masks:
        twice = MaskUnreadable(
            "there are two segmentations, .nii and .nii.gz.", study=uid, action="Take the wrong one away."
        )
        return Study(uid, folder, mask, problem=twice)
    row, found = labels.get(uid), boxes.get(uid, [])
    if isinstance(row, TableInvalid):
        return Study(uid, folder, mask, problem=row)
    if isinstance(found, TableInvalid):
        return Study(uid, folder, mask, problem=found)
    return Study(uid, folder, mask, row, tuple(found))


def _read_labels(table: File | None, levels: Sequence[str]) -> dict[str, dict[str, int] | TableInvalid]:
    """Labels by UID, or what is wrong with the UID's row."""
    names = [PATIENT, *levels]
    labels: dict[str, dict[str, int] | TableInvalid] = {}
    for place, uid, row in _rows(table, names):
        values = {name: row[name].strip() for name in names}
        wrong = [name for name, value in values.items() if value not in ("0", "1", "0.0", "1.0")]
        if uid in labels:
            labels[uid] = TableInvalid(f"{place}: the study stands there twice.", study=uid)
        elif wrong:
            labels[uid] = TableInvalid(f"{place}: {wrong[0]} is neither 0 nor 1.", study=uid)
        else:
            labels[uid] = _agreeing({name: int(float(value)) for name, value in values.items()}, place, uid)
    return labels


def _agreeing(labels: dict[str, int], place: str, uid: str) -> dict[str, int] | TableInvalid:
    """The labels; a patient of whom a level is fractured is fractured."""
    fractured = [name for name, label in labels.items() if label and name != PATIENT]
    if fractured and not labels[PATIENT]:
        return TableInvalid(f"{place}: {PATIENT} is 0 and {fractured[0]} is 1.", study=uid)
    return labels


def _read_boxes(table: File | None) -> dict[str, list[FractureBox] | TableInvalid]:
    """Boxes by UID, or what is wrong with one of the UID's rows."""
    boxes: dict[str, list[FractureBox] | TableInvalid] = defaultdict(list)
    for place, uid, row in _rows(table, _BOX_COLUMNS):
        known = boxes[uid]
        if isinstance(known, TableInvalid):
            continue
        box = _box(row)
        if box is None:
            boxes[uid] = TableInvalid(f"{place}: that is no box.", study=uid)
        else:
            known.append(box)
    return dict(boxes)


def _box(row: dict[str, str]) -> FractureBox | None:
    try:
        x, y, width, height, number = (float(row[key]) for key in _BOX_COLUMNS)
    except ValueError:
        return None
    if not all(map(math.isfinite, (x, y, width, height, number))) or min(width, height) <= 0 or number % 1:
        return None
    # Rows and Columns are 16-bit in DICOM; a file number is kept as int32.
    if max(abs(x), abs(y), width, height) > _MOST_PIXELS or not 0 <= number <= _MOST_FILES:
        return None
    return FractureBox(x, y, width, height, int(number))


def _rows(table: File | None, needed: Sequence[str]) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Where it stands, StudyInstanceUID and cells of each row; nothing where there is no such table."""
    if table is None:
        return
    needed = ["StudyInstanceUID", *needed]
    try:
        rows = csv.DictReader(io.StringIO(_content(table), newline=""), strict=True)
        columns = list(rows.fieldnames or [])
        for name in needed:
            if columns.count(name) != 1:
                raise TableInvalid(f"{table.name} has {columns.count(name)} columns {name}.")
        for row in rows:
            place, uid = f"{table.name} line {rows.line_num}", (row["StudyInstanceUID"] or "").strip()
            if None in row:  # its cells may stand under the wrong names, so none of them is believed
                yield f"{place} has more cells than columns", uid, dict.fromkeys(needed, "")
            else:
                yield place, uid, {name: row[name] or "" for name in needed}
    except csv.Error as error:
        raise TableInvalid(f"{table.name} is no CSV text.") from error


def _content(table: File) -> str:
    try:
        with table.open() as content:
            return content.read().decode("utf-8-sig")
    except SourceError:
        raise
    except UnicodeDecodeError as error:
        raise TableInvalid(f"{table.name} is no CSV text.") from error
    except OSError as error:
        raise TableInvalid(f"{table.name} cannot be read: {error.strerror}.") from error
