"""The levels along the curve of the spine: their order, the distances between them, and those left out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import dist
from statistics import median

from spine_etl.geometry import FloatArray
from spine_etl.recipe import Recipe

_VERTEBRA = re.compile(r"(C|TH?|D|L|S)_?([0-9]{1,2})", re.IGNORECASE)
_REGIONS = {"C": "C", "T": "T", "TH": "T", "D": "T", "L": "L", "S": "S"}


@dataclass(frozen=True)
class Spine:
    """The levels of a mask from head to foot, by their recipe's order.

    Attributes
    ----------
    levels
        Names of the levels that the mask shows.
    distances_mm
        From each to the next.
    detour_mm
        How much longer the way through their centres is, in this order, than the shortest way found.
    exchanged
        The names in the order of the shortest way; equal to ``levels`` if there is no detour.
    descent_mm
        How far the last centre is below the first.
    missing
        Levels that the recipe names between two of ``levels``.
    """

    levels: tuple[str, ...]
    distances_mm: tuple[float, ...]
    detour_mm: float
    exchanged: tuple[str, ...]
    descent_mm: float
    missing: tuple[str, ...]


def head_to_foot(recipe: Recipe) -> list[tuple[str, int]]:
    """Name and label number of all vertebrae in the recipe, from head to foot.

    `Recipe.levels` has this order. `Recipe.other_labels` need not, so they are included only if all names are
    those of vertebrae (C1, T12, L5), which have an order of their own.
    """
    levels = list(recipe.levels.items())
    everything = [*levels, *recipe.other_labels.items()]
    matches = [_VERTEBRA.fullmatch(name) for name, _ in everything]
    if not all(matches):
        return levels
    keys = [("CTLS".index(_REGIONS[m[1].upper()]), int(m[2])) for m in matches if m]
    ranked = [pair for _, pair in sorted(zip(keys, everything, strict=True), key=lambda item: item[0])]
    in_order = [pair for pair in ranked if pair in levels]
    return ranked if in_order == levels and len(set(keys)) == len(keys) else levels


def spine_of(centers_mm: Mapping[str, FloatArray], order: Sequence[str]) -> Spine:
    """The levels with a centre (LPS), which are among ``order``, as a curve."""
    levels = tuple(name for name in order if name in centers_mm)
    points = [tuple(centers_mm[name].tolist()) for name in levels]
    shortest = _shortest_way(points)
    first, last = (order.index(levels[0]), order.index(levels[-1])) if levels else (0, -1)
    return Spine(
        levels=levels,
        distances_mm=tuple(dist(a, b) for a, b in pairwise(points)),
        detour_mm=_length(points) - _length([points[k] for k in shortest]),
        exchanged=tuple(levels[k] for k in shortest),
        descent_mm=points[0][2] - points[-1][2] if points else 0.0,
        missing=tuple(name for name in order[first : last + 1] if name not in centers_mm),
    )


def relative_distances(levels: Sequence[str], steps_mm: Sequence[float]) -> dict[str, float]:
    """By upper level: the distance to the next, over the median of up to two on each side.

    Distances from C1 have no part in it, and those from C2, whose dens moves its centre, are only compared.
    """
    relative = {}
    for k, name in enumerate(levels[:-1]):
        near = [
            steps_mm[other]
            for other in range(max(0, k - 2), min(len(steps_mm), k + 3))
            if other != k and levels[other] not in ("C1", "C2")
        ]
        if name != "C1" and near:
            relative[name] = steps_mm[k] / median(near)
    return relative


def vertebra_region(name: str) -> str:
    """C, T, L or S; T for a name that is not that of a vertebra."""
    match = _VERTEBRA.fullmatch(name)
    return _REGIONS[match[1].upper()] if match else "T"


def _length(points: Sequence[tuple[float, ...]]) -> float:
    return sum(dist(a, b) for a, b in pairwise(points))


def _shortest_way(points: Sequence[tuple[float, ...]]) -> list[int]:
    """An order of the points whose way no reversal of a part and no move of one point makes shorter."""
    way = list(range(len(points)))
    length = _length(points)
    improved = True
    while improved:
        improved = False
        for candidate in _neighbours(way):
            shorter = _length([points[k] for k in candidate])
            if shorter < length - 1e-6:
                way, length, improved = candidate, shorter, True
                break
    return way


def _neighbours(way: list[int]) -> list[list[int]]:
    n = len(way)
    reversals = [
        way[:i] + way[i:j][::-1] + way[j:] for i in range(n) for j in range(i + 2, n + 1) if j - i < n
    ]
    moves = []
    for i in range(n):
        rest = way[:i] + way[i + 1 :]
        moves += [[*rest[:j], way[i], *rest[j:]] for j in range(n) if j != i]
    return reversals + moves
