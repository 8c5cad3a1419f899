"""The work of a build: a Prefect task for each study, done by a Dask worker."""

from __future__ import annotations

from collections.abc import Callable

from dask.distributed import Client
from distributed.scheduler import KilledWorker
from prefect import task
from prefect.client.schemas.objects import State
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.cluster import TRIES, connect
from flows.plan import Plan
from spine_etl import crops, resample
from spine_etl.errors import WorkerLost
from spine_etl.pipeline import process_study, refuse
from spine_etl.store.record import Record
from spine_etl.studies import Study

Progress = Callable[[Record], None]


def work(plan: Plan, workers: int, dask: str | None, progress: Progress) -> list[Record]:
    """Process the pending studies; call inside a flow. A lost worker or a refusal costs its study alone.

    Raises
    ------
    StoreError
        If the store cannot be written; what was stored before is kept, and resumed from.
    """
    crops.warm_up()  # compiled once, here; the workers load it from the cache
    resample.warm_up()
    records: list[Record] = []
    with connect(workers, dask) as client:
        study_task = task(name="study", task_run_name="{uid}")(_study_task(plan, client, records, progress))
        in_flight = 2 * sum(client.nthreads().values())
        threads: ThreadPoolTaskRunner[State[None]] = ThreadPoolTaskRunner(max_workers=max(2, in_flight))
        with threads as runner:
            futures = [
                runner.submit(study_task, parameters={"uid": study.uid, "row": plan.first_row + index})
                for index, study in enumerate(plan.pending)
            ]
            for future in futures:
                future.result()
    return records


def _study_task(
    plan: Plan, client: Client, records: list[Record], progress: Progress
) -> Callable[[str, int], State[None]]:
    """What Prefect sees of a study: its UID and row alone. Dask works, ``records`` gets the outcome."""
    studies = {study.uid: study for study in plan.pending}

    def study(uid: str, row: int) -> State[None]:
        try:
            record: Record = client.submit(
                process_study, studies[uid], plan.writer, row, localizer=plan.localizer, pure=False
            ).result()
        except KilledWorker:
            record = _worker_lost(plan, studies[uid])
        records.append(record)
        progress(record)
        return Completed(name=f"Refused: {record.refusal.code}" if record.refusal else "Stored")

    return study


def _worker_lost(plan: Plan, study: Study) -> Record:
    lost = WorkerLost(f"it took {TRIES} workers with it.", study=study.uid)
    record = refuse(study, plan.writer.recipe, lost, transient=True, localizer=plan.localizer)
    plan.writer.write_record(record)
    return record
