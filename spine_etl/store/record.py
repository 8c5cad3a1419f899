"""A study's record: what was stored of it, or why it was refused.

A record is written after all other objects of its study, so its existence implies theirs.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from spine_etl.errors import SpineError, StudyWarning
from spine_etl.settings import StrictModel

UNKNOWN = -1
"""Label of a level or patient that the label table does not contain."""

MaskSource = Literal["none", "given", "predicted", "external"]
"""Origin of a study's mask: ``given`` is its own segmentation, ``predicted`` that of a localizer, and
``external`` one that was made elsewhere."""


class Refusal(StrictModel):
    """Why a study was left out: a `SpineError` as data."""

    code: str
    reason: str
    action: str
    transient: bool = False
    """True if the next build retries the study even if its source has not changed."""


class StoredObject(StrictModel):
    """A row's object: its SHA-256 (hex), and the CRC-32C at the end of each of its chunks."""

    sha256: str
    crc32c: tuple[int, ...]


class LevelRecord(StrictModel):
    """One level of a study.

    ``origin_mm`` is the LPS position of the crop's voxel (0, 0, 0). ``coverage`` is the share of the crop,
    0 to 1, inside the CT's field of view. ``confidence`` is 1 if a segmentation shows the level, else the
    localizer's. ``slices`` are the numbers in the file names of the lowest and the highest slice that show
    the main part of the vertebra; the slices between them also show it, and can show other levels.
    ``label_share`` is the share of the vertebra's voxels, 0 to 1, that are in its crop. ``island_voxels``
    were cleared from the mask since they are not part of the vertebra, up to ``island_distance_mm`` away from
    it.
    """

    status: Literal["unlocated", "located", "absent", "ambiguous"]
    origin_mm: tuple[float, float, float] | None = None
    coverage: float = 0.0
    volume_mm3: float = 0.0
    confidence: float = 0.0
    slices: tuple[int, int] | None = None
    label_share: float = 0.0
    island_voxels: int = 0
    island_distance_mm: float = 0.0


class BoxRecord(StrictModel):
    """A fracture box in its source slice (pixels) and in each level's crop.

    A box in a crop is the voxels z0, y0, x0, z1, y1, x1 of two opposite corners.
    """

    x: float
    y: float
    width: float
    height: float
    slice_number: int
    level: str | None = None
    in_crops: dict[str, tuple[float, float, float, float, float, float]] = Field(default={})


class Record(StrictModel):
    """The outcome of one study.

    Either ``refusal`` is set, or ``row`` and ``objects`` (by array) are. ``fracture`` maps each level and
    ``patient_overall`` to 0, 1 or `UNKNOWN`. ``mask_name`` says which localizer or which scheme of labels an
    external mask has, and is empty otherwise. ``straightened`` is True if a curved series was resampled along
    its arc. ``slice_runs`` are, by name of a level or other label, the runs of file numbers whose slices show
    it in the mask: the first and the last number of each run. The files with numbers between these show it
    too, and those outside all its runs do not.
    """

    uid: str
    fingerprint: str
    source_digest: str
    refusal: Refusal | None = None
    row: int | None = None
    objects: dict[str, StoredObject] = Field(default={})
    mask_source: MaskSource = "none"
    mask_name: str = ""
    straightened: bool = False
    levels: dict[str, LevelRecord] = Field(default={})
    slice_runs: dict[str, tuple[tuple[int, int], ...]] = Field(default={})
    overview_origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    fracture: dict[str, int] = Field(default={})
    boxes: tuple[BoxRecord, ...] = ()
    facts: dict[str, Any] = Field(default={})
    warnings: tuple[StudyWarning, ...] = ()

    @staticmethod
    def key(uid: str) -> str:
        """Key of a study's record in the store."""
        return f"studies/{uid}/record.json"

    @classmethod
    def refused(
        cls, uid: str, fingerprint: str, source_digest: str, error: SpineError, *, transient: bool = False
    ) -> Record:
        """The record of a study that was refused with ``error``."""
        refusal = Refusal(**error.as_dict(), transient=transient)
        return cls(uid=uid, fingerprint=fingerprint, source_digest=source_digest, refusal=refusal)
