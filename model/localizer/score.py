"""Scores of a localizer on studies whose segmentation it was not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.localizer.hmm import FloatArray
from model.localizer.localizer import Localizer, relabel_prediction
from model.localizer.network import class_of_label
from spine_etl.localization import MIN_CONFIDENCE
from spine_etl.recipe import Recipe
from spine_etl.store import Store

IDENTIFIED_MM = 20.0
"""A level is identified if its predicted centre is at most this far from its own true centre, and no other
level's true centre is nearer (Glocker et al. 2012, MICCAI)."""


@dataclass(frozen=True, eq=False)
class StudyScore:
    """The score of one study.

    Parameters
    ----------
    true_centres, predicted_centres
        float64 (level, 3): mm along the overview's own axes (z, y, x); NaN where a level is absent.
    dice
        float64 (level,): NaN where a level is absent from both segmentation and prediction.
    confidence
        float64 (level,).
    classes
        (z, y, x): the predicted classes.
    """

    true_centres: FloatArray
    predicted_centres: FloatArray
    dice: FloatArray
    confidence: FloatArray
    classes: npt.NDArray[np.integer[Any]]


def centres(classes: npt.NDArray[np.integer[Any]], level_count: int, spacing_mm: float) -> FloatArray:
    """(level, 3): mean voxel index (z, y, x) of each class 1 to K, times ``spacing_mm``; NaN if absent."""
    result = np.full((level_count, 3), np.nan)
    for level in range(level_count):
        voxels = np.argwhere(classes == level + 1)
        if len(voxels):
            result[level] = voxels.mean(axis=0) * spacing_mm
    return result


def dice(
    truth: npt.NDArray[np.integer[Any]], predicted: npt.NDArray[np.integer[Any]], level_count: int
) -> FloatArray:
    """(level,): the coefficient of Dice (1945) of each class 1 to K; NaN if absent from both volumes."""
    result = np.full(level_count, np.nan)
    for level in range(level_count):
        a, b = truth == level + 1, predicted == level + 1
        total = int(a.sum()) + int(b.sum())
        if total:
            result[level] = 2 * int((a & b).sum()) / total
    return result


def identified(true_centres: FloatArray, predicted_centres: FloatArray) -> npt.NDArray[np.bool_]:
    """(level,): whether each true level is identified, as defined at `IDENTIFIED_MM`."""
    distance = np.linalg.norm(predicted_centres[:, None] - true_centres[None], axis=-1)
    own = np.diagonal(distance)
    nearest = np.where(np.isnan(distance), np.inf, distance).min(axis=1)
    result: npt.NDArray[np.bool_] = (own <= IDENTIFIED_MM) & (own <= nearest)
    return result


def score_studies(
    localizer: Localizer, store: Store, studies: npt.NDArray[np.int64]
) -> Iterator[tuple[StudyScore, StudyScore]]:
    """`score_volume` of each study, by the network that was trained without its fold."""
    classes = class_of_label(store.recipe)
    for study in studies.tolist():
        image = store.read("overview/image", study)
        truth = classes[store.read("overview/mask", study)]
        yield score_volume(localizer, store.recipe, image, truth, fold=int(store.table["fold"][study]))


def score_volume(
    localizer: Localizer,
    recipe: Recipe,
    image: npt.NDArray[np.int16],
    truth: npt.NDArray[np.integer[Any]],
    *,
    fold: int,
) -> tuple[StudyScore, StudyScore]:
    """Score the prediction for one overview, with and without the hidden Markov model.

    With it, levels below `MIN_CONFIDENCE` count as absent. Without it, each voxel has the network's most
    probable class, and every level has confidence 1.

    Parameters
    ----------
    image
        int16 HU (z, y, x).
    truth
        The true classes, (z, y, x).
    fold
        The fold of the study: selects the network that was trained without it.

    Raises
    ------
    CheckpointInvalid
        If no network held out that fold, or the recipe differs from that of the training.
    """
    level_count, spacing_mm = len(recipe.levels), recipe.overview.spacing_mm
    network = localizer.trained_without(fold)
    probabilities = localizer.mean_probabilities(image, recipe, [network])
    relabelled = relabel_prediction(probabilities, recipe, network.order)
    confident = np.concatenate([[False], relabelled.confidence >= MIN_CONFIDENCE, [False]])
    predictions = (
        (np.where(confident[relabelled.labels], relabelled.labels, 0), relabelled.confidence),
        (probabilities.argmax(axis=0), np.ones(level_count)),
    )
    true_centres = centres(truth, level_count, spacing_mm)
    with_hmm, without_hmm = (
        StudyScore(
            true_centres=true_centres,
            predicted_centres=centres(labels, level_count, spacing_mm),
            dice=dice(truth, labels, level_count),
            confidence=confidence,
            classes=labels,
        )
        for labels, confidence in predictions
    )
    return with_hmm, without_hmm


def crop_distances(store: Store, study: int, classes: npt.NDArray[np.integer[Any]]) -> dict[str, float]:
    """For each level in ``classes``, the distance in mm from where it would be cropped to its stored crop.

    Both are centres: that of the level's bounding box in ``classes`` (z, y, x), an overview's, and that of
    the crop's grid.
    """
    overview = store.overview_grid(study)
    distances = {}
    for index, level in enumerate(store.levels):
        voxels = np.argwhere(classes == index + 1)
        if len(voxels) and store.located()[study, index]:
            centre = overview.to_mm((voxels.min(axis=0) + voxels.max(axis=0)) / 2)
            distances[level] = float(np.linalg.norm(centre - store.crop_grid(study, level).center_mm))
    return distances


def summary(scores: list[tuple[StudyScore, StudyScore]]) -> dict[str, Any]:
    """Summarise the pairs of `score_studies` over all levels that the segmentations show.

    ``dice_mean`` is the mean over levels of their means over studies; ``identification_rate`` the share of
    true levels that are identified; ``centre_error_mm`` the mean distance between true and predicted centres
    of the levels that are in both; ``false_levels`` the number of predicted levels that are absent from the
    segmentation; ``hmm_gain`` the identification rate minus that without the hidden Markov model.
    """
    with_hmm, without_hmm = (_figures([pair[k] for pair in scores]) for k in (0, 1))
    return {
        **with_hmm,
        "hmm_gain": round(with_hmm["identification_rate"] - without_hmm["identification_rate"], 4),
        "without_hmm": without_hmm,
        "studies": len(scores),
    }


def _figures(scores: list[StudyScore]) -> dict[str, Any]:
    true_centres = np.stack([score.true_centres for score in scores])
    predicted_centres = np.stack([score.predicted_centres for score in scores])
    is_true, is_predicted = (~np.isnan(c[..., 0]) for c in (true_centres, predicted_centres))
    is_identified = np.stack([identified(s.true_centres, s.predicted_centres) for s in scores])
    error_mm = np.linalg.norm(predicted_centres - true_centres, axis=-1)
    dices = np.stack([score.dice for score in scores])
    dice_levels = [_mean(dices[is_true[:, level], level]) for level in range(dices.shape[1])]
    return {
        "dice_mean": _mean(np.array([value for value in dice_levels if value is not None])),
        "identification_rate": _mean(is_identified[is_true]),
        "centre_error_mm": _mean(error_mm[~np.isnan(error_mm)]),
        "dice_levels": dice_levels,
        "false_levels": int((~is_true & is_predicted).sum()),
        "levels": int(is_true.sum()),
    }


def _mean(values: npt.NDArray[Any]) -> float | None:
    """The mean, rounded to 4 digits; None, JSON's null, if there are no values."""
    return round(float(values.mean()), 4) if values.size else None
