"""Build a dataset: a source folder in, a committed version of a store out.

    python -m flows.build_dataset --source DIR --store PATH [--recipe FILE] [--workers N | --dask tcp://...]

Exit status: 0 all well; 3 some studies were refused (the others are in the store); 1 nothing could be done;
2 the command line is wrong; 130 interrupted (run it again: it resumes).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.summary import Summary
    from spine_etl.store.record import Record

_INTERRUPTED = "Interrupted. What is stored is kept; run the same command again to go on."
_RECIPES = Path(__file__).parent / "recipes"


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.build_dataset",
        description="Build a source folder of CT studies into a versioned zarr store of vertebra crops.",
        epilog="Exit status: 0 all well, 3 some studies were refused, 1 nothing could be done.",
    )
    parser.add_argument("--source", required=True, help="folder in the RSNA 2022 layout")
    parser.add_argument("--store", required=True, help="store to build into; made where it is not there")
    parser.add_argument(
        "--recipe", default="rsna2022", help="YAML file, or one that ships: rsna2022 (default), quick"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--workers", type=_positive, help="worker processes on this machine (default: its cores)"
    )
    where.add_argument("--dask", metavar="tcp://HOST:PORT", help="scheduler of a running Dask cluster")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON on standard output")
    return parser


def main(argv: list[str] | None = None) -> int:
    options = arguments().parse_args(argv)
    from spine_etl.errors import SpineError

    try:
        summary = _build(options)
    except SpineError as error:
        print(f"error: {error}", file=sys.stderr)
        if options.json:
            print(json.dumps({"error": error.as_dict()}))
        return 1
    except KeyboardInterrupt:
        _say(_INTERRUPTED)
        return 130
    _tell(summary, options.store)
    if options.json:
        print(json.dumps(summary.line()))
    if not summary.refused:
        return 0
    return 3 if summary.processed + summary.unchanged else 1


def _build(options: argparse.Namespace) -> Summary:
    began = time.monotonic()
    from flows.plan import plan_build

    workers = options.workers or len(os.sched_getaffinity(0))
    _say("Looking for what is new ...")
    plan = plan_build(options.source, options.store, _recipe(options.recipe), threads=workers)
    count = len(plan.pending)
    if not count:
        from flows.summary import finish

        return finish(plan, [], began)
    _say(f"{count} studies to process, {plan.committed + len(plan.finished)} need nothing.")
    _say("Starting Prefect and the workers; this takes some seconds ...")
    _settle_prefect()
    from flows.build import run_planned

    with _progress(count) as progress, _interruptible():
        return run_planned(plan, workers, options.dask, progress, began)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends the run at once. Prefect and Dask would wait for each other; nothing here needs a
    goodbye, since every write is whole or not there."""
    import psutil

    def stop(*_: object) -> None:
        show_cursor = "\033[?25h" if sys.stderr.isatty() else ""
        _say(f"{show_cursor}\n{_INTERRUPTED}")
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
        os._exit(130)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _settle_prefect() -> None:
    """Defaults for a run without a server; what the environment sets already stays."""
    for name, value in {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
    }.items():
        os.environ.setdefault(name, value)


def _recipe(name: str) -> Any:
    from spine_etl.recipe import load_recipe

    shipped = _RECIPES / f"{name}.yaml"
    return load_recipe(shipped if shipped.is_file() else name)


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


def _tell(summary: Summary, store: str) -> None:
    for refusal in summary.refusals:
        _say(f"refused {refusal['uid']} [{refusal['code']}] {refusal['reason']} {refusal['action']}")
    if summary.without_images:
        _say(f"{len(summary.without_images)} studies of the label table have no images in the source.")
    if not summary.processed:
        _say("Nothing new: no study was processed.")
    _say(
        f"{store}: version {summary.version}, {summary.processed} processed, {summary.unchanged} unchanged, "
        f"{summary.refused} refused, {summary.seconds} s, root digest {summary.root_digest[:16]}"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("a whole number from 1 upwards")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
