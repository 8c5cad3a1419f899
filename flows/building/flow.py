"""The build as a Prefect flow: plan, work, one commit, and a page for whoever looks at the run."""

from __future__ import annotations

import time
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Failed
from prefect.tasks import Task

from flows.building.deployment import only_run_of, tell_failure
from flows.building.plan import Plan, load_localizer, plan_build
from flows.building.run_page import publish
from flows.building.studies import Progress, work
from flows.building.summary import Summary, finish
from spine_etl.errors import (
    CommitConflict,
    RunError,
    SourceChanged,
    SourceUnreachable,
    SpineError,
    StoreUnreachable,
    StoreWriteFailed,
    Unexpected,
)
from spine_etl.recipe import Recipe

_LONGEST_S = 20 * 3600
"""A night's run ends before the next one begins; what it stored is kept."""

_PASSING = (RunError, StoreUnreachable, StoreWriteFailed, CommitConflict, SourceChanged, SourceUnreachable)
"""Refusals that may be over some minutes later. All others stay until a person does something."""


@flow(
    name="build-dataset",
    timeout_seconds=_LONGEST_S,
    on_failure=[tell_failure],
    on_crashed=[tell_failure],
)
def build_dataset(
    source: str,
    store: str,
    recipe: Recipe,
    workers: int = 2,
    dask: str | None = None,
    localizer: str | None = None,
    settle_minutes: float = 10,
) -> dict[str, Any] | State[Any]:
    """Build a source of CT studies into a store of vertebra crops: what a deployment runs.

    A second run on the same store waits until the first has ended. A run that fails has the refusal's one
    line as its message, and tells it by the event `spine-etl.build.failed`.

    Args:
        source: Folder or zip in the RSNA 2022 layout, or s3://bucket/prefix.
        store: Folder or s3://bucket/prefix; made where it is not there. It holds one recipe's dataset.
        recipe: What is cut, and how fine. Another recipe needs another store.
        workers: Worker processes on the machine of the run; without effect where dask is given.
        dask: Scheduler of a running Dask cluster, as tcp://host:8786.
        localizer: Folder of a trained localizer, which finds C1-C7 where a study has no segmentation.
        settle_minutes: Studies that changed within it are still being copied; the next run takes them.
    """
    # "Args:" since Prefect's form takes the parameters' descriptions from there, and from no other notation.
    try:
        with only_run_of(store):
            return _build(source, store, recipe, workers, dask, localizer, settle_minutes)
    except SpineError as error:
        refusal = error
    except Exception as error:
        # Only its kind: the text of an error from elsewhere may quote anything. The run's log has it all.
        refusal = Unexpected(
            f"The build ended with {type(error).__name__}.",
            action="Read the run's log, then run again: it resumes.",
        )
    return Failed(message=str(refusal), data=refusal)


def _may_pass(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    error = state.result(raise_on_failure=False)
    return not isinstance(error, SpineError) or isinstance(error, _PASSING)


# A task, since a flow's own retries cannot tell a network that is down from a store that is another recipe's.
@task(
    name="build",
    retries=2,
    retry_delay_seconds=[60, 600],
    retry_condition_fn=_may_pass,
    cache_policy=NO_CACHE,
)
def _build(
    source: str,
    store: str,
    recipe: Recipe,
    workers: int,
    dask: str | None,
    localizer: str | None,
    settle_minutes: float,
) -> dict[str, Any]:
    began = time.monotonic()
    finder = load_localizer(localizer, recipe)
    plan = plan_build(source, store, recipe, threads=workers, localizer=finder, settle_s=60 * settle_minutes)
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
    publish(summary, worked)
    return summary
