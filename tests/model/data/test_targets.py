"""Labels of studies, levels and slices, and the split by folds, against values computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.targets import NO_BOX, Targets, split, with_crops
from spine_etl.errors import FoldInvalid
from spine_etl.store import Store
from spine_etl.store.record import BoxRecord, LevelRecord

Build = Callable[..., Store]
ABSENT = LevelRecord(status="absent")
LOCATED = LevelRecord(status="located", origin_mm=(0.0, 0.0, 0.0))


def box(level: str | None, **in_crops: tuple[float, float]) -> BoxRecord:
    """A box of that level; ``C1=(z0, z1)`` is its extent along z in that crop."""
    corners = {name: (z0, 1.0, 1.0, z1, 3.0, 3.0) for name, (z0, z1) in in_crops.items()}
    return BoxRecord(x=1, y=1, width=2, height=2, slice_number=1, level=level, in_crops=corners)


def test_split_follows_the_store_folds(tiny_store: Store) -> None:
    for fold in range(3):
        train, held_out = split(tiny_store, fold)
        assert sorted([*train, *held_out]) == list(range(12))
        assert set(tiny_store.table["fold"][held_out]) == {fold}
        assert fold not in tiny_store.table["fold"][train]


def test_split_needs_crops_and_labels(tmp_path: Path, build_store: Build) -> None:
    unlabelled = {"fracture": {}}
    without = {"levels": {"C1": ABSENT, "C2": ABSENT}}
    store = build_store(tmp_path, 12, {2: unlabelled, 3: without})
    assert with_crops(store).tolist() == [0, 1, 2, *range(4, 12)]
    assert sorted(np.concatenate(split(store, 0))) == [0, 1, *range(4, 12)]


@given(seed=st.integers(0, 2**32 - 1), folds=st.integers(2, 5))
@settings(max_examples=100, deadline=None)
def test_each_usable_study_is_held_out_once_and_never_trained_on_then(seed: int, folds: int) -> None:
    """Usable: at least one level located, and a known label of the patient."""
    random = np.random.default_rng(seed)
    fold = np.concatenate([np.arange(folds), random.integers(0, folds, 20)])
    overall = np.concatenate([np.ones(folds, int), random.integers(-1, 2, 20)])
    located = np.concatenate([np.ones((folds, 2), bool), random.random((20, 2)) < 0.6])
    shuffled = random.permutation(len(fold))
    fold, overall, located = fold[shuffled], overall[shuffled], located[shuffled]
    store: Any = SimpleNamespace(
        table={"fold": fold, "patient_overall": overall},
        located=lambda: located,
        recipe=SimpleNamespace(folds=folds),
    )
    usable = [k for k in range(len(fold)) if overall[k] >= 0 and (located[k][0] or located[k][1])]
    everywhere: list[int] = []
    for number in range(folds):
        train, held_out = (part.tolist() for part in split(store, number))
        assert train == [k for k in usable if fold[k] != number]
        assert held_out == [k for k in usable if fold[k] == number]
        everywhere += held_out
    assert sorted(everywhere) == usable


def test_unusable_folds_are_refused(tmp_path: Path, build_store: Build) -> None:
    store = build_store(tmp_path, 6)  # three fractured studies, one in each fold
    with pytest.raises(FoldInvalid, match="folds 0 to 2"):
        split(store, 3)
    negative = {"fracture": {"C1": 0, "C2": 0, "patient_overall": 0}}
    one_fractured = build_store(tmp_path / "one", 6, {3: negative, 5: negative})
    its_fold = int(one_fractured.table["fold"][1])
    with pytest.raises(FoldInvalid, match=f"training set for fold {its_fold}"):
        split(one_fractured, its_fold)
    with pytest.raises(FoldInvalid, match=f"fold {(its_fold + 1) % 3} has no fractured study among"):
        split(one_fractured, (its_fold + 1) % 3)


def test_labels_are_levels_then_patient(tmp_path: Path, build_store: Build) -> None:
    store = build_store(
        tmp_path,
        3,
        {
            0: {"fracture": {"C1": 0, "C2": 1, "patient_overall": 1}},
            1: {"fracture": {"C2": 1}},
            2: {"levels": {"C1": LOCATED, "C2": ABSENT}},
        },
    )
    targets = Targets(store)
    assert targets.labels.tolist() == [[0, 1, 1], [0, 1, 0], [0, 0, 0]]
    assert targets.known.tolist() == [[True] * 3, [False, True, False], [True] * 3]
    assert targets.located.tolist() == [[True, True], [True, True], [True, False]]


def test_slice_labels_from_boxes(tmp_path: Path, build_store: Build) -> None:
    both = {"C1": 1, "C2": 1, "patient_overall": 1}
    only_first = {"C1": 1, "C2": 0, "patient_overall": 1}
    store = build_store(
        tmp_path,
        7,
        {
            # From the face between slices 1 and 2 to the middle of 3; C2 has no box.
            0: {"fracture": both, "boxes": (box("C1", C1=(1.5, 3.0), C2=(-2.0, 0.4)),)},
            # C2 is labelled unfractured, so a box in its crop, even one assigned to it, does not count.
            1: {
                "fracture": only_first,
                "boxes": (box("C1", C1=(4.9, 9.0), C2=(0.0, 1.0)), box("C2", C2=(2, 3))),
            },
            2: {"fracture": both},  # no boxes at all
            3: {"fracture": only_first, "boxes": (box("C1", C1=(0.6, 1.4)), box(None, C1=(1.0, 2.0)))},
            4: {"fracture": {}, "boxes": (box("C1", C1=(0.6, 1.4)),)},
            5: {
                "levels": {"C1": LOCATED, "C2": ABSENT},
                "fracture": only_first,
                "boxes": (box("C1", C1=(0, 1)),),
            },
        },
    )
    assert Targets(store).slice_fracture.tolist() == [
        [[0, 0, 1, 1, 0, 0], [-1] * 6],
        [[0, 0, 0, 0, 0, 1], [0] * 6],
        [[-1] * 6, [-1] * 6],
        [[0, 1, -1, 0, 0, 0], [0] * 6],
        [[-1] * 6, [-1] * 6],
        [[1, 1, 0, 0, 0, 0], [-1] * 6],
        [[0] * 6, [0] * 6],
    ]


def test_slice_boxes_enclose_all_boxes_of_a_slice(tmp_path: Path, build_store: Build) -> None:
    def at(z0: float, y0: float, x0: float, z1: float, y1: float, x1: float) -> BoxRecord:
        corners = {"C1": (z0, y0, x0, z1, y1, x1), "C2": (z0, y0, x0, z1, y1, x1)}
        return BoxRecord(x=0, y=0, width=1, height=1, slice_number=1, level="C1", in_crops=corners)

    only_first = {"C1": 1, "C2": 0, "patient_overall": 1}
    boxes = (at(0.6, 1, 2, 2.4, 3, 4), at(1.6, 2, 1, 3.4, 5, 3))
    store = build_store(tmp_path, 3, {0: {"fracture": only_first, "boxes": boxes}})
    first, second, both = (1, 2, 3, 4), (2, 1, 5, 3), (1, 1, 5, 4)
    slice_box = Targets(store).slice_box
    assert slice_box[0, 0].tolist() == [list(b) for b in (NO_BOX, first, both, second, NO_BOX, NO_BOX)]
    assert (slice_box[0, 1] == NO_BOX).all()
    assert (slice_box[1:] == NO_BOX).all()
