"""Training targets: labels of studies, levels and slices, and the split into training and held-out studies.

In (study, level + 1) arrays the *columns* are the levels, then the patient.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from spine_etl.errors import FoldInvalid
from spine_etl.store import Store
from spine_etl.store.record import UNKNOWN

NO_BOX = (0.0, 0.0, -1.0, -1.0)
"""An empty box: its end is before its start."""

Indices = npt.NDArray[np.int64]

TARGET_FIELDS = ("labels", "known", "located", "slice_fracture", "slice_box")
"""The arrays of `Targets`."""


def with_crops(store: Store) -> Indices:
    """Studies with at least one located level, labelled or not: those that can be predicted."""
    return np.flatnonzero(store.located().any(axis=1))


def split(store: Store, fold: int) -> tuple[Indices, Indices]:
    """Studies to train on and studies held out, by the store's folds, each in ascending order.

    Only studies that have a crop and whose ``patient_overall`` is known.

    Raises
    ------
    FoldInvalid
        If the store has no such fold, or either part has no fractured study.
    """
    folds, overall = store.table["fold"], store.table["patient_overall"]
    if fold not in range(store.recipe.folds):
        raise FoldInvalid(f"there is no fold {fold}: the store has folds 0 to {store.recipe.folds - 1}.")
    studies = with_crops(store)
    studies = studies[overall[studies] != UNKNOWN]
    held_out = studies[folds[studies] == fold]
    train = studies[folds[studies] != fold]
    for name, part in ((f"fold {fold}", held_out), (f"the training set for fold {fold}", train)):
        if not (overall[part] == 1).any():
            raise FoldInvalid(
                f"{name} has no fractured study among its {len(part)} studies with crops and labels."
            )
    return train, held_out


def study_labels(store: Store, studies: Indices) -> npt.NDArray[np.float64]:
    """(study, level + 1): 0, 1 or -1 (unknown); the last column is patient_overall."""
    table = store.table
    labels = np.concatenate([table["fracture"], table["patient_overall"][:, None]], axis=1)
    chosen: npt.NDArray[np.float64] = labels[studies].astype(np.float64)
    return chosen


class Targets:
    """The targets of every study of a version; row i is study i.

    Attributes
    ----------
    labels
        float32 (study, level + 1): 0 or 1, the last column is patient_overall; 0 where not ``known``.
    known
        bool (study, level + 1).
    located
        bool (study, level): whether the level has a crop.
    slice_fracture
        int8 (study, level, z): whether a fracture was marked in that axial slice of the level's crop;
        see `slice_fractures`.
    slice_box
        float32 (study, level, z, 4): the level's box in that slice as y0, x0, y1, x1 in voxels of the crop;
        `NO_BOX` if it has none. If it has several, the smallest box that encloses them all.
    """

    def __init__(self, store: Store) -> None:
        table = store.table
        labels = np.concatenate([table["fracture"], table["patient_overall"][:, None]], axis=1)
        self.known: npt.NDArray[np.bool_] = labels != UNKNOWN
        self.labels = np.where(self.known, labels, 0).astype(np.float32)
        self.located = store.located()
        self.slice_fracture = slice_fractures(store)
        self.slice_box = slice_boxes(store)


def slice_fractures(store: Store) -> npt.NDArray[np.int8]:
    """int8 (study, level, z): 1 if a fracture is marked in the slice, 0 if not, -1 unknown.

    A level labelled negative is 0 in all slices, even if a box of its neighbour extends into its crop. A
    level labelled positive is 1 in the slices that its boxes cross, and 0 in the others; a box belongs to the
    level that has most of the pixels in it. Unknown are: a positive level without a box (so every positive
    level of a study without boxes), the slices of a positive level that are crossed by a box without a level,
    and a level without a label or a crop.
    """
    table = store.table
    located, fracture = store.located(), table["fracture"]
    values = np.full((*located.shape, store.recipe.crop.shape[0]), UNKNOWN, np.int8)
    values[located & (fracture == 0)] = 0
    boxes = list(_boxes_of_positive_levels(store))
    for study, level, _ in boxes:
        values[study, level] = 0 if located[study, level] else UNKNOWN
    without_level = table["box_level"] < 0
    for study, box in zip(table["box_study"][without_level], table["box_crop"][without_level], strict=True):
        for other in np.flatnonzero(fracture[study] == 1).tolist():
            values[study, other, _crossed(box[other], values.shape[2])] = UNKNOWN
    for study, level, box in boxes:
        values[study, level, _crossed(box, values.shape[2])] = 1
    return values


def slice_boxes(store: Store) -> npt.NDArray[np.float32]:
    """float32 (study, level, z, 4): see `Targets`."""
    located = store.located()
    values = np.full((*located.shape, store.recipe.crop.shape[0], 4), np.nan, np.float32)
    for study, level, box in _boxes_of_positive_levels(store):
        crossed = values[study, level, _crossed(box, values.shape[2])]
        low, high = np.fmin(crossed[:, :2], box[1:3]), np.fmax(crossed[:, 2:], box[4:6])
        values[study, level, _crossed(box, values.shape[2])] = np.concatenate([low, high], axis=1)
    values[np.isnan(values).any(axis=-1)] = NO_BOX
    return values


def _boxes_of_positive_levels(store: Store) -> Iterator[tuple[int, int, npt.NDArray[np.float32]]]:
    """Study, level and (6,) corners, in that level's crop, of each box whose level is labelled positive."""
    table = store.table
    boxes = zip(table["box_study"].tolist(), table["box_level"].tolist(), table["box_crop"], strict=True)
    for study, level, box in boxes:
        if level >= 0 and table["fracture"][study, level] == 1:
            yield study, level, box[level]


def _crossed(box: npt.NDArray[np.float32], depth: int) -> npt.NDArray[np.bool_]:
    """(z,): whether a box (z0, y0, x0, z1, y1, x1) overlaps each slice, z - 0.5 to z + 0.5; False if NaN.

    A box that only touches a slice's face does not overlap it.
    """
    z = np.arange(depth)
    tolerance = 1e-3  # the bounds are float32, and a box may end where a slice begins
    crossed: npt.NDArray[np.bool_] = (z + 0.5 > box[0] + tolerance) & (z - 0.5 < box[3] - tolerance)
    return crossed
