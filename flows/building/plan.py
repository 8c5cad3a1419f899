"""What a build has to do: which studies are new or changed, and which already have their row."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from flows.building.request import BuildRequest
from spine_etl.errors import LabelNamesInvalid, SpineError
from spine_etl.localization import Localizer
from spine_etl.source.files import as_file, open_source
from spine_etl.source.layout import Study, discover_studies, studies_without_images, tables_modified_at
from spine_etl.source.masks import MaskAssignment, UnusedMask, assign_masks
from spine_etl.source.tables import read_folds
from spine_etl.store.record import Record
from spine_etl.store.writer import StoreWriter
from spine_etl.study_record import source_digest


@dataclass(frozen=True)
class Committed:
    """The newest version has the study, and its files have not changed."""


@dataclass(frozen=True)
class Finished:
    """An earlier run stored or refused the study, and its files have not changed."""

    record: Record


@dataclass(frozen=True)
class Unsettled:
    """The study is new or changed, and may still be being copied."""

    seconds_since_change: float


@dataclass(frozen=True)
class Pending:
    """The study is new or changed, and ready to be processed."""


Outcome = Committed | Finished | Unsettled | Pending


@dataclass
class Plan:
    """The work of one build.

    Attributes
    ----------
    pending
        Studies to process.
    finished
        Records that an earlier run left, stored or refused, committed or not, for unchanged sources.
    committed
        Number of studies of the newest version that need nothing.
    unsettled
        UIDs of studies left for the next build, with the seconds since their last change.
    first_row
        The first row that belongs to no study of the store.
    without_images
        UIDs that the label table names but for which the source has no images.
    unnamed_levels
        Levels of the recipe that the label names of the masks do not contain.
    unused_masks
        What the folder of masks contains and no study uses.
    folds
        The fold of each study by UID, if the request has a table of them.
    started
        `time.monotonic` when planning began.
    """

    request: BuildRequest
    writer: StoreWriter
    localizer: Localizer | None = None
    pending: list[Study] = field(default_factory=list)
    finished: list[Record] = field(default_factory=list)
    committed: int = 0
    unsettled: dict[str, float] = field(default_factory=dict)
    first_row: int = 0
    without_images: list[str] = field(default_factory=list)
    unnamed_levels: list[str] = field(default_factory=list)
    unused_masks: list[UnusedMask] = field(default_factory=list)
    folds: dict[str, int] | None = None
    started: float = field(default_factory=time.monotonic)

    def add(self, study: Study, outcome: Outcome) -> None:
        """Add a study according to the outcome of its comparison."""
        match outcome:
            case Committed():
                self.committed += 1
            case Finished(record):
                self.finished.append(record)
                if record.row is not None:
                    self.first_row = max(self.first_row, record.row + 1)
            case Unsettled(seconds):
                self.unsettled[study.uid] = seconds
            case Pending():
                self.pending.append(study)


def plan_build(request: BuildRequest, now: Callable[[], float] = time.time) -> Plan:
    """Compare the source with the store, by content.

    Studies are compared in parallel: ``request.workers`` at a time, or more if the source is remote and asks
    for more. If a table changed within ``settle_s``, all new or changed studies are left for the next build.
    Members of a ZIP archive have no date of arrival, so they never wait. ``now`` is the clock that their
    dates are compared with, in seconds since the epoch; tests replace it.

    Raises
    ------
    SourceError
        If the source, one of its tables or the table of folds cannot be used.
    StoreError
        If the store cannot be written, or contains a dataset of another recipe.
    LabelNamesInvalid
        If the label names of the masks do not match the recipe.
    CheckpointInvalid
        If the localizer's folder contains no localizer, or one for another recipe.
    """
    started = time.monotonic()
    folds = read_folds(as_file(request.folds)) if request.folds else None
    recipe, levels = request.recipe, list(request.recipe.levels)
    localizer = _load_localizer(request)
    source = open_source(request.source)
    assignment = _assign_masks(request, discover_studies(source, levels))
    studies = assignment.studies
    plan = Plan(request, StoreWriter(request.store, recipe), localizer, folds=folds, started=started)
    plan.unused_masks = assignment.unused
    plan.unnamed_levels = request.label_names.missing_levels(recipe) if request.label_names else []
    plan.without_images = studies_without_images(source, levels)
    committed_digests = {}
    latest = plan.writer.latest()
    if latest is not None:
        plan.first_row = latest.rows
        digests = (digest.tobytes().hex() for digest in latest.table["source_digest"])
        committed_digests = dict(zip(latest.study_uids, digests, strict=True))
    tables_modified = tables_modified_at(source) if request.settle_s else None
    comparison = _Comparison(
        plan.writer, localizer, committed_digests, request.settle_s, tables_modified, now
    )
    with ThreadPoolExecutor(max(request.workers, source.concurrent_reads)) as pool:
        for study, outcome in zip(studies, pool.map(comparison.outcome, studies), strict=True):
            plan.add(study, outcome)
    return plan


def _assign_masks(request: BuildRequest, studies: list[Study]) -> MaskAssignment:
    """The studies with the request's external masks."""
    if request.masks is None:
        return MaskAssignment(studies)
    if request.label_names is None:
        raise LabelNamesInvalid("The masks have no label names.", action="Pass --masks-from with --masks.")
    request.label_names.check(request.recipe)
    return assign_masks(studies, open_source(request.masks), request.label_names)


def _load_localizer(request: BuildRequest) -> Localizer | None:
    """The localizer, or None if none is requested: only then is torch imported."""
    if request.localizer is None:
        return None
    from model.localizer.localizer import cached_localizer

    localizer = cached_localizer(request.localizer)
    localizer.check_recipe(request.recipe)
    return localizer


@dataclass(frozen=True)
class _Comparison:
    """Compares studies of the source with the store.

    ``committed_digests`` maps the UIDs of the newest version to their source digests. ``tables_modified`` is
    the modification time of the newest table in seconds since the epoch, or None if unknown.
    """

    writer: StoreWriter
    localizer: Localizer | None
    committed_digests: Mapping[str, str]
    settle_s: float
    tables_modified: float | None
    now: Callable[[], float]

    def outcome(self, study: Study) -> Outcome:
        committed_digest = self.committed_digests.get(study.uid)
        record = None if committed_digest else self._usable_record(study)
        if committed_digest or record:
            digest = self._digest(study)
            if committed_digest and digest == committed_digest:
                return Committed()
            # A committed study may also have a newer record, if a build was killed before its commit.
            record = record or self._usable_record(study)
            if record and digest == record.source_digest:
                return Finished(record)
        seconds = self._seconds_since_change(study)
        return Unsettled(seconds) if seconds is not None and seconds < self.settle_s else Pending()

    def _usable_record(self, study: Study) -> Record | None:
        """The study's record, unless it is a refusal that is to be retried."""
        record = self.writer.record(study.uid)
        return None if record and record.refusal and record.refusal.transient else record

    def _digest(self, study: Study) -> str | None:
        try:
            return source_digest(study, localizer=self.localizer)
        except (SpineError, OSError):
            return None  # pending: processing the study reports what is wrong

    def _seconds_since_change(self, study: Study) -> float | None:
        """Seconds since the study or the tables changed; None if unknown, or if no study has to settle."""
        if not self.settle_s:
            return None
        try:
            modified = [
                entry.modified_at() for entry in (study.folder, study.mask, study.external_mask) if entry
            ]
        except (SpineError, OSError):
            return None  # pending: processing the study reports what is wrong
        known = [seconds for seconds in (self.tables_modified, *modified) if seconds is not None]
        return max(self.now() - max(known), 0.0) if known else None
