"""Apply a trained localizer to a store: write its table of levels, or print its score."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from model.device import choose_device
from model.localizer.localizer import Localizer
from model.localizer.overviews import segmented_studies
from model.localizer.score import crop_distances, score_studies, summary
from model.localizer.table import write_table
from model.options import ApplyLocalizerOptions
from spine_etl.errors import FoldInvalid
from spine_etl.store import Store, open_store


def apply_localizer(options: ApplyLocalizerOptions) -> dict[str, Any] | None:
    """Write the table of the studies without a segmentation; with ``evaluate``, return the others' score.

    Raises
    ------
    CheckpointInvalid
        If the localizer cannot be read, or was trained for another recipe.
    FoldInvalid
        If neither a table nor a score is requested, or no study has a segmentation to score on.
    StoreError
        If the store, or a study's objects, cannot be read.
    OutputUnwritable
        If the table cannot be written.
    """
    store = open_store(options.store)
    localizer = Localizer(options.checkpoint, choose_device(options.device))
    if not options.out and not options.evaluate:
        raise FoldInvalid("name --out for a table, or --evaluate for a score.")
    if options.out:
        write_table(options.out, localizer, store)
    if not options.evaluate:
        return None
    figures = _evaluate(localizer, store)
    if options.json:
        print(json.dumps(figures))
    else:
        _print_figures(figures)
    return figures


def _evaluate(localizer: Localizer, store: Store) -> dict[str, Any]:
    """`summary` of all segmented studies, and the distances of the crops in mm."""
    studies = segmented_studies(store)
    if not len(studies):
        raise FoldInvalid("the store has no study with a segmentation to score on.")
    scores = []
    distances_mm: list[float] = []
    console = Console(stderr=True)
    scored = zip(studies.tolist(), score_studies(localizer, store, studies), strict=True)
    for study, pair in track(scored, "studies", total=len(studies), console=console):
        scores.append(pair)
        distances_mm += crop_distances(store, study, pair[0].classes).values()
    return summary(scores) | {
        "crop_distance_mm": round(float(np.mean(distances_mm)), 4) if distances_mm else None,
        "crop_distance_worst_mm": round(float(np.max(distances_mm)), 4) if distances_mm else None,
    }


def _print_figures(figures: dict[str, Any]) -> None:
    for name in ("studies", "levels", "dice_mean", "identification_rate", "centre_error_mm", "hmm_gain",
                 "crop_distance_mm", "crop_distance_worst_mm"):  # fmt: skip
        print(f"{name:24}{figures[name]}")
    for name in ("dice_mean", "identification_rate", "centre_error_mm", "false_levels"):
        print(f"  network only: {name:22}{figures['without_hmm'][name]}")
