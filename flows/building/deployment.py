"""What only a deployed build does: run on a schedule, wait its turn, and emit an event if it fails."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from prefect import Flow, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.concurrency.sync import concurrency
from prefect.deployments.runner import RunnerDeployment
from prefect.events import emit_event
from prefect.exceptions import ObjectAlreadyExists
from prefect.runner import Runner
from prefect.schedules import Schedule
from prefect.types.entrypoint import EntrypointType

from spine_etl.errors import SpineError, Unexpected

FAILURE_EVENT = "spine-etl.build.failed"
"""The event of a build that failed, for Prefect's automations."""

_LEASE_S = 120
"""A run renews its lease while it lives; a killed run blocks others for at most this long."""


def deploy_nightly(flow: Flow[..., Any], parameters: dict[str, Any], schedule: Schedule) -> Runner:
    """Deploy a flow as "nightly" on a schedule; start the returned runner to run it."""
    # Deploy by module path: each run then imports the flow in its own process, as a worker's runs do.
    nightly = flow.to_deployment(
        name="nightly",
        schedule=schedule,
        parameters=parameters,
        tags=["spine-etl"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    runner = Runner(limit=1, pause_on_shutdown=True)
    runner.add_deployment(cast(RunnerDeployment, nightly))
    return runner


@contextmanager
def exclusive_run(store: str) -> Iterator[None]:
    """Wait until no other deployed run builds into ``store``, then make others wait for this one.

    This only saves work. The store is safe without it: writes are exclusive, and the slower of two commits
    is repeated. So a run continues even if it cannot renew its lease.
    """
    name = resource_id(store)
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.upsert_global_concurrency_limit_by_name(name, limit=1)
    with concurrency(name, strict=True, lease_duration=_LEASE_S, raise_on_lease_renewal_failure=False):
        yield


def resource_id(store: str) -> str:
    """The store's ID in Prefect: a hash, because Prefect does not accept every path or URL as a name."""
    return f"spine-etl.store.{hashlib.sha256(_normalized(store).encode()).hexdigest()[:16]}"


def emit_failure_event(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Emit `FAILURE_EVENT` with the store and the error's code, reason and action; a flow's state hook."""
    store = str(flow_run.parameters["store"])
    emit_event(
        FAILURE_EVENT,
        resource={"prefect.resource.id": resource_id(store), "prefect.resource.name": _normalized(store)},
        related=[
            {"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.role": "flow-run"}
        ],
        payload=error_of(state).as_dict(),
    )


def _normalized(store: str) -> str:
    """The same text for every spelling of a store's path or URL."""
    return store.rstrip("/") if "://" in store else str(Path(store).absolute())


def error_of(state: State[Any]) -> SpineError:
    """The error of a run that failed; of a foreign error, nothing but that the run ended."""
    error = state.result(raise_on_failure=False) if state.data is not None else None
    if isinstance(error, SpineError):
        return error
    cause = "took too long" if state.name == "TimedOut" else "was killed or lost its server"
    return Unexpected(f"The run {cause}.", action="Read the run's log, then run again: it resumes.")
