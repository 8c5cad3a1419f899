"""The build as a Prefect flow: deployed, or started by a command. It publishes a page with its figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Failed
from prefect.tasks import Task

from flows.building.deployment import emit_failure_event, exclusive_run
from flows.building.execute import execute
from flows.building.plan import plan_build
from flows.building.request import BuildRequest
from flows.building.run_page import publish
from flows.building.summary import Summary
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
from spine_etl.source.label_names import LabelNames

_TIMEOUT_S = 20 * 3600
"""A nightly run ends before the next one is due; what it stored is kept."""

_TRANSIENT = (RunError, StoreUnreachable, StoreWriteFailed, CommitConflict, SourceChanged, SourceUnreachable)
"""Errors that may be gone in a few minutes. All others need a person to act."""


@flow(
    name="build-dataset",
    timeout_seconds=_TIMEOUT_S,
    on_failure=[emit_failure_event],
    on_crashed=[emit_failure_event],
)
def build_dataset(
    source: str,
    store: str,
    recipe: Recipe,
    workers: int = 2,
    dask: str | None = None,
    localizer: str | None = None,
    settle_minutes: float = 10,
    masks: str | None = None,
    label_names: LabelNames | None = None,
    folds: str | None = None,
) -> dict[str, Any] | State[Any]:
    """Build a store of vertebra crops from a source of CT studies.

    Studies that are stored already and have not changed are skipped. If another run is building into the
    same store, this one waits until it has ended. A run that fails shows the error in its message, and emits
    the event `spine-etl.build.failed`.

    Args:
        source: Folder or .zip in the RSNA 2022 layout, or s3://bucket/prefix.
        store: Folder or s3://bucket/prefix; created if it does not exist. A store has one recipe.
        recipe: What to crop, and at which resolution. Each recipe needs its own store.
        workers: Worker processes on the machine that runs the flow. Ignored if dask is set.
        dask: Scheduler of a running Dask cluster, as tcp://host:8786.
        localizer: Folder of a trained localizer, which finds C1-C7 in studies without a segmentation.
        settle_minutes: Leave studies that changed within this time for the next run; they may be incomplete.
        masks: Folder, .zip or s3://bucket/prefix of segmentations for studies that have none.
        label_names: Names of the labels in masks, which is required with it.
        folds: CSV table with the columns uid and fold, on the machine that runs the flow.
    """
    # "Args:" because Prefect reads the descriptions of the form's fields from that notation only.
    try:
        with exclusive_run(store):
            settle_s = 60 * settle_minutes
            request = BuildRequest(
                source, store, recipe, workers, dask, localizer, settle_s, masks, label_names, folds
            )
            return build_task(request)
    except SpineError as caught:
        error = caught
    except Exception as caught:
        # Only the type: the message of a foreign error may quote patient data. The run's log has all of it.
        error = Unexpected(
            f"The build ended with {type(caught).__name__}.",
            action="Read the run's log, then run again: it resumes.",
        )
    return Failed(message=str(error), data=error)


def _is_transient(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    error = state.result(raise_on_failure=False)
    return not isinstance(error, SpineError) or isinstance(error, _TRANSIENT)


# A task, because a flow's retries have no condition: an unreachable store is worth retrying, a store built
# with another recipe is not.
@task(
    name="build",
    retries=2,
    retry_delay_seconds=[60, 600],
    retry_condition_fn=_is_transient,
    cache_policy=NO_CACHE,
)
def build_task(request: BuildRequest) -> dict[str, Any]:
    summary = execute(plan_build(request))
    publish(summary)
    return summary.line()


def run_as_flow(work: Callable[[], Summary], run_name: str) -> Summary:
    """Run ``work`` as a run of the build's flow, and publish its page: for builds started by a command."""

    @flow(name="build-dataset", flow_run_name=run_name)
    def build() -> Summary:
        summary = work()
        publish(summary)
        return summary

    return build()
