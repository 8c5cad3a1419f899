"""What a deployed build does that one from the command line does not: wait its turn, and tell its failure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prefect import Flow, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.concurrency.sync import concurrency
from prefect.events import emit_event
from prefect.exceptions import ObjectAlreadyExists

from spine_etl.errors import SpineError, Unexpected

FAILED = "spine-etl.build.failed"
"""The event of a build that failed, for Prefect's automations."""

_LEASE_S = 120
"""Renewed while the run lives; so long a killed run keeps others waiting."""


@contextmanager
def only_run_of(store: str) -> Iterator[None]:
    """Wait until no other deployed run builds into ``store``, and keep others waiting meanwhile.

    It saves work, it is not what keeps the store whole: writes are exclusive, and the slower of two
    committers goes again. So a run that cannot renew its lease goes on.
    """
    name = resource_of(store)
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.upsert_global_concurrency_limit_by_name(name, limit=1)
    with concurrency(name, strict=True, lease_duration=_LEASE_S, raise_on_lease_renewal_failure=False):
        yield


def resource_of(store: str) -> str:
    """The store's name for Prefect, which does not take every address as one."""
    return f"spine-etl.store.{hashlib.sha256(_address(store).encode()).hexdigest()[:16]}"


def tell_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Emit the one event of a failed build: which store, and the refusal's code, reason and action."""
    store = str(flow_run.parameters["store"])
    emit_event(
        FAILED,
        resource={"prefect.resource.id": resource_of(store), "prefect.resource.name": _address(store)},
        related=[
            {"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.role": "flow-run"}
        ],
        payload=_refusal_of(state).as_dict(),
    )


def _address(store: str) -> str:
    """One spelling for all of a store's."""
    return store.rstrip("/") if "://" in store else str(Path(store).absolute())


def _refusal_of(state: State[Any]) -> SpineError:
    error = state.result(raise_on_failure=False) if state.data is not None else None
    if isinstance(error, SpineError):
        return error
    ended = "took too long" if state.name == "TimedOut" else "was killed or lost its server"
    return Unexpected(f"The run {ended}.", action="Read the run's log, then run again: it resumes.")
