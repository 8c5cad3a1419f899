"""Build a dataset: a source of CT studies in, a committed version of a store out.

    python -m flows.build_dataset --source DIR (--store PATH | --datasets ROOT) [--recipe FILE]
                                  [--masks FOLDER --masks-from NAMES] [--localizer FOLDER]
                                  [--workers N | --dask tcp://...] [--settle MINUTES]

Exit status: 0 success; 3 some studies were refused (the others are in the store); 1 the build failed or every
study was refused; 2 the command line is wrong; 130 interrupted (run the command again to resume).
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from flows.cli import build_parser, not_empty, run

if TYPE_CHECKING:
    from flows.building.request import BuildRequest
    from flows.building.summary import Summary


def main(argv: list[str] | None = None) -> int:
    return run(_parser().parse_args(argv), _build)


def _parser() -> argparse.ArgumentParser:
    parser = build_parser(
        "flows.build_dataset", "Build a versioned zarr store of vertebra crops from a source of CT studies."
    )
    parser.add_argument(
        "--localizer",
        type=not_empty,
        metavar="FOLDER",
        help="trained localizer (model.localize train), which finds C1-C7 in studies without a mask",
    )
    return parser


def _build(request: BuildRequest) -> Summary:
    from flows.building.build import build

    return build(request)


if __name__ == "__main__":
    sys.exit(main())
