"""Sources of a few bytes, whose studies are compared but never read, and records of them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spine_etl.errors import SliceGap, SourceUnreachable
from spine_etl.source.layout import Study
from spine_etl.store.record import LevelRecord, Record, StoredObject
from spine_etl.study_record import refusal_record, source_digest
from tests.store.tiny import RECIPE

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()  # thousands of flushed writes
LABELS_HEADER = "StudyInstanceUID,patient_overall,C1,C2"
BOXES_HEADER = "StudyInstanceUID,x,y,width,height,slice_number"


@dataclass(frozen=True)
class Content:
    """The bytes of a study's files; None if there is no such file or row."""

    slices: tuple[str, ...] = ("a slice",)
    mask: str | None = "a mask"
    labels: str | None = "0,0,0"
    box: str | None = None


def write_source(root: Path, studies: Mapping[str, Content], listed: Mapping[str, str] = {}) -> None:
    """Make ``root`` contain these studies only; ``listed`` are the labels of studies without images."""
    images, masks = root / "train_images", root / "segmentations"
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    files = {
        images / uid / f"{number}.dcm": text
        for uid, content in studies.items()
        for number, text in enumerate(content.slices, 1)
    }
    files |= {masks / f"{uid}.nii": content.mask for uid, content in studies.items() if content.mask}
    labels = {uid: content.labels for uid, content in studies.items() if content.labels} | dict(listed)
    boxes = {uid: content.box for uid, content in studies.items() if content.box}
    for name, header, rows in (
        ("train.csv", LABELS_HEADER, labels), ("train_bounding_boxes.csv", BOXES_HEADER, boxes)
    ):  # fmt: skip
        # An empty line if there is no row: the number of an invalid line is part of a refusal's reason.
        lines = [
            f"{uid},{rows[uid]}" if uid in rows else "" for uid in sorted(studies.keys() | listed.keys())
        ]
        files[root / name] = "\n".join([header, *lines]) + "\n"
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_file() and path not in files:
            path.unlink()
        elif path.is_dir() and path.parent == images and path.name not in studies:
            path.rmdir()
    for path, text in files.items():
        if not path.is_file() or path.read_text() != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)


CHUNKS = {"image": len(RECIPE.levels), "mask": len(RECIPE.levels), "overview/image": 1, "overview/mask": 1}


def stored(study: Study, row: int, fingerprint: str = RECIPE.fingerprint) -> Record:
    """The record of a study as if its row had been written; nothing reads the row."""
    return Record(
        uid=study.uid,
        fingerprint=fingerprint,
        source_digest=source_digest(study),
        row=row,
        objects={name: StoredObject(sha256="0" * 64, crc32c=(0,) * n) for name, n in CHUNKS.items()},
        levels={level: LevelRecord(status="absent") for level in RECIPE.levels},
    )


def refused(study: Study) -> Record:
    return refusal_record(study, RECIPE, SliceGap("2 slices are missing."))


def transiently_refused(study: Study) -> Record:
    return refusal_record(study, RECIPE, SourceUnreachable("status 503."), transient=True)
