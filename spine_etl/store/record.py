"""A study's record: what came of it, or why it was refused. Written last, so it vouches for the rest."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from spine_etl.errors import SpineError

UNKNOWN = -1
"""Label of a level or patient that the label table does not name."""


MaskSource = Literal["none", "given", "predicted"]
"""Where a study's mask came from: its own segmentation, a localizer, or nowhere."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Refusal(_Frozen):
    """Why a study was left out: a `SpineError` as data."""

    code: str
    reason: str
    action: str
    transient: bool = False
    """Whether the next run tries the study again though its source did not change."""


class LevelRecord(_Frozen):
    """One level of a study.

    ``origin_mm`` is the LPS position of the crop's voxel (0, 0, 0). ``confidence`` is 1 where a segmentation
    shows the level, and the localizer's where that found it. ``slices`` are the numbers in the file names of
    the lowest and the highest slice that show the level; those between show it too, and may show others.
    """

    status: Literal["unlocated", "located", "absent"]
    origin_mm: tuple[float, float, float] | None = None
    coverage: float = 0.0
    volume_mm3: float = 0.0
    confidence: float = 0.0
    slices: tuple[int, int] | None = None


class BoxRecord(_Frozen):
    """A fracture box in its source slice (pixels) and in each level's crop (voxels z0,y0,x0,z1,y1,x1)."""

    x: float
    y: float
    width: float
    height: float
    slice_number: int
    level: str | None = None
    in_crops: dict[str, tuple[float, float, float, float, float, float]] = {}


class Record(_Frozen):
    """What the store knows of a study.

    Either ``refusal`` is set, or ``row`` and ``digests`` (SHA-256 of each object, hex) are. ``fracture``
    holds 0, 1 or `UNKNOWN` for each level and for ``patient_overall``.
    """

    uid: str
    fingerprint: str
    source_digest: str
    refusal: Refusal | None = None
    row: int | None = None
    digests: dict[str, str] = {}
    mask_source: MaskSource = "none"
    levels: dict[str, LevelRecord] = {}
    overview_origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    fracture: dict[str, int] = {}
    boxes: tuple[BoxRecord, ...] = ()
    facts: dict[str, Any] = {}
    warnings: tuple[str, ...] = ()

    @staticmethod
    def key(uid: str) -> str:
        return f"studies/{uid}/record.json"

    @classmethod
    def refused(
        cls, uid: str, fingerprint: str, source_digest: str, error: SpineError, *, transient: bool = False
    ) -> Record:
        refusal = Refusal(**error.as_dict(), transient=transient)
        return cls(uid=uid, fingerprint=fingerprint, source_digest=source_digest, refusal=refusal)
