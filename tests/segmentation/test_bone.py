from __future__ import annotations

import numpy as np
import pytest

from spine_etl.geometry import Grid
from spine_etl.segmentation.bone import BoneFit, bone_fit
from spine_etl.volume import LabelMap, Volume

SHAPE = (60, 60, 60)
GRID = Grid.canonical((0, 0, 0), SHAPE, 2.0)
INDEX = np.indices(SHAPE)


def ball(center: tuple[float, float, float], radius: float) -> np.ndarray:
    """Voxels (2 mm) within a radius in voxels."""
    return np.linalg.norm(INDEX - np.array(center)[:, None, None, None], axis=0) <= radius


def fit(hu: np.ndarray, labels: np.ndarray, grid: Grid = GRID) -> BoneFit:
    index = np.argwhere(labels)
    label_map = LabelMap(labels.astype(np.uint8), GRID)
    return bone_fit(label_map, Volume(hu.astype(np.int16), grid), index.min(axis=0), index.max(axis=0))


def neck() -> tuple[np.ndarray, np.ndarray]:
    """Three balls of bone, each labelled, one above the other."""
    labels = np.zeros(SHAPE, np.uint8)
    for label, z in ((3, 17), (2, 29), (1, 41)):
        labels[ball((z, 30, 30), 5)] = label
    return np.where(labels > 0, 700, 40), labels


@pytest.mark.parametrize("share", [0.55, 0.75, 0.95])
def test_auc_is_the_probability_of_being_brighter(share: float) -> None:
    """Under labels bone in a share of the voxels and fat in the others; around them soft tissue."""
    hu, labels = neck()
    bright = np.random.default_rng(0).random(SHAPE) < share
    hu[labels > 0] = np.where(bright, 700, 10)[labels > 0]
    assert fit(hu, labels).auc == pytest.approx(share, abs=0.03)


def test_the_right_labels_gain_nothing_anywhere() -> None:
    hu, labels = neck()
    result = fit(hu, labels)
    assert (result.auc, result.gain, result.shift_mm, result.level_gain, result.turn_gain) == (1, 0, 0, 0, 0)
    assert set(result.level_auc) == {1, 2, 3}
    assert result.points > 500


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("voxels", [-12, -5, 4, 9])
def test_shift_is_measured_in_millimetres(axis: int, voxels: int) -> None:
    hu, labels = neck()
    result = fit(hu, np.roll(labels, voxels, axis))
    assert result.shift_mm == pytest.approx(abs(voxels) * 2, abs=2)
    assert result.gain > 0.2


def test_a_shift_by_one_vertebra_is_found_by_the_outermost_one() -> None:
    hu, labels = neck()
    result = fit(hu, np.roll(labels, -12, 0))
    assert result.shift_mm == pytest.approx(24, abs=2)
    assert result.gain > 0.15


def test_a_monotonic_change_of_hu_changes_nothing() -> None:
    hu, labels = neck()
    noisy = hu + np.random.default_rng(0).normal(0, 200, SHAPE)
    noisy = np.clip(noisy, 1, 1900)
    assert fit(noisy, labels).auc == pytest.approx(fit(noisy**2 / 1900, labels).auc, abs=0.01)


def test_a_label_drawn_within_the_cortex_still_covers_bone() -> None:
    hu, labels = neck()
    marrow = 100
    for z in (17, 29, 41):
        hu[ball((z, 30, 30), 5) & ~ball((z, 30, 30), 4)] = 900
        hu[ball((z, 30, 30), 4)] = marrow
        labels[ball((z, 30, 30), 5) & ~ball((z, 30, 30), 4)] = 0
    assert fit(hu, labels).auc > 0.7


def test_front_to_back_is_recognised() -> None:
    hu, labels = neck()
    for z in (17, 29, 41):
        spike = (np.abs(INDEX[0] - z) < 2) & (INDEX[1] > 30) & (INDEX[1] < 44) & (np.abs(INDEX[2] - 30) < 2)
        hu[spike] = 700
        labels[spike] = labels[z, 30, 30]
    box = slice(25, 44)
    labels[:, box] = labels[:, box][:, ::-1].copy()
    result = fit(hu, labels)
    assert result.turn_gain > 0.1 or result.gain > 0.1


def test_points_outside_the_ct_do_not_count() -> None:
    hu, labels = neck()
    lower = Grid((30, 60, 60), GRID.affine)
    whole, half = fit(hu, labels), fit(hu[:30], labels, lower)
    assert half.points == pytest.approx(whole.points / 2, rel=0.15)
    assert half.auc == 1
    away = Grid.canonical((0, 0, 500), SHAPE, 2.0)
    assert fit(hu, labels, away).points == 0


def test_metal_is_counted() -> None:
    hu, labels = neck()
    assert fit(hu, labels).metal == 0
    hu[ball((29, 30, 30), 2)] = 2900
    assert 0.001 < fit(hu, labels).metal < 0.05


def test_uneven_slices_are_taken_at_their_positions() -> None:
    """Slices up to 6 steps from their even position, with the HU of the neck there."""
    hu, labels = neck()
    share = np.linspace(0, 1, 60)
    coordinates = 59 * (share + 0.1 * np.sin(2 * np.pi * share))
    stored = hu[np.rint(coordinates).astype(int)].astype(np.int16)
    index = np.argwhere(labels)
    box = index.min(axis=0), index.max(axis=0)
    label_map = LabelMap(labels, GRID)
    assert bone_fit(label_map, Volume(stored, GRID, coordinates), *box).auc > 0.95
    assert bone_fit(label_map, Volume(stored, GRID), *box).auc < 0.85
