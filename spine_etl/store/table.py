"""A version's table in memory: the labels, folds, boxes and geometry of its studies, sorted by UID.

`spine_etl.store.rows` turns it into the stored columns, which are by row, and back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from spine_etl.recipe import Recipe
from spine_etl.store.arrays import ARRAY_NAMES
from spine_etl.store.columns import COLUMNS, UID_LENGTH
from spine_etl.store.record import UNKNOWN, Record
from spine_etl.store.schema import LEVEL_STATUS, MASK_SOURCE

Values = npt.NDArray[Any]

STUDY_COLUMNS = [
    name
    for name, column in COLUMNS.items()
    if column.dimensions[0] == "row" and name not in {"row", "in_version", "study_uid"}
]
"""Columns with one value per study; ``row`` and the UIDs apart, those that are content."""
PART_COLUMNS = {
    kind: [n for n, column in COLUMNS.items() if column.dimensions[0] == kind and n != f"{kind}_row"]
    for kind in ("box", "run")
}
"""Columns with one value per box, and per run of slices that show a label: a study can have any number."""

NO_FOLD = -1
"""Fold of a study that has not been assigned one."""


@dataclass(frozen=True)
class Folds:
    """How a version's studies are divided into folds.

    ``count`` is the number of folds; ``file`` the SHA-256 of the assignment that the user gave, if any.
    """

    count: int
    file: str | None = None

    @classmethod
    def of_commit(cls, commit: Mapping[str, Any]) -> Folds:
        """Those of a commit, without what a later release may add."""
        return cls(commit["folds"]["count"], commit["folds"]["file"])


@dataclass(frozen=True)
class VersionTable:
    """Studies sorted by UID, and their boxes and runs of slices in the same order.

    ``columns`` has the `STUDY_COLUMNS` and `PART_COLUMNS`, with a value for each study, box or run, whose
    meanings `COLUMNS` gives; and ``row``, the row of each study, and ``box_study`` and ``run_study``, the
    index of the study of each box and run.
    ``mask_names`` are the texts that ``mask_name`` refers to, ``warning_codes`` the second axis of
    ``warnings``; both are sorted, and contain what is used.
    """

    columns: dict[str, Values]
    mask_names: tuple[str, ...] = ()
    warning_codes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.columns["row"])

    def __getitem__(self, name: str) -> Values:
        return self.columns[name]

    @property
    def study_uids(self) -> list[str]:
        return uids_from_ascii(self["study_uid_ascii"])

    @property
    def rows(self) -> int:
        """Number of rows the arrays need for this table."""
        return int(self["row"].max()) + 1 if len(self) else 0

    def digests(self) -> dict[str, str]:
        """SHA-256 (hex) of each column's content, by name.

        They do not depend on the rows: a study's row depends on the order in which the workers finished, and
        two builds of the same source must have the same digests.
        """
        codes = {"mask_name": self.mask_names, "warnings": self.warning_codes}
        digests: dict[str, str] = {}
        in_memory = {f"{kind}_row": f"{kind}_study" for kind in PART_COLUMNS}
        parts = [name for kind, names in PART_COLUMNS.items() for name in (f"{kind}_row", *names)]
        for name in [*STUDY_COLUMNS, *parts]:
            values = self[in_memory.get(name, name)]
            description = [name, COLUMNS[name].data_type, values.shape, codes.get(name, ())]
            header = json.dumps(description, separators=(",", ":"))
            content = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
            digests[name] = hashlib.sha256(header.encode() + content).hexdigest()
        return digests

    def updated(self, newer: VersionTable, folds: Mapping[str, int], count: int) -> VersionTable:
        """This table with the studies of ``newer`` added or replaced.

        A study has its fold in ``folds`` (by UID); the others get one of ``count`` folds.
        """
        merged = _join(self.without(set(newer.study_uids)), newer).sorted_by_uid()
        kept = np.array([folds.get(uid, NO_FOLD) for uid in merged.study_uids], np.int16)
        merged.columns["fold"] = _assign_folds(kept, merged["patient_overall"], count)
        return merged

    def without(self, uids: Set[str]) -> VersionTable:
        """This table without these studies, their boxes and runs."""
        kept = [index for index, uid in enumerate(self.study_uids) if uid not in uids]
        return self._reordered(np.array(kept, dtype=np.int64))

    def sorted_by_uid(self) -> VersionTable:
        uids = self.study_uids
        return self._reordered(np.array(sorted(range(len(uids)), key=uids.__getitem__), dtype=np.int64))

    def _reordered(self, order: npt.NDArray[np.int64]) -> VersionTable:
        """The studies at these indices, in this order, with their parts, and the codes that they use."""
        new_index = np.full(len(self), -1, np.int64)
        new_index[order] = np.arange(len(order))
        columns = {name: self[name][order] for name in ["row", *STUDY_COLUMNS]}
        for kind, names in PART_COLUMNS.items():
            study = new_index[self[f"{kind}_study"]]
            parts = np.flatnonzero(study >= 0)
            parts = parts[np.argsort(study[parts], kind="stable")]
            columns |= {name: self[name][parts] for name in names}
            columns[f"{kind}_study"] = study[parts].astype(np.int32)
        reordered = replace(self, columns=columns)
        used_names = [self.mask_names[code] for code in np.unique(columns["mask_name"]).tolist()]
        used = np.unique(columns["warnings"].nonzero()[1])
        used_codes = [self.warning_codes[code] for code in used.tolist()]
        return reordered._with_codes(used_names, used_codes)

    def _with_codes(self, mask_names: Iterable[str], warning_codes: Iterable[str]) -> VersionTable:
        """This table with other lists of codes, which contain all that it uses."""
        names, codes = tuple(sorted(mask_names)), tuple(sorted(warning_codes))
        texts = [self.mask_names[code] for code in self["mask_name"].tolist()]
        warnings = np.zeros((len(self), len(codes)), np.uint16)
        for position, code in enumerate(codes):
            if code in self.warning_codes:
                warnings[:, position] = self["warnings"][:, self.warning_codes.index(code)]
        mask_name = np.array([names.index(text) for text in texts], np.uint16)
        return VersionTable({**self.columns, "mask_name": mask_name, "warnings": warnings}, names, codes)


def table_from_records(records: Iterable[Record], recipe: Recipe) -> VersionTable:
    """The table of these records, without the refused ones; folds are not assigned yet."""
    records = [record for record in records if record.refusal is None]
    levels, labels = list(recipe.levels), {**recipe.levels, **recipe.other_labels}
    boxes = [(index, box) for index, record in enumerate(records) for box in record.boxes]
    runs = [
        (index, labels[name], run)
        for index, record in enumerate(records)
        for name, runs_of_label in record.slice_runs.items()
        for run in runs_of_label
    ]
    n = len(levels)
    no_position = (np.nan,) * 3
    names = sorted({record.mask_name for record in records})
    codes = sorted({warning.code for record in records for warning in record.warnings})

    def per_level(value: Any) -> list[list[Any]]:
        return [[value(record.levels[level]) for level in levels] for record in records]

    def checksums(name: str) -> list[tuple[int, ...]]:
        return [record.objects[name].crc32c for record in records]

    def warning_counts(record: Record) -> list[int]:
        return [sum(warning.code == code for warning in record.warnings) for code in codes]

    lists: dict[str, tuple[list[Any], tuple[int, ...]]] = {
        "study_uid_ascii": ([uid_as_ascii(r.uid) for r in records], (UID_LENGTH,)),
        "fold": ([NO_FOLD] * len(records), ()),
        "patient_overall": ([r.fracture.get("patient_overall", UNKNOWN) for r in records], ()),
        "fracture": ([[r.fracture.get(level, UNKNOWN) for level in levels] for r in records], (n,)),
        "level_status": (per_level(lambda level: LEVEL_STATUS.index(level.status)), (n,)),
        "mask_source": ([MASK_SOURCE.index(r.mask_source) for r in records], ()),
        "mask_name": ([names.index(r.mask_name) for r in records], ()),
        "coverage": (per_level(lambda level: level.coverage), (n,)),
        "label_share": (per_level(lambda level: level.label_share), (n,)),
        "volume_mm3": (per_level(lambda level: level.volume_mm3), (n,)),
        "level_confidence": (per_level(lambda level: level.confidence), (n,)),
        "level_slices": (per_level(lambda level: level.slices or (-1, -1)), (n, 2)),
        "island_voxels": (per_level(lambda level: level.island_voxels), (n,)),
        "island_distance_mm": (per_level(lambda level: level.island_distance_mm), (n,)),
        "crop_origin_mm": (per_level(lambda level: level.origin_mm or no_position), (n, 3)),
        "overview_origin_mm": ([r.overview_origin_mm for r in records], (3,)),
        "straightened": ([r.straightened for r in records], ()),
        "slices": ([r.facts.get("slices", 0) for r in records], ()),
        "source_spacing_mm": ([r.facts.get("spacing", no_position) for r in records], (3,)),
        "warnings": ([warning_counts(r) for r in records], (len(codes),)),
        "source_digest": ([list(bytes.fromhex(r.source_digest)) for r in records], (32,)),
        "sha256": (
            [[list(bytes.fromhex(r.objects[name].sha256)) for name in ARRAY_NAMES] for r in records],
            (len(ARRAY_NAMES), 32),
        ),
        "image_crc32c": (checksums("image"), (n,)),
        "mask_crc32c": (checksums("mask"), (n,)),
        "overview_image_crc32c": ([value for (value,) in checksums("overview/image")], ()),
        "overview_mask_crc32c": ([value for (value,) in checksums("overview/mask")], ()),
        "box_slice_number": ([box.slice_number for _, box in boxes], ()),
        "box_source": ([(box.x, box.y, box.width, box.height) for _, box in boxes], (4,)),
        "box_level": ([levels.index(box.level) if box.level else -1 for _, box in boxes], ()),
        "box_crop": (
            [[box.in_crops.get(level, (np.nan,) * 6) for level in levels] for _, box in boxes],
            (n, 6),
        ),
        "run_label": ([label for _, label, _ in runs], ()),
        "run_slices": ([run for _, _, run in runs], (2,)),
    }
    columns = {
        name: np.array(values, COLUMNS[name].data_type).reshape((len(values), *axes))
        for name, (values, axes) in lists.items()
    }
    columns["row"] = np.array([record.row for record in records], np.int32)
    columns["box_study"] = np.array([index for index, _ in boxes], np.int32)
    columns["run_study"] = np.array([index for index, *_ in runs], np.int32)
    return VersionTable(columns, tuple(names), tuple(codes)).sorted_by_uid()


def uid_as_ascii(uid: str) -> list[int]:
    """A UID as `UID_LENGTH` bytes, padded with zeros."""
    return list(uid.encode("ascii").ljust(UID_LENGTH, b"\0"))


def uids_from_ascii(characters: Values) -> list[str]:
    """The UIDs of a (study, `UID_LENGTH`) array of bytes."""
    texts = np.ascontiguousarray(characters).view(f"S{UID_LENGTH}").ravel().tolist()
    return [text.decode("ascii") for text in texts]


def _join(older: VersionTable, newer: VersionTable) -> VersionTable:
    names = {*older.mask_names, *newer.mask_names}
    codes = {*older.warning_codes, *newer.warning_codes}
    first, second = older._with_codes(names, codes), newer._with_codes(names, codes)
    by_part = [name for names in PART_COLUMNS.values() for name in names]
    columns = {
        name: np.concatenate([first[name], second[name]]) for name in ["row", *STUDY_COLUMNS, *by_part]
    }
    for kind in PART_COLUMNS:
        study = np.concatenate([first[f"{kind}_study"], second[f"{kind}_study"] + len(first)])
        columns[f"{kind}_study"] = study.astype(np.int32)
    return replace(first, columns=columns)


def _assign_folds(kept: Values, patient_overall: Values, folds: int) -> Values:
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
