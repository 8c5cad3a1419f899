"""What a build has to do: which studies are new or changed, and which already have their row."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from spine_etl.errors import SpineError
from spine_etl.localization import Localizer
from spine_etl.pipeline import source_digest
from spine_etl.recipe import Recipe
from spine_etl.store.record import Record
from spine_etl.store.writer import StoreWriter
from spine_etl.studies import Study, discover_studies, studies_without_images


@dataclass
class Plan:
    """The work of one build.

    ``pending`` are the studies to work on. ``finished`` are records that an earlier run left, committed or
    not: stored or refused, their sources unchanged. ``committed`` counts the studies of the newest version
    that need nothing. ``first_row`` is the first row no study of the store has.
    """

    writer: StoreWriter
    localizer: Localizer | None = None
    pending: list[Study] = field(default_factory=list)
    finished: list[Record] = field(default_factory=list)
    committed: int = 0
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
    from model.localizer import loaded

    localizer = loaded(folder)
    localizer.check(recipe)
    return localizer


def plan_build(
    source: str | Path,
    store: str | Path,
    recipe: Recipe,
    *,
    threads: int,
    localizer: Localizer | None = None,
) -> Plan:
    """Compare the source folder with the store, by content. ``localizer`` is for studies without a mask.

    Raises
    ------
    SourceError
        If the source folder or one of its tables cannot be used.
    StoreError
        If the store cannot be written, or holds another recipe's dataset.
    """
    levels = list(recipe.levels)
    studies = discover_studies(source, levels)
    plan = Plan(StoreWriter(store, recipe), localizer, without_images=studies_without_images(source, levels))
    latest = plan.writer.latest()
    known = {}
    if latest:
        plan.first_row = latest.table.rows
        digests = (digest.tobytes().hex() for digest in latest.table["source_digest"])
        known = dict(zip(latest.study_uids, digests, strict=True))
    with ThreadPoolExecutor(threads) as pool:
        findings = pool.map(lambda study: _look_at(study, known.get(study.uid), plan), studies)
        for study, finding in zip(studies, findings, strict=True):
            _sort_in(plan, study, finding)
    return plan


def _look_at(study: Study, known: str | None, plan: Plan) -> bool | Record | None:
    """True: committed and unchanged. A record: finished by an earlier run. None: to be worked on."""
    record = None if known else plan.writer.record(study.uid)
    if not known and (record is None or (record.refusal and record.refusal.transient)):
        return None
    try:
        digest = source_digest(study, localizer=plan.localizer)
    except (SpineError, OSError):
        return None
    if digest != (known or (record.source_digest if record else None)):
        return None
    return record or True


def _sort_in(plan: Plan, study: Study, finding: bool | Record | None) -> None:
    if isinstance(finding, Record):
        plan.finished.append(finding)
        plan.first_row = max(plan.first_row, (finding.row if finding.row is not None else -1) + 1)
    elif finding:
        plan.committed += 1
    else:
        plan.pending.append(study)
