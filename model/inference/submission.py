"""The submission table of finished runs, and its score: `model.predict` without the command line."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.data.targets import Indices, study_labels
from model.device import choose_device
from model.inference.metrics import FloatArray, auroc, constant_baselines, pooled_auroc, weighted_log_loss
from model.inference.predictor import Predictor
from model.inference.weights import ModelDescription, constant_prediction, load_model
from model.options import PredictOptions
from model.output import write_file
from spine_etl.errors import CheckpointInvalid, FoldInvalid
from spine_etl.store import Store, open_store


def predict_store(options: PredictOptions) -> dict[str, Any] | None:
    """Write the table; with ``evaluate``, also print and return the score.

    A level that is not located, a study without any located level, and a study that the build refused get
    `constant_prediction`. Warnings on standard error give their numbers.

    Raises
    ------
    CheckpointInvalid
        If a run has not finished, was trained on a store of another recipe or on the fold to be scored.
    FoldInvalid
        If the store has no such fold, the fold has no labelled study, or ``evaluate`` lacks a fold.
    StoreError
        If the store, or a study's objects, cannot be read.
    """
    device = choose_device(options.device)
    store = open_store(options.store, cache=options.cache)
    studies = _studies(store, options)
    models = [load_model(run, store) for run in options.checkpoint]
    if options.evaluate:
        _check_held_out(options, [model for _, model in models])
    predictions = [
        Predictor(network.to(device), model.view, store, device).probabilities(studies, model.temperature)
        for network, model in models
    ]
    table = np.mean(predictions, axis=0)
    constant = constant_prediction([model for _, model in models])
    missing = np.isnan(table)
    table = np.where(missing, constant, table)
    without_crops = missing.all(axis=1)
    uids = [store.study_uids[study] for study in studies.tolist()]
    if options.fold is None:
        refused = [entry["uid"] for entry in store.refused]
        table = np.concatenate([table, np.tile(constant, (len(refused), 1))])
        uids += refused
        _warn(len(refused), "studies refused by the build")
    _warn(int(without_crops.sum()), "studies without a located vertebra")
    _warn(int(missing[~without_crops].sum()), "levels that are not located")
    columns = [*store.levels, "patient_overall"]
    _write_table(options.out, uids, columns, table)
    if not options.evaluate:
        return None
    score = evaluate(store, studies, table)
    _print_score(score, options.json)
    if options.pictures:
        from model.inference.curves import draw_curves

        draw_curves(study_labels(store, studies), table, columns, options.pictures)
    return score


def evaluate(store: Store, studies: Indices, table: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Score the predictions for studies of one fold.

    Parameters
    ----------
    studies, table
        Indices of the studies, and their probabilities (studies, levels + 1).

    Returns
    -------
    dict
        ``baseline`` is the loss of a constant, the weighted prevalence of the other folds. ``auroc`` is the
        mean over the columns with both kinds of labels; ``auroc_patient`` and ``auroc_levels`` are the single
        columns, None where undefined; ``auroc_vertebrae`` pools all vertebrae.
    """
    labels = study_labels(store, studies)
    others = np.flatnonzero(store.table["fold"] != store.table["fold"][studies[0]])
    constant = constant_baselines(study_labels(store, others))["weighted_prevalence"]
    constants = np.broadcast_to(constant, labels.shape)
    areas = auroc(labels, table)
    return {
        "weighted_log_loss": weighted_log_loss(labels, table),
        "baseline": weighted_log_loss(labels, constants),
        "auroc": _none_if_nan(float(np.nanmean(areas))) if not np.isnan(areas).all() else None,
        "studies": len(studies),
        "weighted_log_loss_per_study": weighted_log_loss(labels, table, "per_study"),
        "baseline_per_study": weighted_log_loss(labels, constants, "per_study"),
        "auroc_patient": _none_if_nan(areas[-1]),
        "auroc_vertebrae": _none_if_nan(pooled_auroc(labels, table)),
        "auroc_levels": {
            name: _none_if_nan(area) for name, area in zip(store.levels, areas.tolist(), strict=False)
        },
        "studies_without_crops": int((~store.located()[studies].any(axis=1)).sum()),
    }


def _none_if_nan(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else float(value)


def _studies(store: Store, options: PredictOptions) -> Indices:
    """The studies to predict: all, or those of the fold; with ``evaluate``, only those with a label."""
    if options.fold is None:
        if options.evaluate:
            raise FoldInvalid("--evaluate needs the --fold that the runs held out.")
        return np.arange(len(store), dtype=np.int64)
    if options.fold not in range(store.recipe.folds):
        raise FoldInvalid(
            f"there is no fold {options.fold}: the store has folds 0 to {store.recipe.folds - 1}."
        )
    studies = np.flatnonzero(store.table["fold"] == options.fold)
    if options.evaluate:
        studies = studies[(study_labels(store, studies) >= 0).any(axis=1)]
    if not len(studies):
        raise FoldInvalid(f"fold {options.fold} has no study to predict.")
    return studies


def _check_held_out(options: PredictOptions, models: Sequence[ModelDescription]) -> None:
    for run, model in zip(options.checkpoint, models, strict=True):
        if model.fold != options.fold:
            raise CheckpointInvalid(
                f"{run.name} held out fold {model.fold}, so it was trained on fold {options.fold}.",
                action="Score only runs that held the fold out.",
            )


def _warn(count: int, subject: str) -> None:
    if count:
        print(
            f"warning: {count} {subject} get the weighted prevalence of the training folds.", file=sys.stderr
        )


def _write_table(path: Path, uids: Sequence[str], columns: Sequence[str], table: FloatArray) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("row_id", "fractured"))
    for uid, row in zip(uids, table.tolist(), strict=True):
        for column, value in zip(columns, row, strict=True):
            writer.writerow((f"{uid}_{column}", f"{value:.6f}"))
    write_file(path, text.getvalue().encode())


def _print_score(score: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(score))
        return
    print(f"studies                     {score['studies']}")
    print(f"weighted log loss           {score['weighted_log_loss']:.4f}")
    print(f"  of the best constant      {score['baseline']:.4f}")
    print(f"weighted log loss per study {score['weighted_log_loss_per_study']:.4f}")
    print(f"  of the best constant      {score['baseline_per_study']:.4f}")
    for name in ("auroc", "auroc_patient", "auroc_vertebrae"):
        value = score[name]
        print(f"{name:28}{'undefined: all labels are the same' if value is None else f'{value:.3f}'}")
