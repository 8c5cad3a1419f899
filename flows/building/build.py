"""A build started by a command: it reports progress on the terminal, and starts Prefect only if needed."""

from __future__ import annotations

from functools import partial

from flows.building.execute import execute
from flows.building.plan import plan_build
from flows.building.request import BuildRequest
from flows.building.summary import Summary
from flows.console import exit_on_interrupt, print_line, study_progress
from flows.prefect_server import set_prefect_defaults


def build(request: BuildRequest) -> Summary:
    """Build a dataset, and report progress on standard error.

    Raises
    ------
    SpineError
        If the source or the store cannot be used, or the cluster is lost.
    """
    print_line("Comparing the source with the store ...")
    plan = plan_build(request)
    count = len(plan.pending)
    if not count:
        return execute(plan)
    print_line(f"{count} studies to process, {plan.committed + len(plan.finished)} are up to date.")
    print_line("Starting Prefect and the workers (takes some seconds) ...")
    set_prefect_defaults()
    from flows.building.flow import run_as_flow

    with study_progress(count) as on_record, exit_on_interrupt():
        return run_as_flow(partial(execute, plan, on_record), run_name=f"{count} studies")
