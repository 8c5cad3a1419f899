"""What the commands share: their options, and running a build to its summary and exit status.

Nothing heavy is imported before the options are parsed, so ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from flows.console import INTERRUPTED, print_line

if TYPE_CHECKING:
    from flows.building.request import BuildRequest
    from flows.building.summary import Summary


STORE_HELP = "folder or s3://bucket/prefix; created if it does not exist"
DASK_ADDRESS = "tcp://HOST:PORT"
DASK_HELP = "scheduler of a running Dask cluster"
_LISTED_STUDIES = 10
_UNKNOWN_IN_FOLDS = "in the table, but neither stored nor refused ({})"
_MISSING_IN_FOLDS = "not in the table, so assigned as without one ({})"
_LISTED_MASKS = 5


def base_parser(name: str, description: str, *, settle_minutes: int) -> argparse.ArgumentParser:
    """A parser with the options that all commands of this package have."""
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=description)
    parser.add_argument(
        "--source",
        type=not_empty,
        required=True,
        help="folder, .zip or s3://bucket/prefix in the RSNA 2022 layout",
    )
    parser.add_argument(
        "--recipe",
        type=not_empty,
        default="rsna2022",
        help="rsna2022, quick, or a TOML file (default: rsna2022)",
    )
    parser.add_argument(
        "--settle",
        type=seconds_from_minutes,
        default=str(settle_minutes),
        metavar="MINUTES",
        help="leave studies whose files changed within this time for the next build, because they may be "
        f"incomplete (default: {settle_minutes})",
    )
    parser.add_argument(
        "--masks",
        type=not_empty,
        metavar="FOLDER",
        help="folder, .zip or s3://bucket/prefix of segmentations for studies that have none",
    )
    parser.add_argument(
        "--masks-from",
        type=not_empty,
        metavar="NAMES",
        help="label numbers of --masks: rsna, verse, totalsegmentator-v1, -v2 or -v3 (without version: -v2), "
        "or a TOML file",
    )
    parser.add_argument(
        "--folds",
        type=not_empty,
        metavar="FILE",
        help="CSV table with the columns uid and fold, instead of the recipe's folds; later builds keep it",
    )
    parser.set_defaults(usage_error=parser.error)
    return parser


def build_parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with the options of the commands that build once and exit."""
    parser = base_parser(name, description, settle_minutes=0)
    parser.epilog = (
        "Exit status: 0 success, 3 some studies were refused, 1 the build failed or every study was refused."
    )
    store = parser.add_mutually_exclusive_group(required=True)
    store.add_argument("--store", type=not_empty, help=STORE_HELP)
    store.add_argument(
        "--datasets",
        type=not_empty,
        metavar="ROOT",
        help="folder or s3://bucket/prefix with one store for each recipe",
    )
    cluster = parser.add_mutually_exclusive_group()
    cluster.add_argument(
        "--workers", type=positive_integer, help="worker processes on this machine (default: one per core)"
    )
    cluster.add_argument("--dask", type=not_empty, metavar=DASK_ADDRESS, help=DASK_HELP)
    parser.add_argument(
        "--json", action="store_true", help="print one line of JSON on standard output at the end"
    )
    return parser


def build_request(options: argparse.Namespace) -> BuildRequest:
    """The build that the parsed options ask for; exits with status 2 if options contradict each other.

    Raises
    ------
    RecipeInvalid, LabelNamesInvalid
        If there is no such recipe or set of label names, or it is not valid.
    """
    from flows.building.request import BuildRequest, available_cores
    from spine_etl.recipe import load_recipe
    from spine_etl.source.label_names import load_label_names
    from spine_etl.store import dataset_in

    if (options.masks is None) != (options.masks_from is None):
        options.usage_error("--masks and --masks-from need each other")
    recipe = load_recipe(options.recipe)
    return BuildRequest(
        source=options.source,
        store=options.store or dataset_in(options.datasets, recipe),
        recipe=recipe,
        workers=options.workers or available_cores(),
        dask=options.dask,
        localizer=options.localizer,
        settle_s=options.settle,
        masks=options.masks,
        folds=options.folds,
        label_names=load_label_names(options.masks_from) if options.masks_from else None,
    )


def run(options: argparse.Namespace, build: Callable[[BuildRequest], Summary]) -> int:
    """Build, print the summary or the error, and return the exit status."""
    from spine_etl.errors import SpineError

    try:
        summary = build(build_request(options))
    except SpineError as error:
        print_line(f"error: {error}")
        if options.json:
            print(json.dumps({"error": error.as_dict()}))
        return 1
    except ModuleNotFoundError as error:
        print_line(f"error: {error.name} is not installed: pip install 'spine-etl[build,model]'.")
        return 1
    except KeyboardInterrupt:
        print_line(INTERRUPTED)
        return 130
    print_summary(summary)
    if options.json:
        print(json.dumps(summary.line()))
    if not summary.refused:
        return 0
    return 3 if summary.processed + summary.unchanged else 1


def print_summary(summary: Summary) -> None:
    for refusal in summary.refusals:
        print_line(f"refused {refusal['uid']} [{refusal['code']}] {refusal['reason']} {refusal['action']}")
    for uid, seconds in summary.left.items():
        print_line(f"{uid} changed {seconds:.0f} s ago; left for the next build, it may be incomplete.")
    if summary.without_images:
        print_line(f"{len(summary.without_images)} studies of the label table have no images in the source.")
    if summary.unnamed_levels:
        levels = ", ".join(summary.unnamed_levels)
        print_line(
            f"The label names of the masks contain no {levels}: absent in every study with such a mask."
        )
    for reason, paths in summary.unused_masks_by_reason().items():
        listed = ", ".join(paths[:_LISTED_MASKS])
        more = f" and {len(paths) - _LISTED_MASKS} more" if len(paths) > _LISTED_MASKS else ""
        print_line(f"Not used from the masks: {listed}{more} ({reason}).")
    for text, uids in (
        (_UNKNOWN_IN_FOLDS, summary.folds_without_study),
        (_MISSING_IN_FOLDS, summary.studies_without_fold),
    ):
        if uids:
            more = f" and {len(uids) - _LISTED_STUDIES} more" if len(uids) > _LISTED_STUDIES else ""
            print_line(f"folds: {text.format(len(uids))}: {', '.join(uids[:_LISTED_STUDIES])}{more}.")
    if not summary.processed and not summary.refused:
        print_line("Nothing new: no study was processed.")
    print_line(
        f"{summary.store}: version {summary.version}, {summary.processed} processed, "
        f"{summary.unchanged} unchanged, {summary.refused} refused, {summary.seconds} s, "
        f"root digest {summary.root_digest[:16]}"
    )


def not_empty(text: str) -> str:
    """An option as it is, unless it is empty: the variable of a script that was not set."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the value is empty")
    return text


def seconds_from_minutes(text: str) -> float:
    """An option in minutes, as seconds."""
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not 0 <= minutes < 1e6:
        raise argparse.ArgumentTypeError("not a number of minutes")
    return 60 * minutes


def positive_integer(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("not a whole number above 0")
    return int(text)
