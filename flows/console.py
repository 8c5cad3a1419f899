"""The terminal of a command: lines, a progress bar, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spine_etl.store.record import Record

INTERRUPTED = "Interrupted. Studies stored so far are kept; run the same command again to resume."


def print_line(text: str) -> None:
    """Print to standard error; standard output is for machines."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def study_progress(count: int) -> Iterator[Callable[[Record], None]]:
    """Yield a function that reports each finished study: by a bar on a terminal, by a line elsewhere.

    Refused studies get a line on a terminal too.
    """
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
        bar_task = bar.add_task("studies", total=count)

        def on_record(record: Record) -> None:
            nonlocal done
            done += 1
            bar.advance(bar_task)
            if record.refusal:
                console.print(f"{done}/{count} {record.uid} refused: {record.refusal.code}", markup=False)
            elif not console.is_terminal:
                console.print(f"{done}/{count} {record.uid}", markup=False)

        yield on_record


@contextmanager
def exit_on_interrupt() -> Iterator[None]:
    """Ctrl-C kills this process and its children at once, with status 130.

    Prefect and Dask deadlock when both shut down on an interrupt. Killing them is safe, since all writes are
    atomic.
    """
    import psutil

    def kill_all(*_: object) -> None:
        show_cursor = "\033[?25h" if sys.stderr.isatty() else ""  # the progress bar hides it
        print_line(f"{show_cursor}\n{INTERRUPTED}")
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
        os._exit(130)

    previous = signal.signal(signal.SIGINT, kill_all)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
