"""Carry out a plan: process its pending studies, then commit."""

from __future__ import annotations

from collections.abc import Callable

from flows.building.commit import commit
from flows.building.plan import Plan
from flows.building.summary import Summary
from spine_etl.store.record import Record


def execute(plan: Plan, on_record: Callable[[Record], None] = lambda record: None) -> Summary:
    """Process the pending studies, commit, and summarise.

    Call it inside a Prefect flow, unless no study is pending: Prefect and Dask are imported only for those.

    Parameters
    ----------
    plan
        What to do.
    on_record
        Called with the record of each study as it is stored or refused.

    Raises
    ------
    StoreError
        If the store cannot be written; what was stored before is kept, and the next build resumes.
    SchedulerLost
        If the Dask scheduler does not answer or stops; the same applies.
    """
    if not plan.pending:
        return commit(plan, [])
    from flows.building.studies import process_studies

    return commit(plan, process_studies(plan, on_record))
