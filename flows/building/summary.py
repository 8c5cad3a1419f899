"""What a build did: the commit that ends it, and the figures that everyone is told."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from flows.building.plan import Plan
from spine_etl.store.record import Record


@dataclass
class Summary:
    """What a build did. ``unchanged`` studies needed nothing; ``refused`` counts earlier refusals too.

    ``store`` is its address. ``left`` maps studies that are still being copied to the seconds since their
    last change. ``version`` is 0 where there was nothing to commit and no version before.
    """

    store: str
    processed: int
    unchanged: int
    refused: int
    version: int
    root_digest: str
    seconds: float
    refusals: list[dict[str, str]] = field(default_factory=list)
    without_images: list[str] = field(default_factory=list)
    left: dict[str, float] = field(default_factory=dict)

    def line(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        counts = asdict(self) | {"left": len(self.left)}
        return {key: counts[key] for key in _LINE}


_LINE = ("store", "processed", "unchanged", "refused", "left", "version", "root_digest", "seconds")


def finish(plan: Plan, worked: Sequence[Record], began: float) -> Summary:
    """Commit, and say what was done."""
    records = [*plan.finished, *worked]
    # Where all are still being copied there is no dataset yet, rather than an empty one.
    store = plan.writer.commit(records) if records or plan.committed else plan.writer.latest()
    refusals = [
        {"uid": record.uid, **record.refusal.model_dump(include={"code", "reason", "action"})}
        for record in records
        if record.refusal
    ]
    processed = sum(record.refusal is None for record in worked)
    return Summary(
        store=str(plan.writer.location),
        processed=processed,
        unchanged=plan.committed + len(records) - len(refusals) - processed,
        refused=len(refusals),
        version=store.version if store is not None else 0,
        root_digest=store.root_digest if store is not None else "",
        seconds=round(time.monotonic() - began, 1),
        refusals=sorted(refusals, key=lambda refusal: refusal["uid"]),
        without_images=plan.without_images,
        left=plan.unsettled,
    )
