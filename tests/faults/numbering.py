"""Masks whose numbers are wrong without a gap: levels merged, left out or counted on from another."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.faults.files import Mask, mask_of
from tests.faults.necks import Case

Fault = Callable[[Case, np.random.Generator], tuple[Case, Mask]]


def _by_table(one: Case, table: dict[int, int], above_mm: float = 0.0, above: int = 0) -> tuple[Case, Mask]:
    """Other numbers; with ``above_mm``, of a CT that ends so far above the centre of the level ``above``."""
    if above_mm:
        points = one.points_mm()
        center = points[one.labels == above][:, 2].mean()
        heights = points[:, 0, 0, 2]
        one = one.part(slice(0, int(np.count_nonzero(heights <= center + above_mm))))
    numbers = np.arange(256, dtype=np.uint8)
    for label, number in table.items():
        numbers[label] = number
    return one, mask_of(one, numbers[one.labels])


def _renumbered(table: dict[int, int], above_mm: float = 0.0, above: int = 0) -> Fault:
    return lambda one, rng: _by_table(one, table, above_mm, above)


def _merged(level: int) -> Fault:
    return _renumbered({k: k - 1 for k in range(level + 1, 10)})


def _left_out(level: int) -> Fault:
    return _renumbered({level: 0, **{k: k - 1 for k in range(level + 1, 10)}})


def _lower_half_of_c4(one: Case, rng: np.random.Generator) -> tuple[Case, Mask]:
    points = one.points_mm()
    lower = (one.labels == 4) & (points[..., 2] < np.median(points[one.labels == 4][:, 2]))
    return one, mask_of(one, np.where(lower, 5, one.labels).astype(np.uint8))


SIZE, DISTANCE, MISSING, NUMBERS = "LEVEL_SIZE", "LEVEL_DISTANCE", "LEVEL_MISSING", "NUMBERING_UNUSUAL"
_FROM_C2 = {1: 0, **{k: k + 1 for k in range(2, 10)}}
_FROM_C3_UP = {1: 0, 2: 0, **{k: k - 1 for k in range(3, 10)}}
_FROM_C3_DOWN = {1: 0, 2: 0, **{k: k + 1 for k in range(3, 10)}}
_ONLY_C2 = {1: 0, 2: 3, **dict.fromkeys(range(3, 10), 0)}

MISCOUNTED: dict[str, tuple[Fault, set[str]]] = {
    **{f"C{k} and the next as one, no gap": (_merged(k), {SIZE}) for k in range(2, 7)},
    **{f"C{k} left out, no gap": (_left_out(k), {DISTANCE}) for k in range(3, 7)},
    "C7 left out, T1 numbered C7": (_renumbered({7: 0, 8: 7, 9: 8}), {DISTANCE}),
    "C7 left out, T1 numbered C7, no more": (_renumbered({7: 0, 8: 7, 9: 0}), {DISTANCE}),
    "C7 includes T1, T2 numbered T1": (_renumbered({8: 7, 9: 8}), {SIZE}),
    "C7 includes T1, no more": (_renumbered({8: 7, 9: 0}), {SIZE}),
    **{f"from C2, numbered C3, CT to {mm} mm": (_renumbered(_FROM_C2, mm, 2), {NUMBERS}) for mm in (45, 55)},
    **{
        f"from C3, numbered C{2 if table is _FROM_C3_UP else 4}, CT to {mm} mm": (
            _renumbered(table, mm, 3),
            {MISSING},
        )
        for table in (_FROM_C3_UP, _FROM_C3_DOWN)
        for mm in (35, 55)
    },
    "only C2, numbered C3, CT to 59 mm": (_renumbered(_ONLY_C2, 59, 2), {MISSING}),
    "only C2, numbered C3, CT to 40 mm": (_renumbered(_ONLY_C2, 40, 2), {MISSING}),
    "lower half of C4 numbered C5": (_lower_half_of_c4, {SIZE, "LEVELS_FUSED"}),
}
"""By name: the fault, which may use a part of the CT, and the codes of which each study must have one."""
