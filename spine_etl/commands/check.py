"""``check``: read every committed object of a store and compare it with its digest."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING

from spine_etl.commands.argument_types import integer_between

if TYPE_CHECKING:
    from spine_etl.errors import SpineError
    from spine_etl.store import Store

HELP = "verify every committed object of a store against its digest"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="folder or s3://bucket/prefix")
    parser.add_argument(
        "--version", type=integer_between(1, 2**31), help="version to check (default: the newest)"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")


def run(options: argparse.Namespace) -> int:
    from spine_etl.store import open_store
    from spine_etl.store.arrays import ARRAY_NAMES

    store = open_store(options.store, options.version)
    faults = check_store(store)
    studies, objects = len(store), len(store) * len(ARRAY_NAMES)
    if options.json:
        summary = {
            "studies": studies,
            "objects": objects,
            "faults": [{"study": fault.study, **fault.as_dict()} for fault in faults],
            "version": store.version,
            "root_digest": store.root_digest,
        }
        print(json.dumps(summary))
    elif faults:
        for fault in faults:
            print(f"{fault.code} {fault.study or 'table'} {fault.reason}")
    else:
        print(f"{studies} studies, {objects} objects, all as committed")
    return 1 if faults else 0


def check_store(store: Store, progress_interval_s: float = 5.0) -> list[SpineError]:
    """Every fault in the store; progress is printed to standard error, at most once per interval."""
    from spine_etl.store.check import check_study, check_table

    faults: list[SpineError] = list(check_table(store))
    last_report = time.monotonic()
    for study in range(len(store)):
        faults += check_study(store, study)
        if time.monotonic() - last_report > progress_interval_s:
            last_report = time.monotonic()
            print(f"{study + 1} of {len(store)} studies read ...", file=sys.stderr)
    return faults
