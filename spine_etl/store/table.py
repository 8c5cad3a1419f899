"""A version's table: the labels, folds, boxes and geometry of all studies, one array per column."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spine_etl.store.record import UNKNOWN, Record
from spine_etl.store.schema import ARRAY_NAMES, LEVEL_STATUS, MASK_SOURCE, UID_LENGTH

Column = npt.NDArray[Any]

DIMENSIONS: dict[str, tuple[str, ...]] = {
    "study_uid": ("study", "character"),
    "row": ("study",),
    "fold": ("study",),
    "patient_overall": ("study",),
    "fracture": ("study", "level"),
    "level_status": ("study", "level"),
    "mask_source": ("study",),
    "coverage": ("study", "level"),
    "volume_mm3": ("study", "level"),
    "level_confidence": ("study", "level"),
    "level_slices": ("study", "level", "end"),
    "crop_origin_mm": ("study", "level", "axis"),
    "overview_origin_mm": ("study", "axis"),
    "source_digest": ("study", "byte"),
    "digest": ("study", "object", "byte"),
    "box_study": ("box",),
    "box_slice_number": ("box",),
    "box_source": ("box", "pixel"),
    "box_level": ("box",),
    "box_crop": ("box", "level", "corner"),
}
"""Columns and their dimensions: axis is L, P, S; pixel is x, y, width, height; corner is z0, y0, x0, z1, y1,
x1; end is lowest, highest."""

NO_FOLD = -1
"""Fold of a study that has not been assigned one."""


@dataclass(frozen=True)
class VersionTable:
    """Studies sorted by UID, and their boxes in the same order.

    ``columns`` has the arrays of `DIMENSIONS`: ``study_uid`` (study, 64) is ASCII padded with zeros;
    ``level_slices`` the file numbers of the lowest and the highest slice that show a level, or -1;
    ``fracture`` and ``patient_overall`` 0, 1 or -1 (unknown); ``box_level`` the level's index or -1;
    ``box_crop`` is NaN if the box does not intersect the level's crop.
    """

    columns: dict[str, Column]

    def __len__(self) -> int:
        return len(self.columns["row"])

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    @property
    def study_uids(self) -> list[str]:
        characters = np.ascontiguousarray(self["study_uid"])
        return [text.decode() for text in characters.view(f"S{UID_LENGTH}").ravel().tolist()]

    @property
    def rows(self) -> int:
        """Number of rows the arrays need for this table."""
        return int(self["row"].max()) + 1 if len(self) else 0

    def digest(self, *, with_rows: bool) -> str:
        """SHA-256 of the columns, 64 hex digits.

        Without the rows, two builds of the same source have the same digest: a study's row depends on the
        order in which the workers finished.
        """
        running = hashlib.sha256()
        for name in DIMENSIONS:
            if with_rows or name != "row":
                values = np.ascontiguousarray(self[name])
                running.update(f"{name} {values.dtype.str} {values.shape}\n".encode() + values.tobytes())
        return running.hexdigest()

    def updated(self, newer: VersionTable, past_folds: Mapping[str, int], folds: int) -> VersionTable:
        """This table with the studies of ``newer`` added or replaced.

        A study keeps the fold that it has here or had earlier (``past_folds``, by UID); others get a new one.
        """
        fold_of = {**past_folds, **dict(zip(self.study_uids, self["fold"].tolist(), strict=True))}
        merged = _join([self.without(set(newer.study_uids)), newer])._sorted()
        kept = [fold_of.get(uid, NO_FOLD) for uid in merged.study_uids]
        merged.columns["fold"] = _assign_folds(np.array(kept, np.int16), merged["patient_overall"], folds)
        return merged

    def without(self, uids: Set[str]) -> VersionTable:
        """This table without these studies and their boxes."""
        kept = [index for index, uid in enumerate(self.study_uids) if uid not in uids]
        return self._reordered(np.array(kept, dtype=np.int64))

    def _sorted(self) -> VersionTable:
        uids = self.study_uids
        return self._reordered(np.array(sorted(range(len(uids)), key=uids.__getitem__), dtype=np.int64))

    def _reordered(self, order: npt.NDArray[np.int64]) -> VersionTable:
        """The studies at these indices, in this order, with their boxes."""
        new_index = np.full(len(self), -1, np.int64)
        new_index[order] = np.arange(len(order))
        box_study = new_index[self["box_study"]]
        boxes = np.flatnonzero(box_study >= 0)
        boxes = boxes[np.argsort(box_study[boxes], kind="stable")]
        columns = {
            name: self[name][order] if axes[0] == "study" else self[name][boxes]
            for name, axes in DIMENSIONS.items()
        }
        columns["box_study"] = box_study[boxes].astype(np.int32)
        return VersionTable(columns)


def table_from_records(records: Iterable[Record], levels: Sequence[str]) -> VersionTable:
    """The table of these records, without the refused ones; folds are not assigned yet."""
    records = [record for record in records if record.refusal is None]
    boxes = [(index, box) for index, record in enumerate(records) for box in record.boxes]
    no_position = (np.nan,) * 3

    def per_level(value: Any) -> list[list[Any]]:
        return [[value(record, level) for level in levels] for record in records]

    def column(values: list[Any], dtype: str, *axes: int) -> Column:
        return np.array(values, dtype).reshape((len(values), *axes))

    n = len(levels)
    columns = {
        "study_uid": column([_characters(r.uid) for r in records], "uint8", UID_LENGTH),
        "row": column([r.row for r in records], "int32"),
        "fold": column([NO_FOLD] * len(records), "int16"),
        "patient_overall": column([r.fracture.get("patient_overall", UNKNOWN) for r in records], "int8"),
        "fracture": column(per_level(lambda r, level: r.fracture.get(level, UNKNOWN)), "int8", n),
        "level_status": column(
            per_level(lambda r, level: LEVEL_STATUS.index(r.levels[level].status)), "uint8", n
        ),
        "mask_source": column([MASK_SOURCE.index(r.mask_source) for r in records], "uint8"),
        "coverage": column(per_level(lambda r, level: r.levels[level].coverage), "float32", n),
        "volume_mm3": column(per_level(lambda r, level: r.levels[level].volume_mm3), "float32", n),
        "level_confidence": column(
            per_level(lambda r, level: r.levels[level].confidence), "float32", n
        ),
        "level_slices": column(
            per_level(lambda r, level: r.levels[level].slices or (-1, -1)), "int32", n, 2
        ),
        "crop_origin_mm": column(
            per_level(lambda r, level: r.levels[level].origin_mm or no_position), "float64", n, 3
        ),
        "overview_origin_mm": column([r.overview_origin_mm for r in records], "float64", 3),
        "source_digest": column([list(bytes.fromhex(r.source_digest)) for r in records], "uint8", 32),
        "digest": column(
            [[list(bytes.fromhex(r.digests[name])) for name in ARRAY_NAMES] for r in records],
            "uint8", len(ARRAY_NAMES), 32,
        ),
        "box_study": column([index for index, _ in boxes], "int32"),
        "box_slice_number": column([box.slice_number for _, box in boxes], "int32"),
        "box_source": column([(b.x, b.y, b.width, b.height) for _, b in boxes], "float64", 4),
        "box_level": column([levels.index(b.level) if b.level else -1 for _, b in boxes], "int8"),
        "box_crop": column(
            [[b.in_crops.get(level, (np.nan,) * 6) for level in levels] for _, b in boxes], "float32", n, 6
        ),
    }  # fmt: skip
    return VersionTable(columns)._sorted()


def _characters(uid: str) -> list[int]:
    return list(uid.encode("ascii").ljust(UID_LENGTH, b"\0"))


def _join(tables: Sequence[VersionTable]) -> VersionTable:
    columns = {name: np.concatenate([table[name] for table in tables]) for name in DIMENSIONS}
    starts = np.cumsum([0] + [len(table) for table in tables[:-1]])
    columns["box_study"] = np.concatenate(
        [table["box_study"] + start for table, start in zip(tables, starts, strict=True)]
    ).astype(np.int32)
    return VersionTable(columns)


def _assign_folds(kept: Column, patient_overall: Column, folds: int) -> Column:
    """Assign folds to the studies that have none (-1); the others keep theirs.

    Each study gets the fold with the fewest studies of the same label, or the fewest of all if tied, so
    positives and negatives are distributed evenly.
    """
    assigned = kept.copy()
    counts_by_label = {
        label: np.bincount(kept[(patient_overall == label) & (kept >= 0)], minlength=folds)
        for label in np.unique(patient_overall).tolist()
    }
    total = np.bincount(kept[kept >= 0], minlength=folds)
    for index in np.flatnonzero(kept < 0).tolist():
        counts = counts_by_label[int(patient_overall[index])]
        fold = min(range(folds), key=lambda k: (counts[k], total[k], k))
        counts[fold] += 1
        total[fold] += 1
        assigned[index] = fold
    return assigned
