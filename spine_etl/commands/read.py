"""``read``: write a DICOM series as NIfTI, so that other tools can compare what was read."""

from __future__ import annotations

import argparse
import os
import sys

from spine_etl.commands.argument_types import voxel_size

HELP = "write a DICOM series as NIfTI, as it was read"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="FOLDER", help="one DICOM series: a folder, a .zip, or s3://bucket/prefix"
    )
    parser.add_argument("--out", required=True, help="file to write, .nii or .nii.gz")
    parser.add_argument(
        "--isotropic",
        type=voxel_size,
        metavar="MM",
        help="resample to cubic voxels of this size along the patient's axes",
    )


def run(options: argparse.Namespace) -> int:
    from spine_etl.dicom import read_series
    from spine_etl.nifti import write_volume

    volume = read_series(options.folder)
    if options.isotropic:
        from spine_etl.resample import resample_isotropic

        volume = resample_isotropic(volume, options.isotropic, threads=len(os.sched_getaffinity(0)))
    write_volume(options.out, volume)
    for warning in volume.warnings:
        print(f"note: {warning}", file=sys.stderr)
    z, y, x = volume.grid.spacing_mm
    print(f"{options.out}: {volume.grid.shape} voxels (z, y, x) of {z:.4g} x {y:.4g} x {x:.4g} mm")
    return 0
