"""Build a dataset of which only some studies are segmented: build, train a localizer, build again with it.

    python -m flows.bootstrap --source DIR (--store PATH | --datasets ROOT) --localizer FOLDER [--recipe FILE]
                              [--masks FOLDER --masks-from NAMES] [--epochs N]
                              [--workers N | --dask tcp://...] [--settle MINUTES]

The first version contains the overview of every study, and the crops of the studies that have a segmentation.
From those segmentations, one network per fold learns to find the vertebrae. The second version contains the
crops of all studies. If the command is killed, run it again: finished studies and folds are kept. Once the
localizer is trained, the command only builds new studies with it.

Exit status: 0 success; 3 some studies were refused (the others are in the store); 1 the build failed or every
study was refused; 2 the command line is wrong; 130 interrupted (run the command again to resume).
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from flows.cli import build_parser, not_empty, positive_integer, run

if TYPE_CHECKING:
    from flows.building.request import BuildRequest
    from flows.building.summary import Summary


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)

    def build(request: BuildRequest) -> Summary:
        from flows.building.bootstrap import bootstrap

        return bootstrap(request, options.epochs)

    return run(options, build)


def _parser() -> argparse.ArgumentParser:
    parser = build_parser("flows.bootstrap", "Build a dataset of which only some studies are segmented.")
    parser.add_argument(
        "--localizer",
        type=not_empty,
        required=True,
        metavar="FOLDER",
        help="the localizer; trained if it does not exist",
    )
    parser.add_argument(
        "--epochs", type=positive_integer, default=40, help="epochs of its training (default: 40)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
