"""Build a dataset: a source folder in, a committed version of a store out.

    python -m flows.build_dataset --source DIR (--store PATH | --datasets ROOT) [--recipe FILE]
                                  [--localizer FOLDER] [--workers N | --dask tcp://...] [--settle MINUTES]

Exit status: 0 all well; 3 some studies were refused (the others are in the store); 1 nothing could be done;
2 the command line is wrong; 130 interrupted (run it again: it resumes).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flows.cli import build_arguments, interruptible, run, say, settle_prefect, store_of

if TYPE_CHECKING:
    from flows.building.summary import Summary
    from spine_etl.recipe import Recipe
    from spine_etl.store.record import Record


def arguments() -> argparse.ArgumentParser:
    parser = build_arguments(
        "flows.build_dataset",
        "Build a folder of CT studies into a versioned zarr store of vertebra crops.",
    )
    parser.add_argument(
        "--localizer", metavar="FOLDER", help="of model.localize train: finds C1-C7 where a study has no mask"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    options = arguments().parse_args(argv)

    def work() -> Summary:
        from spine_etl.recipe import load_recipe

        recipe = load_recipe(options.recipe)
        return build(
            options.source,
            store_of(options, recipe),
            recipe,
            workers=options.workers,
            dask=options.dask,
            localizer=options.localizer,
            settle_s=options.settle,
        )

    return run(work, options.json)


def build(
    source: str,
    store: str,
    recipe: Recipe,
    *,
    workers: int | None = None,
    dask: str | None = None,
    localizer: str | None = None,
    settle_s: float = 0,
) -> Summary:
    """Build, and say on standard error how it goes. Raises SpineError."""
    began = time.monotonic()
    from flows.building.plan import load_localizer, plan_build

    workers = workers or len(os.sched_getaffinity(0))
    say("Looking for what is new ...")
    finder = load_localizer(localizer, recipe)
    plan = plan_build(source, store, recipe, threads=workers, localizer=finder, settle_s=settle_s)
    count = len(plan.pending)
    if not count:
        from flows.building.summary import finish

        return finish(plan, [], began)
    say(f"{count} studies to process, {plan.committed + len(plan.finished)} need nothing.")
    say("Starting Prefect and the workers; this takes some seconds ...")
    settle_prefect()
    from flows.building.flow import run_planned

    with _progress(count) as progress, interruptible():
        return run_planned(plan, workers, dask, progress, began)


@contextmanager
def _progress(count: int) -> Iterator[Callable[[Record], None]]:
    """A bar on a terminal, plain lines elsewhere; refusals are told as they come."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (
        TextColumn("studies"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    done = 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        total = bar.add_task("studies", total=count)

        def advance(record: Record) -> None:
            nonlocal done
            done += 1
            bar.advance(total)
            if record.refusal:
                console.print(f"{done}/{count} {record.uid} refused: {record.refusal.code}", markup=False)
            elif not console.is_terminal:
                console.print(f"{done}/{count} {record.uid}", markup=False)

        yield advance


if __name__ == "__main__":
    sys.exit(main())
