"""A localizer over a store: the table of what it finds, or its score."""

from __future__ import annotations

import csv
import io
import json
import sys
from typing import Any

import numpy as np

from model.distributed import choose_device
from model.localizer.localizer import Localizer
from model.localizer.network import class_of_label
from model.localizer.score import centres, crop_distances, score_studies, summary
from model.localizer.training import with_masks
from model.options import ApplyLocalizerOptions
from model.output import write_atomically
from spine_etl.errors import FoldInvalid
from spine_etl.store import Store, open_store

_HEADER = ("study_uid", "level", "L_mm", "P_mm", "S_mm", "confidence")


def apply_localizer(options: ApplyLocalizerOptions) -> dict[str, Any] | None:
    """Write the table of the studies without a given mask; with ``evaluate``, return the others' score.

    Raises
    ------
    CheckpointInvalid
        If the localizer cannot be read, or is for another recipe.
    FoldInvalid
        If there is nothing to do: neither a table to write nor a score asked for, or no study with a mask.
    StoreError
        If the store, or a study's objects, cannot be read.
    """
    store = open_store(options.store)
    localizer = Localizer(options.checkpoint, choose_device(options.device))
    if not options.out and not options.evaluate:
        raise FoldInvalid("name --out for a table, or --evaluate for a score.")
    if options.out:
        _write(options, store, localizer)
    return _evaluate(options, store, localizer) if options.evaluate else None


def _write(options: ApplyLocalizerOptions, store: Store, localizer: Localizer) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    given = set(with_masks(store).tolist())
    classes = class_of_label(store.recipe)
    for study in range(len(store)):
        if study in given:
            continue
        found = localizer.localize(store.read("overview/image", study), store.recipe)
        # Voxels of the grid, not yet millimetres: the grid itself says where they lie.
        places = centres(classes[found.labels], len(store.levels), 1.0)
        for level, place in zip(store.levels, places, strict=True):
            if not np.isnan(place[0]):
                millimetres = store.overview_grid(study).to_mm(place)
                confidence = found.confidence[level]
                row = (
                    store.study_uids[study],
                    level,
                    *(f"{v:.1f}" for v in millimetres),
                    f"{confidence:.3f}",
                )
                writer.writerow(row)
    if options.out:
        write_atomically(options.out, text.getvalue().encode())


def _evaluate(options: ApplyLocalizerOptions, store: Store, localizer: Localizer) -> dict[str, Any]:
    studies = with_masks(store)
    if not len(studies):
        raise FoldInvalid("the store holds no study with a segmentation to score on.")
    scores = []
    apart: list[float] = []
    for done, pair in enumerate(score_studies(localizer, store, studies), start=1):
        scores.append(pair)
        apart += crop_distances(store, int(studies[done - 1]), pair[0].classes).values()
        print(f"\r{done}/{len(studies)} studies", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    figures = summary(scores) | {
        "crop_distance_mm": round(float(np.mean(apart)), 4) if apart else None,
        "crop_distance_worst_mm": round(float(np.max(apart)), 4) if apart else None,
    }
    if options.json:
        print(json.dumps(figures))
        return figures
    for name in ("studies", "levels", "dice_mean", "identification_rate", "centre_error_mm", "hmm_gain",
                 "crop_distance_mm", "crop_distance_worst_mm"):  # fmt: skip
        print(f"{name:24}{figures[name]}")
    for name in ("dice_mean", "identification_rate", "centre_error_mm", "false_levels"):
        print(f"  without the model: {name:22}{figures['without_hmm'][name]}")
    return figures
