"""``phantom``: write synthetic studies in the layout of RSNA 2022."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from spine_etl.commands.argument_types import fraction, integer_between

if TYPE_CHECKING:
    from spine_etl.phantom import PhantomStudy

HELP = "write synthetic studies in the RSNA 2022 layout"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="new or empty folder")
    parser.add_argument("--studies", type=integer_between(1, 49_999), required=True, help="number of studies")
    parser.add_argument(
        "--seed", type=integer_between(0, 2**32), required=True, help="the same seed writes the same bytes"
    )
    parser.add_argument(
        "--transfer-syntax",
        choices=["mixed", "implicit", "explicit", "jpeg-lossless"],
        default="mixed",
        help="encoding of the DICOM files; mixed alternates between the others (default: mixed)",
    )
    parser.add_argument(
        "--slices", type=integer_between(16, 2000), help="slices per study (default: as the anatomy needs)"
    )
    parser.add_argument(
        "--size", type=integer_between(32, 2048), default=512, help="rows and columns (default: 512)"
    )
    parser.add_argument(
        "--masked-share",
        type=fraction,
        default=0.75,
        help="share of the studies that have a segmentation (default: 0.75)",
    )


def run(options: argparse.Namespace) -> int:
    from spine_etl.phantom import write_phantom

    print(f"Writing {options.studies} studies to {options.out} ...", flush=True)
    write_phantom(
        options.out,
        options.studies,
        options.seed,
        transfer_syntax=options.transfer_syntax,
        slices=options.slices,
        size=options.size,
        masked_share=options.masked_share,
        progress=_print_study,
    )
    return 0


def _print_study(study: PhantomStudy) -> None:
    fractured = ", ".join(study.fractured) or "none"
    mask = "with" if study.has_mask else "without"
    slices = len(study.scan.positions_mm)
    print(f"{study.uid}: {slices} slices, {mask} mask, fractured: {fractured}", flush=True)
