"""Run the nightly build in one process: schedule it, run it, and show its runs in a browser.

    python -m flows.serve --source DIR --store PATH [--recipe FILE] [--cron "0 2 * * *"] [--localizer FOLDER]
                          [--masks FOLDER --masks-from NAMES] [--dask tcp://...] [--settle MINUTES]

Uses the Prefect server at PREFECT_API_URL. If that is not set, starts a server on this machine, which ends
with the command. Runs until Ctrl-C.

Exit status: 130 interrupted; 1 it could not start; 2 the command line is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from flows.cli import DASK_ADDRESS, DASK_HELP, STORE_HELP, base_parser, build_request, not_empty
from flows.console import print_line
from flows.prefect_server import prefect_server


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    from spine_etl.errors import SpineError

    # Service managers send SIGTERM where a terminal sends SIGINT.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        parameters = build_request(options).flow_parameters()
        with prefect_server() as address:
            from prefect.schedules import Cron

            from flows.building.deployment import deploy_nightly
            from flows.building.flow import build_dataset

            try:
                schedule = Cron(options.cron, timezone="UTC")
            except ValueError:
                print_line(
                    f'error: argument --cron: {options.cron} is not a cron schedule, like "0 2 * * *".'
                )
                return 2
            runner = deploy_nightly(build_dataset, parameters, schedule)
            print_line(f"Serving build-dataset/nightly at {options.cron} (UTC). Runs, and a form: {address}")
            asyncio.run(runner.start())
    except SpineError as error:
        print_line(f"error: {error}")
        return 1
    except (KeyboardInterrupt, SystemExit):  # Prefect's runner turns SIGTERM into SystemExit
        pass
    print_line("Stopped. Studies stored so far are kept; the next run resumes.")
    return 130


def _parser() -> argparse.ArgumentParser:
    description = "Build every night, and show the runs in a browser."
    parser = base_parser("flows.serve", description, settle_minutes=10)
    parser.add_argument("--store", type=not_empty, required=True, help=STORE_HELP)
    parser.add_argument(
        "--cron",
        type=not_empty,
        default="0 2 * * *",
        help='schedule of the builds, in UTC (default: "0 2 * * *")',
    )
    parser.add_argument(
        "--localizer", type=not_empty, metavar="FOLDER", help="finds C1-C7 in studies without a mask"
    )
    parser.add_argument("--dask", type=not_empty, metavar=DASK_ADDRESS, help=DASK_HELP)
    parser.set_defaults(workers=None)
    return parser


if __name__ == "__main__":
    sys.exit(main())
