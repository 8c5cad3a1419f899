"""The table of levels that a localizer finds in the studies without a segmentation of their own."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from model.localizer.localizer import Localizer
from model.localizer.network import class_of_label
from model.localizer.overviews import segmented_studies
from model.localizer.score import centres
from model.output import write_file
from spine_etl.store import Store

_HEADER = ("study_uid", "level", "L_mm", "P_mm", "S_mm", "confidence")


def write_table(path: Path, localizer: Localizer, store: Store) -> None:
    """Write a CSV file with a row for each level found: study, level, centre in LPS mm, confidence.

    Raises
    ------
    CheckpointInvalid
        If the localizer was trained for another recipe.
    StoreError
        If a study's objects cannot be read.
    OutputUnwritable
        If the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    segmented = set(segmented_studies(store).tolist())
    classes = class_of_label(store.recipe)
    for study in range(len(store)):
        if study in segmented:
            continue
        localization = localizer.localize(store.read("overview/image", study), store.recipe)
        # A spacing of 1 gives voxel indices, which the study's grid converts to LPS mm.
        voxel_centres = centres(classes[localization.labels], len(store.levels), 1.0)
        for level, voxel_centre in zip(store.levels, voxel_centres, strict=True):
            if np.isnan(voxel_centre[0]):
                continue
            position_mm = store.overview_grid(study).to_mm(voxel_centre)
            coordinates = [f"{value:.1f}" for value in position_mm]
            confidence = f"{localization.confidence[level]:.3f}"
            writer.writerow((store.study_uids[study], level, *coordinates, confidence))
    write_file(path, text.getvalue().encode())
