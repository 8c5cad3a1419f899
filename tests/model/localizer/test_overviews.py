"""Overviews of segmented studies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from model.localizer.overviews import Overviews, segmented_studies
from spine_etl.store import Store
from spine_etl.store.record import LevelRecord


def test_only_studies_with_their_own_segmentation_are_segmented(
    tmp_path: Path, build_store: Callable[..., Store]
) -> None:
    store = build_store(tmp_path / "store", 4, {1: {"mask_source": "none"}, 2: {"mask_source": "predicted"}})
    assert segmented_studies(store).tolist() == [0, 3]


def test_study_with_an_ambiguous_level_is_not_segmented(
    tmp_path: Path, build_store: Callable[..., Store]
) -> None:
    levels = {"C1": LevelRecord(status="ambiguous"), "C2": LevelRecord(status="absent")}
    store = build_store(tmp_path / "store", 3, {1: {"levels": levels}})
    assert segmented_studies(store).tolist() == [0, 2]


def test_overviews_hold_hu_and_classes(tiny_store: Store) -> None:
    overviews = Overviews(tiny_store, np.array([1]))
    np.testing.assert_array_equal(overviews.images[0].numpy(), tiny_store.read("overview/image", 1))
    # The tiny recipe's labels are 1 and 2 in the order of its levels: they equal their classes.
    np.testing.assert_array_equal(overviews.classes[0].numpy(), tiny_store.read("overview/mask", 1))
