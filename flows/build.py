"""The build as a Prefect flow: a task for each study, its work done by Dask, one commit at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from dask.distributed import Client
from distributed.scheduler import KilledWorker
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.cluster import TRIES, connect
from flows.plan import Plan, load_localizer, plan_build
from flows.summary import Summary, finish
from spine_etl import crops, resample
from spine_etl.errors import WorkerLost
from spine_etl.pipeline import process_study, refuse
from spine_etl.recipe import Recipe
from spine_etl.store.record import Record
from spine_etl.studies import Study

Progress = Callable[[Record], None]
_ARTIFACT_ROWS = 2000


@flow(name="build-dataset")
def build_dataset(
    source: str,
    store: str,
    recipe: Recipe,
    workers: int = 2,
    dask: str | None = None,
    localizer: str | None = None,
) -> dict[str, Any]:
    """Build ``source`` into ``store``: what a deployment runs."""
    began = time.monotonic()
    plan = plan_build(source, store, recipe, threads=workers, localizer=load_localizer(localizer, recipe))
    return _work_and_finish(plan, workers, dask, lambda record: None, began).line()


def run_planned(plan: Plan, workers: int, dask: str | None, progress: Progress, began: float) -> Summary:
    """The same flow over a plan that is already made: what the command line runs."""

    @flow(name="build-dataset", flow_run_name=f"{len(plan.pending)} studies")
    def build() -> None:
        summaries.append(_work_and_finish(plan, workers, dask, progress, began))

    summaries: list[Summary] = []
    build()
    return summaries[0]


def _work_and_finish(plan: Plan, workers: int, dask: str | None, progress: Progress, began: float) -> Summary:
    worked = work(plan, workers, dask, progress) if plan.pending else []
    summary = finish(plan, worked, began)
    _publish_artifact(summary, worked)
    return summary


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


def _publish_artifact(summary: Summary, worked: Sequence[Record]) -> None:
    """The run's table, refused studies first, for whoever looks at the flow run."""
    ordered = sorted(worked, key=lambda record: (record.refusal is None, record.uid))
    rows = [
        {
            "study": record.uid,
            "outcome": record.refusal.code if record.refusal else "stored",
            "row": record.row,
            "reason": record.refusal.reason if record.refusal else "; ".join(record.warnings),
        }
        for record in ordered[:_ARTIFACT_ROWS]
    ]
    description = (
        f"Version {summary.version}: {summary.processed} processed, {summary.unchanged} unchanged, "
        f"{summary.refused} refused; root digest {summary.root_digest}. First {len(rows)} of {len(worked)}."
    )
    create_table_artifact(table=rows, key="build-dataset", description=description)
