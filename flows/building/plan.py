"""What a build has to do: which studies are new or changed, and which already have their row."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from spine_etl.errors import SpineError
from spine_etl.localization import Localizer
from spine_etl.pipeline import source_digest
from spine_etl.recipe import Recipe
from spine_etl.source.files import open_source
from spine_etl.source.layout import Study, discover_studies, studies_without_images, tables_modified_at
from spine_etl.store.record import Record
from spine_etl.store.writer import StoreWriter


@dataclass
class Plan:
    """The work of one build.

    ``pending`` are the studies to work on. ``finished`` are records that an earlier run left, committed or
    not: stored or refused, their sources unchanged. ``committed`` counts the studies of the newest version
    that need nothing. ``unsettled`` are UIDs of studies left for the next build, with the seconds since their
    last change. ``first_row`` is the first row no study of the store has.
    """

    writer: StoreWriter
    localizer: Localizer | None = None
    pending: list[Study] = field(default_factory=list)
    finished: list[Record] = field(default_factory=list)
    committed: int = 0
    unsettled: dict[str, float] = field(default_factory=dict)
    first_row: int = 0
    without_images: list[str] = field(default_factory=list)


def load_localizer(folder: str | None, recipe: Recipe) -> Localizer | None:
    """The localizer of a run's folder; torch is needed only where there is one.

    Raises
    ------
    CheckpointInvalid
        If the folder holds none, or one for another recipe.
    """
    if folder is None:
        return None
    from model.localizer.localizer import cached_localizer

    localizer = cached_localizer(folder)
    localizer.check_recipe(recipe)
    return localizer


def plan_build(
    source: str | Path,
    store: str | Path,
    recipe: Recipe,
    *,
    threads: int,
    localizer: Localizer | None = None,
    settle_s: float = 0,
) -> Plan:
    """Compare the source with the store, by content.

    Parameters
    ----------
    source
        A folder, a ``.zip`` or ``s3://bucket/prefix``.
    store, recipe
        What to build into, and what is cut.
    threads
        Studies compared at a time; as many as the source asks for where it is far away.
    localizer
        For studies without a segmentation.
    settle_s
        A study that is new or changed and whose files changed within so many seconds is left for the next
        build: somebody may still be copying it. So are all such studies where a table changed since then.
        An archive does not say when its members came.

    Raises
    ------
    SourceError
        If the source or one of its tables cannot be used.
    StoreError
        If the store cannot be written, or holds another recipe's dataset.
    """
    levels = list(recipe.levels)
    place = open_source(source)
    studies = discover_studies(place, levels)
    plan = Plan(StoreWriter(store, recipe), localizer, without_images=studies_without_images(place, levels))
    latest = plan.writer.latest()
    known = {}
    if latest is not None:
        plan.first_row = latest.rows
        digests = (digest.tobytes().hex() for digest in latest.table["source_digest"])
        known = dict(zip(latest.study_uids, digests, strict=True))
    settled = _Settled(settle_s, tables_modified_at(place) if settle_s else None)
    with ThreadPoolExecutor(max(threads, place.concurrent_reads)) as pool:
        findings = pool.map(lambda study: _look_at(study, known.get(study.uid), plan, settled), studies)
        for study, finding in zip(studies, findings, strict=True):
            _sort_in(plan, study, finding)
    return plan


def _look_at(study: Study, known: str | None, plan: Plan, settled: _Settled) -> bool | Record | float | None:
    """True: committed and unchanged. A record: finished by an earlier run. None: to be worked on.

    Seconds since its last change: to be worked on once it is left in peace.
    """
    record = None if known else plan.writer.record(study.uid)
    if known or (record and not (record.refusal and record.refusal.transient)):
        try:
            digest = source_digest(study, localizer=plan.localizer)
        except (SpineError, OSError):
            digest = None
        if known and digest == known:
            return True
        record = record or plan.writer.record(study.uid)  # of a build that was killed before it committed
        passing = record and record.refusal and record.refusal.transient
        if record and not passing and digest == record.source_digest:
            return record
    return settled.lacks(study)


@dataclass(frozen=True)
class _Settled:
    """Whether a study was left in peace for so many seconds, and with it the tables that speak of it."""

    seconds: float
    tables_modified_at: float | None

    def lacks(self, study: Study) -> float | None:
        """Seconds since the last change, None where that is long enough ago or nobody knows."""
        if not self.seconds:
            return None
        try:
            dates = [
                self.tables_modified_at,
                *(place.modified_at() for place in (study.folder, study.mask) if place),
            ]
        except (SpineError, OSError):
            return None  # reading it will say what is wrong
        age = time.time() - max((date for date in dates if date is not None), default=0.0)
        return max(age, 0.0) if age < self.seconds else None


def _sort_in(plan: Plan, study: Study, finding: bool | Record | float | None) -> None:
    if finding is True:
        plan.committed += 1
    elif isinstance(finding, Record):
        plan.finished.append(finding)
        plan.first_row = max(plan.first_row, (finding.row if finding.row is not None else -1) + 1)
    elif finding is None:
        plan.pending.append(study)
    else:
        plan.unsettled[study.uid] = finding
