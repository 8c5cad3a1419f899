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
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spine_etl.errors import SourceNotFound, SpineError, StudyNameInvalid, TableInvalid
from spine_etl.volume import FractureBox

_IMAGES, _MASKS = "train_images", "segmentations"
_LABELS, _BOXES = "train.csv", "train_bounding_boxes.csv"
_BOX_COLUMNS = ("x", "y", "width", "height", "slice_number")
_UID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")
PATIENT = "patient_overall"


@dataclass(frozen=True)
class Study:
    """One study of a source folder.

    ``labels`` maps each level and ``patient_overall`` to 0 or 1, None where the table has no such study.
    ``problem`` is what its table rows or its name got wrong: such a study is refused with it.
    """

    uid: str
    folder: Path
    mask: Path | None = None
    labels: dict[str, int] | None = None
    boxes: tuple[FractureBox, ...] = ()
    problem: SpineError | None = None

    @property
    def table_rows(self) -> str:
        """What the tables say, as text to be digested with the files."""
        return repr((sorted((self.labels or {}).items()), self.boxes))


def discover_studies(root: str | Path, levels: Sequence[str]) -> list[Study]:
    """The studies of a source folder, in the order of their UIDs.

    Raises
    ------
    SourceNotFound
        If there is no ``train_images`` folder with at least one study in it.
    TableInvalid
        If a table is there but lacks a column, or is no CSV text.
    """
    root = Path(root)
    images = root / _IMAGES
    if not images.is_dir():
        raise SourceNotFound(f"there is no folder {_IMAGES} in {root}.")
    folders = sorted(path for path in images.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise SourceNotFound(f"the folder {images} holds no studies.")
    labels = _read_labels(root / _LABELS, levels)
    boxes = _read_boxes(root / _BOXES)
    return [_study(folder, root / _MASKS, labels, boxes) for folder in folders]


def studies_without_images(root: str | Path, levels: Sequence[str]) -> list[str]:
    """UIDs that the label table names and ``train_images`` does not hold."""
    named = _read_labels(Path(root) / _LABELS, levels)
    return sorted(uid for uid in named if not (Path(root) / _IMAGES / uid).is_dir())


def _study(
    folder: Path,
    masks: Path,
    labels: dict[str, dict[str, int] | TableInvalid],
    boxes: dict[str, list[FractureBox] | TableInvalid],
) -> Study:
    uid = folder.name
    if not _UID.fullmatch(uid):
        # Such a name never becomes part of a path in the store; the study stands under a safe one.
        safe = re.sub(r"[^0-9A-Za-z._-]", "_", uid)[:60].lstrip("._-") or "unnamed"
        return Study(safe, folder, problem=StudyNameInvalid("the folder's name is no UID.", study=safe))
    mask = next((path for end in (".nii", ".nii.gz") if (path := masks / f"{uid}{end}").is_file()), None)
    row, found = labels.get(uid), boxes.get(uid, [])
    problem = next((fault for fault in (row, found) if isinstance(fault, TableInvalid)), None)
    if isinstance(row, TableInvalid) or isinstance(found, TableInvalid):
        return Study(uid, folder, mask, problem=problem)
    return Study(uid, folder, mask, row, tuple(found))


def _read_labels(path: Path, levels: Sequence[str]) -> dict[str, dict[str, int] | TableInvalid]:
    """Labels by UID, or what is wrong with the UID's row."""
    names = [PATIENT, *levels]
    labels: dict[str, dict[str, int] | TableInvalid] = {}
    for line, uid, row in _rows(path, names):
        values = {name: row[name].strip() for name in names}
        wrong = [name for name, value in values.items() if value not in ("0", "1", "0.0", "1.0")]
        if uid in labels:
            labels[uid] = TableInvalid(f"{path.name} line {line}: the study stands there twice.", study=uid)
        elif wrong:
            labels[uid] = TableInvalid(f"{path.name} line {line}: {wrong[0]} is neither 0 nor 1.", study=uid)
        else:
            labels[uid] = {name: int(float(value)) for name, value in values.items()}
    return labels


def _read_boxes(path: Path) -> dict[str, list[FractureBox] | TableInvalid]:
    """Boxes by UID, or what is wrong with one of the UID's rows."""
    boxes: dict[str, list[FractureBox] | TableInvalid] = defaultdict(list)
    for line, uid, row in _rows(path, _BOX_COLUMNS):
        known = boxes[uid]
        if isinstance(known, TableInvalid):
            continue
        box = _box(row)
        if box is None:
            boxes[uid] = TableInvalid(f"{path.name} line {line}: that is no box.", study=uid)
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
    return FractureBox(x, y, width, height, int(number))


def _rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, str, dict[str, str]]]:
    """Line number, StudyInstanceUID and cells of each row; nothing where there is no such table."""
    if not path.is_file():
        return
    needed = ["StudyInstanceUID", *needed]
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, strict=True)
            missing = [name for name in needed if name not in (table.fieldnames or [])]
            if missing:
                raise TableInvalid(f"{path.name} has no column {missing[0]}.")
            for row in table:
                cells = {name: row[name] or "" for name in needed}
                yield table.line_num, cells["StudyInstanceUID"].strip(), cells
    except (csv.Error, UnicodeDecodeError) as error:
        raise TableInvalid(f"{path.name} is no CSV text.") from error
