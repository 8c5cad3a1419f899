"""Whether each label is the whole of its vertebra.

Vertebrae are round, so a label that ends in one plane of voxels over much of its section was cut off there.
The centres of neighbours lie on a smooth curve and their boxes have similar sizes, so a label of the arch
alone, of one half, or with a leak stands out. All of this is a warning: tumours, surgery and malformations do
it too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import ceil

import numpy as np
import numpy.typing as npt

from spine_etl.errors import StudyWarning
from spine_etl.geometry import Grid
from spine_etl.jit import compiled
from spine_etl.recipe import Recipe
from spine_etl.segmentation.curve import head_to_foot
from spine_etl.segmentation.regions import LabelRegion, bounding_grid, label_regions, label_runs
from spine_etl.segmentation.runs import IntArray
from spine_etl.volume import LabelMap, Volume

_THIN_MM, _SINGLE_MM, _STRETCHES, _THIN_SHARE = 4.0, 6.0, 3, 0.5
_CUT_SHARE, _STEEP_SHARE, _STEEP, _STEEP_MM = 0.45, 0.2, 0.65, 2.0
_TOUCH_SHARE = 0.1
_FLAT_SHARE, _FLATTER_BY, _FLAT_MAX_MM = 0.9, 0.35, 3.5
_OFF_CURVE_MM, _AXIS_OFF_CURVE_MM, _END_OFF_CURVE_MM = 4.5, 6.0, 8.0
_SHORTER, _LONGER, _LONGER_MM = 0.65, 1.15, 8.0
_SIDES = (("right", "left"), ("anterior", "posterior"), ("inferior", "superior"))
_SPECK_SHARE = 0.05  # of the largest level: a smaller one is a stray
_FACES = tuple(product(range(3), (0, 1)))  # axis and side
_SMALL_CT_MM3 = 100_000.0


@dataclass(frozen=True, eq=False)
class Planes:
    """Voxels of a label in the planes across one axis of its map.

    ``section`` (planes,) is their number in each plane; ``ends`` (2, planes) the number of those with
    background, or nothing, in front of them (0) and behind them (1).
    """

    section: IntArray
    ends: IntArray

    def flat_share(self, side: int) -> float:
        """The most ends in one plane, as a share of the largest section."""
        return float(self.ends[side].max() / self.section.max())

    def border(self, side: int, deep: int) -> tuple[float, float]:
        """The section at the map's border, as shares of the largest one and of the next ``deep`` planes'."""
        section = self.section if side == 0 else self.section[::-1]
        return float(section[0] / section.max()), float(
            section[0] / max(1, section[1 : deep + 1].max(initial=0))
        )


def is_sparse(label_map: LabelMap) -> bool:
    """True if most labelled voxels are in thin layers with empty planes between them."""
    planes = label_planes(label_map).values()
    for axis, spacing in enumerate(label_map.grid.spacing_mm):
        section = np.sum([of[axis].section for of in planes], axis=0)
        if spacing > _SINGLE_MM or not section.any():
            continue
        ends = np.flatnonzero(np.diff(np.concatenate([[0], section > 0, [0]]))).reshape(-1, 2)
        thin = sum(int(section[a:b].sum()) for a, b in ends.tolist() if b - a <= max(1, _THIN_MM // spacing))
        if len(ends) >= _STRETCHES and thin > _THIN_SHARE * section.sum():
            return True
    return False


def check_complete(
    label_map: LabelMap, volume: Volume, recipe: Recipe, ambiguous: Collection[str] = ()
) -> tuple[StudyWarning, ...]:
    """Warn of levels that are cut off, out of line with their neighbours, or of another size.

    ``label_map`` holds the vertebrae without stray islands. A level that the CT itself cuts off is named only
    if the recipe crops it: at its ends nearly every CT of a neck cuts a thoracic vertebra.
    """
    if np.prod(volume.grid.shape) * abs(np.linalg.det(volume.grid.affine[:3, :3])) < _SMALL_CT_MM3:
        return ()
    regions = label_regions(label_map)
    order = head_to_foot(recipe)
    least = _SPECK_SHARE * max((region.volume_mm3 for region in regions.values()), default=0.0)
    levels = {
        name: regions[n]
        for name, n in order
        if n in regions and name not in ambiguous and regions[n].volume_mm3 > least
    }
    names = [name for name, _ in order]
    planes = label_planes(label_map)
    of = {name: planes[region.label] for name, region in levels.items()}
    at_border = {
        (axis, side): _cut_at_border(
            {name: of[name][axis] for name in of}, side, label_map.grid.spacing_mm[axis]
        )
        for axis, side in _FACES
    }
    whole = {n: region for n, region in levels.items() if not any(n in cut for cut in at_border.values())}
    in_plane = {
        (axis, side): _flat_levels({n: of[n][axis] for n in whole}, side, label_map.grid.spacing_mm[axis])
        for axis, side in _FACES
    }
    return (
        *_cut_warnings(levels, at_border, in_plane, label_map.grid, volume, recipe),
        *_curve_warnings(whole, names, float(label_map.grid.spacing_mm.max())),
        *_size_warnings(whole, names, label_map.grid),
    )


def _cut_warnings(
    levels: Mapping[str, LabelRegion],
    at_border: Mapping[tuple[int, int], set[str]],
    in_plane: Mapping[tuple[int, int], set[str]],
    grid: Grid,
    volume: Volume,
    recipe: Recipe,
) -> Iterator[StudyWarning]:
    for axis, side in _FACES:
        cut, flat = at_border[axis, side], in_plane[axis, side]
        goes_on = {name: _is_in_ct(levels[name], axis, side, grid, volume) for name in cut | flat}
        by_ct = {name for name in cut | flat if not goes_on[name]}
        for chosen, text in (
            (cut - by_ct, "cut off by the edge of the segmentation"),
            (by_ct & recipe.levels.keys(), "cut off by the edge of the CT"),
            (flat - by_ct, "cut off in a plane"),
        ):
            if chosen:
                named = ", ".join(name for name in levels if name in chosen)
                yield StudyWarning("LEVEL_CUT", f"{named}: {text} ({_side_name(grid, axis, side)}).")


def _cut_at_border(planes: Mapping[str, Planes], side: int, spacing_mm: float) -> set[str]:
    """Levels that the map's border cuts; a map that ends at the last voxel of its labels cuts none."""
    border = {name: of.border(side, ceil(_STEEP_MM / spacing_mm)) for name, of in planes.items()}
    if any(
        share > _CUT_SHARE or (share > _STEEP_SHARE and steep > _STEEP) for share, steep in border.values()
    ):
        return {name for name, (share, _) in border.items() if share > _TOUCH_SHARE}
    return set()


def _flat_levels(planes: Mapping[str, Planes], side: int, spacing_mm: float) -> set[str]:
    """Levels that end in a plane while most of the others do not."""
    if len(planes) < 3 or spacing_mm > _FLAT_MAX_MM:
        return set()
    shares = {name: of.flat_share(side) for name, of in planes.items()}
    usual = float(np.median(list(shares.values())))
    return {name for name, share in shares.items() if share > max(_FLAT_SHARE, usual + _FLATTER_BY)}


def _is_in_ct(region: LabelRegion, axis: int, side: int, grid: Grid, volume: Volume) -> bool:
    """True if the CT goes on beyond this side of a label."""
    beyond = (np.array(region.low) + region.high) / 2
    beyond[axis] = region.high[axis] + 1 if side else region.low[axis] - 1
    index = volume.grid.to_index(grid.to_mm(beyond))
    return bool((index > -0.25).all() and (index < np.array(volume.grid.shape) - 0.75).all())


def _side_name(grid: Grid, axis: int, side: int) -> str:
    direction = grid.affine[:3, axis] * (1 if side else -1)
    along = int(np.abs(direction).argmax())
    return _SIDES[along][int(direction[along] > 0)]


def _curve_warnings(
    levels: Mapping[str, LabelRegion], names: list[str], spacing_mm: float
) -> Iterator[StudyWarning]:
    off: dict[str, float] = {}
    for k, name in enumerate(names):
        above, below = names[k - 1] if k else "", names[k + 1] if k + 1 < len(names) else ""
        if name in levels and above in levels and below in levels:
            limit = _AXIS_OFF_CURVE_MM if name == "C2" else _OFF_CURVE_MM
            off[name] = _distance_mm(levels, name, above, below) / max(limit, spacing_mm)
        elif k == 0 and {*names[:3]} <= levels.keys() and len(names) > 2:
            off[name] = _distance_mm(levels, name, *names[1:3]) / max(_END_OFF_CURVE_MM, spacing_mm)
    for k, name in enumerate(names):
        near = max((off.get(n, 0.0) for n in names[max(0, k - 1) : k + 2] if n != name), default=0.0)
        if off.get(name, 0.0) > max(1.0, near):
            either = f"{name} or {names[1]}" if k == 0 else name  # the line to C1 runs through C2
            text = f"The centre of {either} is out of line with those of its neighbours."
            yield StudyWarning("LEVEL_OFF_CURVE", text)


def _distance_mm(levels: Mapping[str, LabelRegion], name: str, a: str, b: str) -> float:
    """From a level's centroid to the line through two others."""
    along = levels[b].centroid_mm - levels[a].centroid_mm
    across = np.cross(levels[name].centroid_mm - levels[a].centroid_mm, along)
    return float(np.linalg.norm(across) / max(float(np.linalg.norm(along)), 1e-6))


def _size_warnings(levels: Mapping[str, LabelRegion], names: list[str], grid: Grid) -> Iterator[StudyWarning]:
    """Heights are not compared, since that of C2 differs, nor the width of C2 with that of C1."""
    size = {n: np.ptp(bounding_grid(region, grid).corners_mm(), axis=0) for n, region in levels.items()}
    for k, name in enumerate(names):
        for axis, word in ((0, "wide"), (1, "deep")):
            beside = [n for n in names[max(0, k - 1) : k + 2] if n != name and n in size]
            near = [float(size[n][axis]) for n in beside]
            if name not in size or not near or (axis == 0 and beside == ["C1"]):
                continue
            own, low, high = float(size[name][axis]), min(near), max(near)
            long = len(near) == 2 and own > max(_LONGER * high, high + _LONGER_MM)
            if own < _SHORTER * low or long:
                text = f"{name} is {own:.0f} mm {word}, its neighbours {low:.0f} to {high:.0f} mm."
                yield StudyWarning("LEVEL_SIZE", text)


def label_planes(label_map: LabelMap) -> dict[int, tuple[Planes, Planes, Planes]]:
    """The planes of every label across each axis of the map."""
    labels = list(label_regions(label_map))
    number = np.full(256, -1, np.int64)
    number[labels] = np.arange(len(labels))
    runs = label_runs(label_map)
    longest = max(runs.shape)
    counts = np.zeros((len(labels), 3, 3, longest), np.int64)
    _count_planes(runs.table, runs.row_start, np.array(runs.shape), number, counts)
    return {
        label: tuple(  # type: ignore[misc]
            Planes(of[0, : runs.shape[axis]], of[1:, : runs.shape[axis]]) for axis, of in enumerate(counts[n])
        )
        for n, label in enumerate(labels)
    }


def warm_up() -> None:
    """Compile the kernel, or load it from numba's cache."""
    label_planes(LabelMap(np.ones((1, 1, 1), np.uint8), Grid((1, 1, 1), np.eye(4))))


@compiled
def _count_planes(
    table: npt.NDArray[np.int32], row_start: IntArray, shape: IntArray, number: IntArray, counts: IntArray
) -> None:
    """Fill ``counts`` (label, axis, section or end, plane)."""
    depth, height = shape[0], shape[1]
    for run in range(table.shape[0]):
        z, y, start, end = table[run, 0], table[run, 1], table[run, 2], table[run, 3]
        of = counts[number[table[run, 4]]]
        size = end - start
        of[0, 0, z] += size
        of[1, 0, y] += size
        for x in range(start, end):
            of[2, 0, x] += 1
        row = z * height + y
        if run == row_start[row] or table[run - 1, 3] < start:
            of[2, 1, start] += 1
        if run + 1 == row_start[row + 1] or table[run + 1, 2] > end:
            of[2, 2, end - 1] += 1
        for side in range(4):
            axis, step = side // 2, 2 * (side % 2) - 1
            near_z, near_y = z, y
            if axis == 0:
                near_z += step
            else:
                near_y += step
            plane = z if axis == 0 else y
            free = size
            if 0 <= near_z < depth and 0 <= near_y < height:
                near = near_z * height + near_y
                for other in range(row_start[near], row_start[near + 1]):
                    free -= max(0, min(end, table[other, 3]) - max(start, table[other, 2]))
            of[axis, 1 + side % 2, plane] += free
