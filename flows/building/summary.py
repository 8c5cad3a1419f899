"""The figures of one build, as printed by the commands and published with the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from spine_etl.errors import StudyWarning
from spine_etl.source.masks import UnusedMask

_JSON_KEYS = (
    "store",
    "processed",
    "unchanged",
    "refused",
    "left",
    "version",
    "root_digest",
    "seconds",
    "unused_masks",
    "unnamed_levels",
)


@dataclass(frozen=True)
class Summary:
    """What a build did.

    Attributes
    ----------
    store
        Path or URL of the store.
    processed
        Studies stored by this build.
    unchanged
        Studies that were stored already and have not changed.
    refused
        Studies that cannot be used, including those refused by earlier builds.
    version
        The committed version, or 0 if the store has none.
    refusals
        Of each refused study, its ``uid`` and the refusal's ``code``, ``reason`` and ``action``.
    warnings
        Warnings of the studies stored by this build, by UID.
    without_images
        UIDs that the label table names but for which the source has no images.
    unnamed_levels
        Levels of the recipe that the label names of the masks do not contain.
    unused_masks
        Paths in the folder of masks that no study uses, each with the reason.
    folds_without_study, studies_without_fold
        UIDs that only the table of folds contains, and studies that it does not contain.
    left
        UIDs of studies that are still being copied, with the seconds since their last change.
    """

    store: str
    processed: int
    unchanged: int
    refused: int
    version: int
    root_digest: str
    seconds: float
    refusals: list[dict[str, str]] = field(default_factory=list)
    warnings: Mapping[str, tuple[StudyWarning, ...]] = field(default_factory=dict)
    without_images: list[str] = field(default_factory=list)
    left: dict[str, float] = field(default_factory=dict)
    unused_masks: list[UnusedMask] = field(default_factory=list)
    unnamed_levels: list[str] = field(default_factory=list)
    folds_without_study: list[str] = field(default_factory=list)
    studies_without_fold: list[str] = field(default_factory=list)

    def unused_masks_by_reason(self) -> dict[str, list[str]]:
        """Paths of the unused masks by the reason."""
        reasons: dict[str, list[str]] = {}
        for mask in self.unused_masks:
            reasons.setdefault(mask.reason, []).append(mask.path)
        return reasons

    def line(self) -> dict[str, Any]:
        """The content of the line that ``--json`` prints."""
        unused = [mask._asdict() for mask in self.unused_masks]
        counts = asdict(self) | {"left": len(self.left), "unused_masks": unused}
        return {key: counts[key] for key in _JSON_KEYS}
