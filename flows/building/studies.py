"""The work of a build: a Prefect task for each study, done by a Dask worker."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import CancelledError

from dask.distributed import Client
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker
from prefect import task
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.building.cluster import Window, connect
from flows.building.plan import Plan
from spine_etl import crops, resample
from spine_etl.errors import SchedulerLost, WorkerLost
from spine_etl.pipeline import process_study, refuse
from spine_etl.source.layout import Study
from spine_etl.store.record import Record

Progress = Callable[[Record], None]
_MOST_IN_FLIGHT = 512


def work(plan: Plan, workers: int, dask: str | None, progress: Progress) -> list[Record]:
    """Process the pending studies; call inside a flow. A lost worker or a refusal costs its study alone.

    Raises
    ------
    StoreError
        If the store cannot be written; what was stored before is kept, and resumed from.
    SchedulerLost
        If the Dask scheduler goes away; the same holds.
    """
    crops.warm_up()  # compiled once, here; the workers load it from the cache
    resample.warm_up()
    with connect(workers, dask) as client:
        return _Work(plan, client, progress).all()


class _Work:
    """The studies of one build on their way through the cluster."""

    def __init__(self, plan: Plan, client: Client, progress: Progress) -> None:
        self.plan, self.client, self.progress = plan, client, progress
        self.window = Window(client)
        self.studies = {study.uid: study for study in plan.pending}
        self.records: list[Record] = []
        self.fault: BaseException | None = None

    def all(self) -> list[Record]:
        """Every study's record, in the order in which they were done."""
        threads: ThreadPoolTaskRunner[State[None]] = ThreadPoolTaskRunner(max_workers=_MOST_IN_FLIGHT)
        study_task = task(name="study", task_run_name="{uid}")(self.study)
        futures: list[PrefectFuture[State[None]]] = []
        with threads as runner:
            for row, study in enumerate(self.plan.pending, self.plan.first_row):
                self.window.enter()
                if self.fault:
                    break
                futures.append(runner.submit(study_task, parameters={"uid": study.uid, "row": row}))
            for future in futures:
                future.wait()
        if self.fault:
            raise self.fault
        return self.records

    def study(self, uid: str, row: int) -> State[None]:
        """What Prefect sees of a study: its UID and row alone. Dask works, ``records`` gets the outcome."""
        try:
            record = self._record(self.studies[uid], row)
        except BaseException as error:  # whatever it is, no study may be missing without a word
            self.fault = error
            raise
        finally:
            self.window.leave()
        self.records.append(record)
        self.progress(record)
        return Completed(name=f"Refused: {record.refusal.code}" if record.refusal else "Stored")

    def _record(self, study: Study, row: int) -> Record:
        plan = self.plan
        try:
            record: Record = self.client.submit(
                process_study,
                study,
                plan.writer,
                row,
                localizer=plan.localizer,
                key=f"{study.uid}-{uuid.uuid4().hex[:8]}",  # what Dask's own pages and logs name it by
            ).result()
        except KilledWorker as error:
            record = self._worker_lost(study, error.allowed_failures + 1)
        except (CancelledError, CommClosedError) as error:
            raise SchedulerLost("the Dask scheduler went away in the middle of the run.") from error
        return record

    def _worker_lost(self, study: Study, workers: int) -> Record:
        lost = WorkerLost(f"it took {workers} workers with it.", study=study.uid)
        record = refuse(study, self.plan.writer.recipe, lost, transient=True, localizer=self.plan.localizer)
        self.plan.writer.write_record(record)
        return record
