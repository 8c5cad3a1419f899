"""Process the pending studies: one Prefect task for each, which a Dask worker carries out."""

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

from flows.building.cluster import StudiesInFlight, connect
from flows.building.plan import Plan
from spine_etl.errors import SchedulerLost, WorkerLost
from spine_etl.pipeline import process_study, warm_up
from spine_etl.source.layout import Study
from spine_etl.store.record import Record
from spine_etl.study_record import refusal_record

_MAX_THREADS = 512
"""Threads that wait for Dask, one for each study in flight."""


def process_studies(plan: Plan, on_record: Callable[[Record], None]) -> list[Record]:
    """Process the pending studies; call inside a flow. A lost worker or a refusal affects only its study.

    Returns
    -------
    list of Record
        One for each pending study, in the order in which they finished.

    Raises
    ------
    StoreError, SchedulerLost
        As `flows.building.execute.execute`.
    """
    warm_up()  # compile here once; the workers load the compiled code from the cache
    with connect(plan.request.workers, plan.request.dask) as client:
        return _StudyTasks(plan, client, on_record).run()


class _StudyTasks:
    """The tasks of the pending studies on one cluster."""

    def __init__(self, plan: Plan, client: Client, on_record: Callable[[Record], None]) -> None:
        self._plan, self._client, self._on_record = plan, client, on_record
        self._in_flight = StudiesInFlight(client)
        self._studies = {study.uid: study for study in plan.pending}
        self._records: list[Record] = []
        self._failure: BaseException | None = None

    def run(self) -> list[Record]:
        threads: ThreadPoolTaskRunner[State[None]] = ThreadPoolTaskRunner(max_workers=_MAX_THREADS)
        study_task = task(name="study", task_run_name="{uid}")(self._run_study)
        futures: list[PrefectFuture[State[None]]] = []
        with threads as runner:
            for row, study in enumerate(self._plan.pending, self._plan.first_row):
                self._in_flight.acquire()
                if self._failure:
                    break
                futures.append(runner.submit(study_task, parameters={"uid": study.uid, "row": row}))
            for future in futures:
                future.wait()
        if self._failure:
            raise self._failure
        return self._records

    def _run_study(self, uid: str, row: int) -> State[None]:
        """The body of a study's task. Prefect receives only the UID and the row, and no result."""
        try:
            record = self._process(self._studies[uid], row)
        except BaseException as error:
            self._failure = error  # re-raised by `run`: never drop a study silently
            raise
        finally:
            self._in_flight.release()
        self._records.append(record)
        self._on_record(record)
        return Completed(name=f"Refused: {record.refusal.code}" if record.refusal else "Stored")

    def _process(self, study: Study, row: int) -> Record:
        try:
            record: Record = self._client.submit(
                process_study,
                study,
                self._plan.writer,
                row,
                localizer=self._plan.localizer,
                key=f"{study.uid}-{uuid.uuid4().hex[:8]}",  # its name on Dask's dashboard and in its logs
            ).result()
        except KilledWorker as error:
            record = self._refuse_after_lost_workers(study, error.allowed_failures + 1)
        except (CancelledError, CommClosedError) as error:
            raise SchedulerLost("the Dask scheduler stopped during the run.") from error
        return record

    def _refuse_after_lost_workers(self, study: Study, count: int) -> Record:
        error = WorkerLost(f"{count} workers died while processing it.", study=study.uid)
        writer, localizer = self._plan.writer, self._plan.localizer
        record = refusal_record(study, writer.recipe, error, transient=True, localizer=localizer)
        writer.write_record(record)
        return record
