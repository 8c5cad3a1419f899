from __future__ import annotations

import numpy as np
import pytest

from spine_etl.recipe import Recipe, load_recipe
from spine_etl.segmentation.curve import head_to_foot, spine_of, vertebra_region

LEVELS = ["C1", "C2", "C3", "C4", "C5", "C6", "C7"]


def straight(step_mm: float = 17.0) -> dict[str, np.ndarray]:
    return {name: np.array([0.0, 0.0, -step_mm * k]) for k, name in enumerate(LEVELS)}


def renamed(centers: dict[str, np.ndarray], **names: str) -> dict[str, np.ndarray]:
    return {name: centers[names.get(name, name)] for name in centers}


def recipe(levels: dict[str, int], others: dict[str, int]) -> Recipe:
    block = load_recipe("quick").crop
    return Recipe(name="", levels=levels, other_labels=others, crop=block, overview=block)


def test_vertebrae_are_ordered_by_their_names() -> None:
    names = [name for name, _ in head_to_foot(load_recipe("rsna2022"))]
    assert names == LEVELS + [f"T{k}" for k in range(1, 13)]
    mixed = recipe({"C6": 1, "C7": 2}, {"L1": 5, "T12": 4, "T2": 3, "C5": 9})
    assert head_to_foot(mixed) == [("C5", 9), ("C6", 1), ("C7", 2), ("T2", 3), ("T12", 4), ("L1", 5)]


def test_other_names_leave_the_levels_in_the_recipes_order() -> None:
    assert head_to_foot(recipe({"top": 3, "bottom": 1}, {"C1": 7})) == [("top", 3), ("bottom", 1)]
    against_names = recipe({"C7": 1, "C6": 2}, {"T1": 3})
    assert head_to_foot(against_names) == [("C7", 1), ("C6", 2)]


@pytest.mark.parametrize(
    ("name", "region"),
    [("C1", "C"), ("T12", "T"), ("Th3", "T"), ("D4", "T"), ("L5", "L"), ("S1", "S"), ("a", "T")],
)
def test_region_of_a_name(name: str, region: str) -> None:
    assert vertebra_region(name) == region


def test_a_straight_spine_has_no_detour() -> None:
    spine = spine_of(straight(), LEVELS)
    assert spine.levels == spine.exchanged == tuple(LEVELS)
    assert spine.distances_mm == pytest.approx([17.0] * 6)
    assert (spine.detour_mm, spine.descent_mm, spine.missing) == (0, pytest.approx(102), ())


@pytest.mark.parametrize(
    ("a", "b", "detour"),
    [("C3", "C4", 34), ("C1", "C2", 17), ("C6", "C7", 17), ("C2", "C6", 17 * (5 + 3 + 3 + 5 + 0) - 4 * 17)],
)
def test_detour_of_exchanged_levels(a: str, b: str, detour: float) -> None:
    """On a line: C3 and C4 exchanged add two steps of 17 mm, a pair at an end one, a distant pair 12."""
    spine = spine_of(renamed(straight(), **{a: b, b: a}), LEVELS)
    assert spine.detour_mm == pytest.approx(detour)
    assert spine.exchanged.index(b) < spine.exchanged.index(a)


def test_c1_and_c2_almost_at_the_same_height_are_told_apart_along_the_curve() -> None:
    centers = straight()
    centers["C1"] = centers["C2"] + np.array([0, 12.0, 7.6])
    assert spine_of(centers, LEVELS).detour_mm == 0
    exchanged = spine_of(renamed(centers, C1="C2", C2="C1"), LEVELS)
    # From C1 past C2 to C3, less from C2 to C3.
    assert exchanged.detour_mm == pytest.approx(np.hypot(12, 7.6 + 17) - 17)
    assert exchanged.detour_mm > 6


def test_reversed_levels_ascend_without_a_detour() -> None:
    reverse = dict(zip(LEVELS, reversed(list(straight().values())), strict=True))
    spine = spine_of(reverse, LEVELS)
    assert (spine.detour_mm, spine.descent_mm) == (0, pytest.approx(-102))


def test_missing_levels_are_those_between_others() -> None:
    centers = straight()
    for name in ("C1", "C3", "C4", "C7"):
        del centers[name]
    assert spine_of(centers, LEVELS).missing == ("C3", "C4")
    assert spine_of({}, LEVELS).missing == ()
