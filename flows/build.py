"""The build as a Prefect flow: plan, work, one commit, and a table for whoever looks at the run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.plan import Plan, load_localizer, plan_build
from flows.summary import Summary, finish
from flows.work import Progress, work
from spine_etl.recipe import Recipe
from spine_etl.store.record import Record

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
