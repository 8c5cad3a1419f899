"""Each limit of the relabelling on both sides, in mm and mm3 and not in voxels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.localizer.level_order import LevelOrder
from model.localizer.localizer import Localizer
from model.localizer.relabel import Relabelled, relabel
from model.localizer.score import score_volume
from spine_etl.recipe import load_recipe
from tests.model.localizer.necks import K, Labels, neck
from tests.model.localizer.untrained import save_untrained_fold


def wide_neck() -> Labels:
    """Vertebrae of 3000 voxels and more, in y 18 to 59 and x 24 to 47, with empty space behind them."""
    return np.pad(neck(overlap=0).repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (0, 30), (0, 0)))


def extent(labels: Labels, level: int) -> tuple[int, int]:
    """The first slice of a level and the one after its last."""
    z = np.flatnonzero((labels == level).any(axis=(1, 2)))
    return int(z[0]), int(z[-1]) + 1


def predicted(labels: Labels, certain: float = 0.97) -> np.ndarray:
    """Probabilities of these classes; all others are equally unlikely."""
    probabilities = np.full((K + 2, *labels.shape), (1 - certain) / (K + 1), dtype=np.float32)
    np.put_along_axis(probabilities, labels[None], certain, axis=0)
    return probabilities


def relabelled(labels: Labels, order: LevelOrder, spacing_mm: float = 1.0) -> Relabelled:
    return relabel(labels, predicted(labels), order, spacing_mm)


@pytest.mark.parametrize(
    ("voxels", "spacing_mm", "kept"),
    [
        (500, 1.0, True),
        (499, 1.0, False),
        (500, 0.999, False),  # 498.5 mm3
        (499, 1.001, True),  # 500.5 mm3
    ],
)
def test_component_below_500_mm3_is_removed(
    order: LevelOrder, voxels: int, spacing_mm: float, kept: bool
) -> None:
    labels = wide_neck()
    first, _ = extent(labels, 2)
    speck = np.zeros_like(labels, dtype=bool)
    speck[first : first + 5, 62:72, 30:40] = True
    speck[first, 62, 30] = voxels == 500
    expected = np.where(speck & kept, 2, labels)
    result = relabelled(np.where(speck, 2, labels), order, spacing_mm)
    np.testing.assert_array_equal(result.labels, expected)


@pytest.mark.parametrize(
    ("voxels", "spacing_mm", "level"),
    [(1500, 1.0, 6), (1499, 1.0, 5), (1500, 0.9999, 5), (1499, 1.0005, 6)],
)
def test_component_of_1500_mm3_gets_the_level_of_its_slices(
    order: LevelOrder, voxels: int, spacing_mm: float, level: int
) -> None:
    """A smaller one is a fragment: it keeps the level of the vertebra above, which it is close to."""
    labels = wide_neck()
    _, end = extent(labels, 6)
    fragment = np.zeros_like(labels, dtype=bool)
    fragment[end - 4 : end, 62:77, 20:45] = True  # 3 voxels behind both arches, 4 slices of 375
    fragment[end - 4, 76, 44] = voxels == 1500
    result = relabelled(np.where(fragment, 5, labels), order, spacing_mm)
    np.testing.assert_array_equal(result.labels, np.where(fragment, level, labels))


@pytest.mark.parametrize(
    ("gap", "spacing_mm", "kept"),
    [
        ((10, 0), 1.0, True),
        ((11, 0), 1.0, False),
        ((6, 8), 1.0, True),  # 10 along the diagonal
        ((7, 8), 1.0, False),  # 10.6
        ((8, 0), 1.25, True),
        ((8, 0), 1.26, False),  # 10.08
    ],
)
def test_piece_farther_than_10_mm_from_its_vertebra_is_dropped(
    order: LevelOrder, gap: tuple[int, int], spacing_mm: float, kept: bool
) -> None:
    """The distance is measured between the centres of the nearest voxels, across the arch's corner."""
    labels = wide_neck()
    first, end = extent(labels, 2)
    y, x = 59 + gap[0], 41 + gap[1]  # the arch ends in y 59 and x 41
    piece = np.zeros_like(labels, dtype=bool)
    piece[first:end, y : y + 12, x : x + 12] = True
    assert piece.sum() * spacing_mm**3 >= 500
    result = relabelled(np.where(piece, 2, labels), order, spacing_mm)
    np.testing.assert_array_equal(result.labels, np.where(piece & kept, 2, labels))


def column_neck(areas: dict[int, int]) -> Labels:
    """Vertebrae of five slices; in each slice, that many voxels in a row."""
    slices = [0] * 6 + [level for level in range(1, K + 1) for _ in range(5)] + [K + 1] * 8
    labels = np.zeros((len(slices), 1, 600), dtype=np.int64)
    for z, level in enumerate(slices):
        labels[z, 0, : areas.get(level, 300)] = level
    return labels[::-1].copy()


def test_component_is_cut_from_a_quarter_on() -> None:
    """C4 has the label of C5, which it touches; the smaller C4 is, the smaller is its share of the two."""
    order = LevelOrder.fit([column_neck({})] * 30, K)
    below, above = [], []
    for area in range(92, 110):
        true = column_neck({4: area})
        labels = np.where(true == 4, 5, true)
        result = relabelled(labels, order, 3.0)
        voxels = (labels == 5).sum(axis=(1, 2))  # alone in its slices
        share = (voxels @ result.posterior)[4] / voxels.sum()
        was_cut = bool((result.labels == 4).any())
        assert was_cut == (share >= 0.25), share
        (above if was_cut else below).append(share)
    assert 0.247 < max(below) < 0.25 < min(above) < 0.253


@pytest.mark.parametrize(("certain", "confidence"), [(1.0, 0.5), (0.8, 0.4), (0.5, 0.25)])
def test_relabelled_level_has_half_of_its_certainty(
    order: LevelOrder, certain: float, confidence: float
) -> None:
    labels = neck(overlap=0)
    swapped = labels.copy()
    swapped[labels == 4], swapped[labels == 5] = 5, 4
    result = relabel(swapped, predicted(swapped, certain), order, 3.0)
    np.testing.assert_array_equal(result.labels, labels)
    for level in (4, 5):
        z = np.flatnonzero((labels == level).any(axis=(1, 2)))
        at_middle = result.posterior[z[len(z) // 2], level]
        assert result.confidence[level - 1] == pytest.approx(confidence * at_middle, rel=1e-5)
    assert result.confidence[0] == pytest.approx(certain, rel=0.03)


def test_posterior_counts_in_the_middle_slice_of_the_level() -> None:
    """At the ends of a level it is lower, because a boundary may be a slice off."""
    heights = np.random.default_rng(0).integers(3, 8, (40, K))
    maps = [neck(tuple(row.tolist()), overlap=0) for row in heights]
    labels = neck((5, 5, 5, 5, 5, 5, 5), overlap=0)
    labels[:, 13:20] = 0  # without arches and without discs, slices of neighbours overlap
    for level in range(1, K):
        first, _ = extent(labels, level)
        labels[first - 1] = np.where(labels[first] > 0, level, 0)
    result = relabel(labels, predicted(labels, 1.0), LevelOrder.fit(maps, K), 3.0)
    differences = []
    for level in range(2, K):
        z = np.flatnonzero((result.labels == level).any(axis=(1, 2)))
        lowest, middle, highest = result.posterior[z[[0, len(z) // 2, -1]], level]
        assert result.confidence[level - 1] == pytest.approx(middle, rel=1e-6)
        differences += [middle - lowest, middle - highest]
    assert max(differences) > 1e-3


class OneAnswer(Localizer):
    """A localizer that gives the same probabilities for every image."""

    answer: np.ndarray

    def mean_probabilities(self, *_: Any) -> np.ndarray:
        return self.answer


def test_score_counts_levels_from_a_confidence_of_one_half_on(order: LevelOrder, tmp_path: Path) -> None:
    recipe = load_recipe("quick")
    save_untrained_fold(tmp_path, recipe)
    localizer = OneAnswer(tmp_path)
    labels = neck(overlap=0)
    confidences: list[float] = []
    for certain in np.linspace(0.514, 0.520, 8):
        localizer.answer = predicted(labels, certain)
        score, network_only = score_volume(localizer, recipe, labels.astype(np.int16), labels, fold=0)
        present = ~np.isnan(score.predicted_centres[:, 0])
        np.testing.assert_array_equal(present, score.confidence >= 0.5)
        np.testing.assert_array_equal(score.dice, present.astype(float))
        np.testing.assert_array_equal(network_only.dice, np.ones(K))
        confidences += score.confidence.tolist()
    assert max(c for c in confidences if c < 0.5) > 0.499
    assert min(c for c in confidences if c >= 0.5) < 0.501
