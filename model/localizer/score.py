"""How well a localizer does on studies whose segmentation it never saw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.localizer.localizer import Localizer, mended
from model.localizer.network import class_of_label
from spine_etl.localization import LEAST_CONFIDENCE
from spine_etl.recipe import Recipe
from spine_etl.store import Store

IDENTIFIED_MM = 20.0
"""A level is identified where its centre is nearer than this to its own true centre, and no other level's
true centre is nearer still (Glocker et al. 2012, MICCAI)."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StudyScore:
    """One study: true and found centres in mm of the overview's own axes (level, 3), NaN where there is none.

    ``dice`` (level,) is NaN where neither shows the level. ``confidence`` (level,). ``classes``
    (z, y, x) is what was found.
    """

    truth: FloatArray
    found: FloatArray
    dice: FloatArray
    confidence: FloatArray
    classes: npt.NDArray[np.integer[Any]]


def centres(classes: npt.NDArray[np.integer[Any]], levels: int, spacing_mm: float) -> FloatArray:
    """(level, 3): mean voxel centre of each level 1 to K in (z, y, x) classes, in mm; NaN without one."""
    result = np.full((levels, 3), np.nan)
    for level in range(levels):
        voxels = np.argwhere(classes == level + 1)
        if len(voxels):
            result[level] = voxels.mean(axis=0) * spacing_mm
    return result


def dice(truth: npt.NDArray[np.integer[Any]], found: npt.NDArray[np.integer[Any]], levels: int) -> FloatArray:
    """(level,) Dice (1945) of each level 1 to K; NaN where neither holds it."""
    result = np.full(levels, np.nan)
    for level in range(levels):
        a, b = truth == level + 1, found == level + 1
        whole = int(a.sum()) + int(b.sum())
        if whole:
            result[level] = 2 * int((a & b).sum()) / whole
    return result


def identified(truth: FloatArray, found: FloatArray) -> npt.NDArray[np.bool_]:
    """(level,) whether each true level was found where it is: see `IDENTIFIED_MM`."""
    apart = np.linalg.norm(found[:, None] - truth[None], axis=-1)
    own = np.diagonal(apart)
    nearest = np.where(np.isnan(apart), np.inf, apart).min(axis=1)
    result: npt.NDArray[np.bool_] = (own <= IDENTIFIED_MM) & (own <= nearest)
    return result


def score_studies(
    localizer: Localizer, store: Store, studies: npt.NDArray[np.int64]
) -> Iterator[tuple[StudyScore, StudyScore]]:
    """Each study by the network that held its fold out, with and without the hidden Markov model."""
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
    """An overview (z, y, x) HU against its true classes, with the hidden Markov model and without it.

    Without it, a voxel has the network's own most probable class and every level it names is believed.
    """
    levels, spacing = len(recipe.levels), recipe.overview.spacing_mm
    member = localizer.of_fold(fold)
    probabilities = localizer.probabilities(image, recipe, [member])
    ordered = mended(probabilities, recipe, member.order)
    sure = np.concatenate([[False], ordered.confidence >= LEAST_CONFIDENCE, [False]])
    answers = (
        (np.where(sure[ordered.labels], ordered.labels, 0), ordered.confidence),
        (probabilities.argmax(axis=0), np.ones(levels)),
    )
    true_centres = centres(truth, levels, spacing)
    with_hmm, without = (
        StudyScore(
            truth=true_centres,
            found=centres(labels, levels, spacing),
            dice=dice(truth, labels, levels),
            confidence=confidence,
            classes=labels,
        )
        for labels, confidence in answers
    )
    return with_hmm, without


def crop_distances(store: Store, study: int, classes: npt.NDArray[np.integer[Any]]) -> dict[str, float]:
    """Millimetres from the middle of each level's bounding box, where it would be cut, to its own crop."""
    overview = store.overview_grid(study)
    apart = {}
    for index, level in enumerate(store.levels):
        voxels = np.argwhere(classes == index + 1)
        if len(voxels) and store.located()[study, index]:
            middle = overview.to_mm((voxels.min(axis=0) + voxels.max(axis=0)) / 2)
            apart[level] = float(np.linalg.norm(middle - store.crop_grid(study, level).center_mm))
    return apart


def summary(scores: list[tuple[StudyScore, StudyScore]]) -> dict[str, Any]:
    """The figures over all levels that the segmentations show, and what the hidden Markov model adds to them.

    ``dice_mean`` is the mean over levels of their means over studies; ``identification_rate`` the share of
    true levels that are identified; ``centre_error_mm`` the mean distance of the centres of levels that were
    found; ``false_levels`` counts levels that no segmentation shows; ``hmm_gain`` the difference that the
    model makes to the identification rate.
    """
    with_hmm, without = (_figures([pair[k] for pair in scores]) for k in (0, 1))
    return {
        **with_hmm,
        "hmm_gain": round(with_hmm["identification_rate"] - without["identification_rate"], 4),
        "without_hmm": without,
        "studies": len(scores),
    }


def _figures(scores: list[StudyScore]) -> dict[str, Any]:
    truth, found = (np.stack([getattr(s, name) for s in scores]) for name in ("truth", "found"))
    there = ~np.isnan(truth[..., 0])
    right = np.stack([identified(s.truth, s.found) for s in scores])
    error = np.linalg.norm(found - truth, axis=-1)
    overlap = np.stack([s.dice for s in scores])
    dice_levels = [_mean(overlap[there[:, level], level]) for level in range(overlap.shape[1])]
    return {
        "dice_mean": _mean(np.array([value for value in dice_levels if value is not None])),
        "identification_rate": _mean(right[there]),
        "centre_error_mm": _mean(error[~np.isnan(error)]),
        "dice_levels": dice_levels,
        "false_levels": int((~there & ~np.isnan(found[..., 0])).sum()),
        "levels": int(there.sum()),
    }


def _mean(values: npt.NDArray[Any]) -> float | None:
    """None, as JSON has it, where there is nothing to take a mean of."""
    return round(float(values.mean()), 4) if values.size else None
