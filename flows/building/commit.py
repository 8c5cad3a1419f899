"""The end of a build: commit the records and summarise."""

from __future__ import annotations

import time
from collections.abc import Sequence

from flows.building.plan import Plan
from flows.building.summary import Summary
from spine_etl.store.record import Record


def commit(plan: Plan, processed: Sequence[Record]) -> Summary:
    """Commit the records of a build as the store's next version, and summarise the build.

    Parameters
    ----------
    plan
        The build's plan; its finished records are committed too.
    processed
        The records of its pending studies.

    Raises
    ------
    StoreError
        If the store cannot be written, or other builds won every attempt to commit.
    """
    records = [*plan.finished, *processed]
    # If every study is still being copied, there is no dataset yet: do not commit an empty one.
    store = plan.writer.commit(records, plan.folds) if records or plan.committed else plan.writer.latest()
    refusals = [
        {"uid": record.uid, **record.refusal.model_dump(include={"code", "reason", "action"})}
        for record in records
        if record.refusal
    ]
    stored = [record for record in processed if not record.refusal]
    uids, known = ([], set()) if store is None else (store.study_uids, set(store.study_uids))
    known |= set() if store is None else {entry["uid"] for entry in store.refused}
    folds = plan.folds if plan.folds is not None else dict.fromkeys(known, 0)
    return Summary(
        store=str(plan.writer.location),
        processed=len(stored),
        unchanged=plan.committed + len(records) - len(refusals) - len(stored),
        refused=len(refusals),
        version=store.version if store is not None else 0,
        root_digest=store.root_digest if store is not None else "",
        seconds=round(time.monotonic() - plan.started, 1),
        refusals=sorted(refusals, key=lambda refusal: refusal["uid"]),
        warnings={record.uid: record.warnings for record in stored if record.warnings},
        without_images=plan.without_images,
        unused_masks=plan.unused_masks,
        unnamed_levels=plan.unnamed_levels,
        folds_without_study=sorted(set(folds) - known),
        studies_without_fold=[uid for uid in uids if uid not in folds],
        left=plan.unsettled,
    )
