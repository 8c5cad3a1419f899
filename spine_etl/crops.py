"""Where to cut: from a segmentation to one `Grid` for each vertebra, and fracture boxes onto those grids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from spine_etl.errors import GeometryInvalid, LabelUnknown, MaskOutsideVolume
from spine_etl.geometry import FloatArray, Grid
from spine_etl.jit import compiled
from spine_etl.recipe import Recipe
from spine_etl.volume import FractureBox, LabelMap, Volume

_FOUND: WeakKeyDictionary[LabelMap, Mapping[int, LevelBox]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class LevelBox:
    """What a segmentation says of one label.

    ``low`` and ``high`` are the first and the last index (z, y, x) of its voxels, in the label map;
    ``centroid_mm`` is the LPS mean of its voxel centres.
    """

    label: int
    voxels: int
    low: tuple[int, int, int]
    high: tuple[int, int, int]
    centroid_mm: FloatArray
    volume_mm3: float


def find_levels(label_map: LabelMap) -> Mapping[int, LevelBox]:
    """Every label of the map but the background, by number, found in one pass over the voxels.

    The answer is kept as long as the map itself, so that each question about it costs no further pass.
    """
    if label_map not in _FOUND:
        _FOUND[label_map] = _find_levels(label_map)
    return _FOUND[label_map]


def check_labels(label_map: LabelMap, recipe: Recipe) -> None:
    """Refuse labels that the recipe does not name.

    Raises
    ------
    LabelUnknown
        Naming them all.
    """
    known = {*recipe.levels.values(), *recipe.other_labels.values()}
    unknown = sorted(set(find_levels(label_map)) - known)
    if unknown:
        raise LabelUnknown(f"The segmentation holds labels {unknown}, which the recipe does not name.")


def check_overlap(label_map: LabelMap, ct: Grid) -> None:
    """Refuse a segmentation that lies, whole or with one of its labels, outside the CT.

    Raises
    ------
    MaskOutsideVolume
        Naming the labels.
    """
    if _apart(label_map.grid, ct):
        raise MaskOutsideVolume("The segmentation's voxels lie wholly outside the CT.")
    blocks = {label: _block(box, label_map.grid) for label, box in find_levels(label_map).items()}
    outside = [label for label, block in blocks.items() if _apart(block, ct)]
    if outside:
        raise MaskOutsideVolume(f"Labels {outside} of the segmentation lie wholly outside the CT.")


def check_slices(label_map: LabelMap, volume: Volume) -> None:
    """Refuse a segmentation of the CT's own size, a voxel for each of its voxels, that lies elsewhere.

    One of another size may lie as it likes.

    Raises
    ------
    MaskOutsideVolume
        If a corner of it is more than a voxel away from every corner of the CT.
    GeometryInvalid
        If the CT's slices are so uneven that a slice's labels, on an even grid, lie nearer to another slice.
    """
    if sorted(label_map.grid.shape) != sorted(volume.grid.shape):
        return
    furthest = label_map.grid.corner_distance_mm(volume.grid)
    if furthest > volume.grid.spacing_mm.max():
        raise MaskOutsideVolume(
            f"The segmentation has the CT's size, but its corners lie {furthest:.1f} mm away from the CT's."
        )
    places = volume.slice_coordinates
    if places is not None and np.abs(places - np.arange(len(places))).max() > 0.5:
        raise GeometryInvalid(
            "The CT's slices are uneven, its segmentation's are even: labels lie beside what they name.",
            action="Make the segmentation on a grid of its own, in millimetres, or take it away.",
        )


def crop_grids(label_map: LabelMap, recipe: Recipe) -> dict[str, Grid]:
    """One canonical grid for each of the recipe's levels that the map shows, by name.

    Each is centred on the middle of the label's bounding box in the map.
    """
    found = find_levels(label_map)
    shown = {level: found[label] for level, label in recipe.levels.items() if label in found}
    centers = {level: _block(box, label_map.grid).center_mm for level, box in shown.items()}
    return {
        level: Grid.canonical(center, recipe.crop.shape, recipe.crop.spacing_mm)
        for level, center in centers.items()
    }


def overview_grid(ct: Grid, recipe: Recipe) -> Grid:
    """The recipe's overview block over a CT: canonical, centred on the CT in x and y.

    Along z it is centred where the CT fits in. A longer CT is cut at its lower end: the neck hangs from the
    skull, so what a neck series shows in excess is chest.
    """
    block = recipe.overview
    corners = ct.corners_mm()
    center = ct.center_mm
    height = block.shape[0] * block.spacing_mm
    superior, inferior = corners[:, 2].max(), corners[:, 2].min()
    if superior - inferior > height:
        center[2] = superior - height / 2
    return Grid.canonical(center, block.shape, block.spacing_mm)


def boxes_in_crop(boxes: Sequence[FractureBox], volume: Volume, target: Grid) -> npt.NDArray[np.float32]:
    """Fracture boxes in the voxel coordinates of a crop: (box, 6) as (z0, y0, x0, z1, y1, x1).

    A box is as thick as its slice, half way to the slices beside it. Its bounds along the crop's axes are
    given, not clipped; NaN where they do not touch the crop, or the volume has no such slice.
    """
    rows = np.full((len(boxes), 6), np.nan, np.float32)
    ends = np.array(target.shape) - 0.5
    for row, box in zip(rows, boxes, strict=True):
        slice_index = _slice_index(box, volume)
        if slice_index is None:
            continue
        z_ends = _slice_ends(slice_index, volume)
        corners = [
            (z, y, x) for z in z_ends for y in (box.y, box.y + box.height) for x in (box.x, box.x + box.width)
        ]
        index = target.to_index(volume.grid.to_mm(corners))
        low, high = index.min(axis=0), index.max(axis=0)
        if (high >= -0.5).all() and (low <= ends).all():
            row[:] = [*low, *high]
    return rows


def box_levels(
    boxes: Sequence[FractureBox], volume: Volume, label_map: LabelMap, recipe: Recipe
) -> list[str | None]:
    """For each box the recipe's level with most pixels under it in its slice; None where there is none."""
    return [_box_level(box, volume, label_map, recipe) for box in boxes]


def boxes_without_slice(boxes: Sequence[FractureBox], volume: Volume) -> int:
    """How many boxes name a file that is none of the volume's slices."""
    return sum(_slice_index(box, volume) is None for box in boxes)


def shown_slices(label: int, volume: Volume, label_map: LabelMap) -> tuple[int, int] | None:
    """File numbers of the lowest and the highest slice of the CT that the label reaches into.

    A slice reaches half way to its neighbours. None where the files' names hold no numbers, or the label
    lies beyond the CT's slices.
    """
    box = find_levels(label_map).get(label)
    if box is None or volume.file_numbers is None:
        return None
    *step, start = label_map.grid.index_map_to(volume.grid)[0]
    voxels = np.array([box.low, box.high])
    if np.count_nonzero(np.abs(step) > 1e-6) > 1:
        # At an angle to the CT's slices the box reaches further than the label does: each voxel is asked.
        part = tuple(slice(low, high + 1) for low, high in zip(box.low, box.high, strict=True))
        voxels = np.argwhere(label_map.labels[part] == label) + np.array(box.low)
    places = voxels @ step + start
    own = np.arange(volume.voxels.shape[0]) if volume.slice_coordinates is None else volume.slice_coordinates
    middles = (own[1:] + own[:-1]) / 2
    if places.max() < -0.5 or places.min() > own[-1] + 0.5:
        return None
    ends = np.searchsorted(middles, [places.min(), places.max()])
    if volume.grid.to_mm([0, 0, 0])[2] > volume.grid.to_mm([1, 0, 0])[2]:
        ends = ends[::-1]
    first, last = volume.file_numbers[ends].tolist()
    return (first, last) if min(first, last) >= 0 else None


def warm_up() -> None:
    """Compile the kernel, or load it from the cache, so that no worker does so in its first study."""
    find_levels(LabelMap(np.zeros((1, 1, 1), np.uint8), Grid((1, 1, 1), np.eye(4))))


def _find_levels(label_map: LabelMap) -> Mapping[int, LevelBox]:
    labels = np.ascontiguousarray(label_map.labels).view()
    labels.flags.writeable = False  # numba compiles once for each mutability it meets
    counts, low, high, sums = _measure(labels)
    voxel_mm3 = abs(float(np.linalg.det(label_map.grid.affine[:3, :3])))
    return MappingProxyType(
        {
            label: LevelBox(
                label=label,
                voxels=int(counts[label]),
                low=tuple(low[label].tolist()),
                high=tuple(high[label].tolist()),
                centroid_mm=label_map.grid.to_mm(sums[label] / counts[label]),
                volume_mm3=float(counts[label]) * voxel_mm3,
            )
            for label in np.flatnonzero(counts).tolist()
        }
    )


def _box_level(box: FractureBox, volume: Volume, label_map: LabelMap, recipe: Recipe) -> str | None:
    slice_index = _slice_index(box, volume)
    if slice_index is None:
        return None
    _, height, width = volume.voxels.shape
    rows = np.arange(max(np.ceil(box.y), 0), min(box.y + box.height + 1e-6, height))
    columns = np.arange(max(np.ceil(box.x), 0), min(box.x + box.width + 1e-6, width))
    pixels = np.stack(np.meshgrid(_slice_place(slice_index, volume), rows, columns, indexing="ij"), axis=-1)
    index = label_map.grid.to_index(volume.grid.to_mm(pixels.reshape(-1, 3)))
    voxels = np.floor(index + 0.5).astype(np.int64)
    inside = ((voxels >= 0) & (voxels < label_map.labels.shape)).all(axis=1)
    counts = np.bincount(label_map.labels[tuple(voxels[inside].T)], minlength=256)
    level = max(recipe.levels, key=lambda name: counts[recipe.levels[name]])
    return level if counts[recipe.levels[level]] > 0 else None


def _slice_index(box: FractureBox, volume: Volume) -> int | None:
    if volume.file_numbers is None:
        return None
    found = np.flatnonzero(volume.file_numbers == box.slice_number)
    return int(found[0]) if found.size else None


def _slice_place(slice_index: int, volume: Volume) -> float:
    """The grid's z index at which a stored slice really lies."""
    places = volume.slice_coordinates
    return float(slice_index) if places is None else float(places[slice_index])


def _slice_ends(slice_index: int, volume: Volume) -> tuple[float, float]:
    """The grid's z indices half way to the slices before and after."""
    last = volume.voxels.shape[0] - 1
    place = _slice_place(slice_index, volume)
    before = place - _slice_place(slice_index - 1, volume) if slice_index > 0 else None
    after = _slice_place(slice_index + 1, volume) - place if slice_index < last else None
    steps = [step for step in (before, after) if step is not None] or [1.0]
    return place - steps[0] / 2, place + steps[-1] / 2


def _block(box: LevelBox, grid: Grid) -> Grid:
    """The part of a grid that a box spans."""
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_mm(box.low)
    z, y, x = (high - low + 1 for low, high in zip(box.low, box.high, strict=True))
    return Grid((z, y, x), affine)


def _apart(a: Grid, b: Grid) -> bool:
    """Whether a plane along an axis of either parts the two blocks of voxels."""
    return _beyond(a.to_index(b.corners_mm()), a) or _beyond(b.to_index(a.corners_mm()), b)


def _beyond(index: FloatArray, grid: Grid) -> bool:
    return bool(((index.max(axis=0) <= -0.5) | (index.min(axis=0) >= np.array(grid.shape) - 0.5)).any())


@compiled
def _measure(
    labels: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64], FloatArray]:
    """For each label 0 to 255: voxels (256,), lowest and highest index and sum of indices (256, 3)."""
    counts = np.zeros(256, np.int64)
    low = np.full((256, 3), np.iinfo(np.int64).max)
    high = np.full((256, 3), -1)
    sums = np.zeros((256, 3))
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            row = labels[z, y]
            seen = np.uint8(0)
            for x in range(row.size):
                seen |= row[x]
            if seen == 0:  # most rows are background: this loop is many times as fast as the next
                continue
            end = 0
            while end < row.size:
                start, label = end, row[end]
                while end < row.size and row[end] == label:
                    end += 1
                if label > 0:
                    run = end - start
                    counts[label] += run
                    sums[label, 0] += run * z
                    sums[label, 1] += run * y
                    sums[label, 2] += run * 0.5 * (start + end - 1)
                    low[label, 0] = min(low[label, 0], z)
                    low[label, 1] = min(low[label, 1], y)
                    low[label, 2] = min(low[label, 2], start)
                    high[label, 0] = z
                    high[label, 1] = max(high[label, 1], y)
                    high[label, 2] = max(high[label, 2], end - 1)
    return counts, low, high, sums
