"""What is to be learnt: labels of studies, levels and slices, and which studies are held out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from spine_etl.errors import FoldInvalid
from spine_etl.store import Store
from spine_etl.store.record import UNKNOWN

NO_BOX = (0.0, 0.0, -1.0, -1.0)
"""A box that holds nothing: it ends before it begins."""

Indices = npt.NDArray[np.int64]

TARGET_FIELDS = ("labels", "known", "located", "slice_fracture", "slice_box")
"""The arrays of `Targets`."""


def with_crops(store: Store) -> Indices:
    """Studies with at least one located level, labelled or not: what a model can be asked about."""
    return np.flatnonzero(store.located().any(axis=1))


def split(store: Store, fold: int) -> tuple[Indices, Indices]:
    """Studies to train on and studies held out, by the store's own folds, each in rising order.

    Only studies that have a crop and whose ``patient_overall`` is known.

    Raises
    ------
    FoldInvalid
        If the store has no such fold, or no fractured study is held out, or none is left to train on.
    """
    folds, overall = store.table["fold"], store.table["patient_overall"]
    if fold not in range(store.recipe.folds):
        raise FoldInvalid(f"there is no fold {fold}: the store has folds 0 to {store.recipe.folds - 1}.")
    studies = with_crops(store)
    studies = studies[overall[studies] != UNKNOWN]
    held_out = studies[folds[studies] == fold]
    train = studies[folds[studies] != fold]
    for name, part in ((f"fold {fold}", held_out), (f"the training set beside fold {fold}", train)):
        if not (overall[part] == 1).any():
            raise FoldInvalid(f"{name} holds no fractured study among {len(part)} with crops and labels.")
    return train, held_out


def study_labels(store: Store, studies: Indices) -> npt.NDArray[np.float64]:
    """(studies, levels + 1): 0, 1 or -1 (unknown); the last column is patient_overall."""
    table = store.table
    labels = np.concatenate([table["fracture"], table["patient_overall"][:, None]], axis=1)
    chosen: npt.NDArray[np.float64] = labels[studies].astype(np.float64)
    return chosen


class Targets:
    """What is to be learnt of every study of a version; row i belongs to study i.

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
        float32 (study, level, z, 4): where in that slice, as y0, x0, y1, x1 in the crop's voxels; `NO_BOX`
        where no box is the level's own. Where boxes are several, what holds them all.
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
    """int8 (study, level, z): 1 fracture marked in the slice, 0 none, -1 unknown.

    A level labelled negative is 0 throughout, whatever box of a neighbour reaches into its crop. A level
    labelled positive takes the boxes that are its own (most pixels under them are its own): 1 in the slices
    they cross, 0 in its others. Unknown are: a positive level without a box of its own (all of a study that
    has no boxes), the slices of a positive level that a box of no level crosses, a level without label or
    without crop.
    """
    table = store.table
    located, fracture = store.located(), table["fracture"]
    values = np.full((*located.shape, store.recipe.crop.shape[0]), UNKNOWN, np.int8)
    values[located & (fracture == 0)] = 0
    own = list(_own_boxes(store))
    for study, level, _ in own:
        values[study, level] = 0 if located[study, level] else UNKNOWN
    of_no_level = table["box_level"] < 0
    for study, box in zip(table["box_study"][of_no_level], table["box_crop"][of_no_level], strict=True):
        for other in np.flatnonzero(fracture[study] == 1).tolist():
            values[study, other, _crossed(box[other], values.shape[2])] = UNKNOWN
    for study, level, box in own:
        values[study, level, _crossed(box, values.shape[2])] = 1
    return values


def slice_boxes(store: Store) -> npt.NDArray[np.float32]:
    """float32 (study, level, z, 4): see `Targets`."""
    located = store.located()
    values = np.full((*located.shape, store.recipe.crop.shape[0], 4), np.nan, np.float32)
    for study, level, box in _own_boxes(store):
        crossed = values[study, level, _crossed(box, values.shape[2])]
        low, high = np.fmin(crossed[:, :2], box[1:3]), np.fmax(crossed[:, 2:], box[4:6])
        values[study, level, _crossed(box, values.shape[2])] = np.concatenate([low, high], axis=1)
    values[np.isnan(values).any(axis=-1)] = NO_BOX
    return values


def _own_boxes(store: Store) -> Iterator[tuple[int, int, npt.NDArray[np.float32]]]:
    """Study, level and (6,) corners of each box whose level is labelled positive."""
    table = store.table
    boxes = zip(table["box_study"].tolist(), table["box_level"].tolist(), table["box_crop"], strict=True)
    for study, level, box in boxes:
        if level >= 0 and table["fracture"][study, level] == 1:
            yield study, level, box[level]


def _crossed(box: npt.NDArray[np.float32], depth: int) -> npt.NDArray[np.bool_]:
    """(z,): the slices, from z - 0.5 to z + 0.5, that a box (z0, y0, x0, z1, y1, x1) reaches into, and not
    just up to; none where it is NaN."""
    z = np.arange(depth)
    touch = 1e-3  # the bounds are float32: a box may end where a slice begins
    crossed: npt.NDArray[np.bool_] = (z + 0.5 > box[0] + touch) & (z - 0.5 < box[3] - touch)
    return crossed
