"""What the commands of this package share: refusals, Ctrl-C, the last lines and the exit status.

Nothing heavy is imported before the options are parsed, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flows.building.summary import Summary
    from spine_etl.recipe import Recipe

INTERRUPTED = "Interrupted. What is stored is kept; run the same command again to go on."


def build_arguments(name: str, description: str) -> argparse.ArgumentParser:
    """The options that every command which builds has."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=description,
        epilog="Exit status: 0 all well, 3 some studies were refused, 1 nothing could be done.",
    )
    parser.add_argument(
        "--source", required=True, help="in the RSNA 2022 layout: a folder, a .zip, or s3://bucket/prefix"
    )
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument(
        "--store", help="store to build into, a folder or s3://bucket/prefix; made where it is not there"
    )
    place.add_argument(
        "--datasets", metavar="ROOT", help="root of many datasets: the store lies there under its fingerprint"
    )
    parser.add_argument(
        "--recipe", default="rsna2022", help="name of a recipe that ships (rsna2022, quick) or a TOML file"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--workers", type=positive, help="worker processes on this machine (default: its cores)"
    )
    where.add_argument("--dask", metavar="tcp://HOST:PORT", help="scheduler of a running Dask cluster")
    parser.add_argument(
        "--settle",
        type=minutes,
        default=0.0,
        metavar="MINUTES",
        help="leave a study to the next build whose files changed within that time (default: 0)",
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON on standard output")
    return parser


def store_of(options: argparse.Namespace, recipe: Recipe) -> str:
    """Where the store that is asked for lies."""
    from spine_etl.store import dataset_in

    return options.store or dataset_in(options.datasets, recipe)


def run(work: Callable[[], Summary], as_json: bool) -> int:
    """Do the work, tell what came of it, and return the exit status."""
    from spine_etl.errors import SpineError

    try:
        summary = work()
    except SpineError as error:
        print(f"error: {error}", file=sys.stderr)
        if as_json:
            print(json.dumps({"error": error.as_dict()}))
        return 1
    except ModuleNotFoundError as error:
        say(f"error: {error.name} is not installed: pip install 'spine-etl[build,model]'.")
        return 1
    except KeyboardInterrupt:
        say(INTERRUPTED)
        return 130
    tell(summary)
    if as_json:
        print(json.dumps(summary.line()))
    if not summary.refused:
        return 0
    return 3 if summary.processed + summary.unchanged else 1


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C ends the run at once. Prefect and Dask would wait for each other; nothing here needs a
    goodbye, since every write is whole or not there."""
    import psutil

    def stop(*_: object) -> None:
        show_cursor = "\033[?25h" if sys.stderr.isatty() else ""
        say(f"{show_cursor}\n{INTERRUPTED}")
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
        os._exit(130)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def settle_prefect() -> None:
    """Defaults for a run without a server; what the environment sets already stays."""
    for name, value in {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
    }.items():
        os.environ.setdefault(name, value)


def tell(summary: Summary) -> None:
    for refusal in summary.refusals:
        say(f"refused {refusal['uid']} [{refusal['code']}] {refusal['reason']} {refusal['action']}")
    for uid, seconds in summary.left.items():
        say(f"{uid} is still being copied (last change {seconds:.0f} s ago); the next build takes it.")
    if summary.without_images:
        say(f"{len(summary.without_images)} studies of the label table have no images in the source.")
    if not summary.processed:
        say("Nothing new: no study was processed.")
    say(
        f"{summary.store}: version {summary.version}, {summary.processed} processed, "
        f"{summary.unchanged} unchanged, {summary.refused} refused, {summary.seconds} s, "
        f"root digest {summary.root_digest[:16]}"
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def minutes(text: str) -> float:
    """Seconds."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError("a number of minutes")
    return 60 * value


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("a whole number from 1 upwards")
    return int(text)
