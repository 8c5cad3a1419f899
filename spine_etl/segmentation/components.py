"""Which voxels of a label are its vertebra: the largest component, and the fragments that belong to it.

Real segmentations have stray islands, so the bounding box of a label can be far larger than its vertebra. The
parts of a label are its components in the 26-neighbourhood. The largest is the main part. Of the others:

* Within `NEAR_MM` of the main part, or within `FAR_MM` with at least `FRAGMENT_SHARE` of its voxels, a part
  is a fragment of the vertebra: displaced fragments are what the data is about. A part is an island
  nonetheless if more than half of its surface touches other labels, as that of a piece of the neighbour under
  a wrong number does.
* Beyond `FAR_MM`, a part with at least `RIVAL_SHARE` of the main part's voxels could be the vertebra just as
  well: the level is ambiguous.
* All other parts are islands. They are cleared.

Distances are those between bounding boxes along the patient's axes, in millimetres, so they do not depend on
the axes of the segmentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from spine_etl.errors import StudyWarning
from spine_etl.geometry import FloatArray, Grid
from spine_etl.recipe import Block, Recipe
from spine_etl.segmentation.regions import (
    LabelRegion,
    bounding_grid,
    keep_regions,
    label_runs,
    label_share,
    make_region,
)
from spine_etl.segmentation.runs import (
    Measures,
    Parts,
    box_distances_mm,
    find_parts,
    foreign_shares,
    largest_parts,
    measure_labels,
    paint_runs,
    runs_of_parts,
)
from spine_etl.volume import LabelMap

NEAR_MM, FAR_MM = 10.0, 25.0
FRAGMENT_SHARE, RIVAL_SHARE = 0.1, 0.5
"""Shares of the main part's voxels: of a fragment up to `FAR_MM` away, and of a part that could replace
it."""

_SPECK_SHARE = 0.01
"""Fragments smaller than this share of the main part do not move the crop."""

_MAX_MOVE_MM = 4.0
"""How far a crop moves along an axis for fragments: the core must stay near its centre."""

_ROUND_OFF_MM = 1e-6


@dataclass(frozen=True, eq=False)
class VertebraRegion(LabelRegion):
    """A vertebra: the main part of its label and the fragments. The fields of `LabelRegion` describe both.

    ``core`` is the main part, with any part of at least `RIVAL_SHARE` of its voxels near it. ``center_mm`` is
    the LPS centre of its bounding box. ``crop_center_mm`` is that of the vertebra's crop: the same, unless
    the crop must move to contain the fragments too.
    """

    core: LabelRegion
    center_mm: FloatArray
    crop_center_mm: FloatArray


@dataclass(frozen=True)
class Islands:
    """The voxels of a level that are not part of its vertebra; ``distance_mm`` is that of the furthest."""

    voxel_count: int
    distance_mm: float


@dataclass(frozen=True, eq=False)
class Vertebrae:
    """What a segmentation shows of each level of the recipe, its other labels included, by name.

    ``label_map`` is the segmentation without islands, the same object if there are none. A level is in
    ``levels`` or, if two of its parts could be the vertebra, in ``ambiguous``, with its largest part.
    """

    label_map: LabelMap
    levels: Mapping[str, VertebraRegion] = field(default_factory=dict)
    ambiguous: Mapping[str, VertebraRegion] = field(default_factory=dict)
    islands: Mapping[str, Islands] = field(default_factory=dict)
    warnings: tuple[StudyWarning, ...] = ()

    def crop_centers_mm(self, recipe: Recipe) -> dict[str, FloatArray]:
        """The LPS centre of the crop of each level that the recipe crops and that is not ambiguous."""
        return {name: self.levels[name].crop_center_mm for name in recipe.levels if name in self.levels}


def find_vertebrae(label_map: LabelMap, recipe: Recipe) -> Vertebrae:
    """The vertebra of each level that the segmentation shows, and the segmentation without islands."""
    names = {label: name for name, label in {**recipe.levels, **recipe.other_labels}.items()}
    runs = label_runs(label_map)
    parts = find_parts(runs, label_map.grid)
    main_of_label = _main_parts(parts, label_map.grid)
    main = main_of_label[parts.label]  # of each part
    is_main = main == np.arange(len(parts))
    share = parts.voxels / parts.voxels[main]
    distance_mm = box_distances_mm(parts, main_of_label)
    near = (distance_mm <= NEAR_MM + _ROUND_OFF_MM) | (
        (distance_mm <= FAR_MM + _ROUND_OFF_MM) & (share >= FRAGMENT_SHARE)
    )
    near &= ~is_main
    fragment = near.copy()
    if near.any():
        fragment &= foreign_shares(label_map, runs, parts, near) <= 0.5 + 1e-9
    rival = (distance_mm > FAR_MM + _ROUND_OFF_MM) & (share >= RIVAL_SHARE)
    kept = is_main | fragment | rival
    whole = measure_labels(parts, kept & ~rival)
    core = measure_labels(parts, is_main | (fragment & (share >= RIVAL_SHARE)))
    large = measure_labels(parts, (is_main | fragment) & (share >= _SPECK_SHARE))
    remaining = measure_labels(parts, kept)
    cleared = measure_labels(parts, ~kept)
    levels: dict[str, VertebraRegion] = {}
    ambiguous: dict[str, VertebraRegion] = {}
    islands: dict[str, Islands] = {}
    warnings: list[StudyWarning] = []
    regions: dict[int, LabelRegion] = {}
    for label in np.unique(parts.label).tolist():
        name = names.get(label, f"label {label}")
        regions[label] = vertebra = _vertebra(label, whole, core, large, label_map.grid, recipe)
        rivals = np.flatnonzero(rival & (parts.label == label))
        if rivals.size:
            ambiguous[name] = vertebra
            warnings.append(_ambiguous_warning(name, vertebra, parts.voxels[rivals], distance_mm[rivals]))
            regions[label] = _region(label, remaining, label_map.grid)
        else:
            levels[name] = vertebra
        if cleared.voxels[label]:
            furthest = distance_mm[~kept & (parts.label == label)].max()
            islands[name] = Islands(int(cleared.voxels[label]), float(furthest))
    cleaned = label_map
    if islands:
        remaining_runs = runs_of_parts(runs, parts, kept)
        cleaned = replace(label_map, labels=paint_runs(remaining_runs))
        keep_regions(cleaned, regions, remaining_runs)
        warnings.append(_islands_warning(islands))
    return Vertebrae(cleaned, levels, ambiguous, islands, tuple(warnings))


def warm_up() -> None:
    """Compile the kernels of this package, or load them from numba's cache, before the first study."""
    labels = np.zeros((1, 1, 40), np.uint8)
    labels[0, 0, [0, 1, 2, 5, 39]] = 1  # a main part, a fragment and an island
    levels = {"level": 1}
    block = Block(spacing_mm=1, shape=(4, 4, 4))
    recipe = Recipe(name="", levels=levels, crop=block, overview=block)
    grid = Grid(labels.shape, np.eye(4))
    vertebrae = find_vertebrae(LabelMap(labels, grid), recipe)
    label_share(vertebrae.label_map, 1, Grid((1, 1, 1), np.eye(4)))


def _main_parts(parts: Parts, grid: Grid) -> npt.NDArray[np.int64]:
    """(256,): the index of each label's part with most voxels; 0 for labels without parts.

    Of equal ones, that with the centroid furthest to Superior, then Posterior, then Left, then that whose
    bounding box reaches furthest: so it does not depend on the order in which the voxels are stored.
    """
    main, count = largest_parts(parts)
    for label in np.flatnonzero(count > 1).tolist():
        tied = np.flatnonzero((parts.label == label) & (parts.voxels == parts.voxels[main[label]]))
        centroid = grid.to_mm(parts.sums[tied] / parts.voxels[tied, None])
        positions = np.hstack([centroid, parts.high_mm[tied], parts.low_mm[tied]])
        for column in (2, 1, 0, 5, 4, 3, 8, 7, 6):
            furthest = positions[:, column] >= positions[:, column].max() - _ROUND_OFF_MM
            tied, positions = tied[furthest], positions[furthest]
        main[label] = tied[0]
    return main


def _region(label: int, measures: Measures, grid: Grid) -> LabelRegion:
    return make_region(
        label,
        int(measures.voxels[label]),
        measures.low[label],
        measures.high[label],
        measures.sums[label],
        grid,
    )


def _vertebra(
    label: int, whole: Measures, core: Measures, large: Measures, grid: Grid, recipe: Recipe
) -> VertebraRegion:
    region, main = _region(label, whole, grid), _region(label, core, grid)
    center = bounding_grid(main, grid).center_mm
    return VertebraRegion(
        label=label,
        voxel_count=region.voxel_count,
        low=region.low,
        high=region.high,
        centroid_mm=region.centroid_mm,
        volume_mm3=region.volume_mm3,
        core=main,
        center_mm=center,
        crop_center_mm=_moved_center(
            center,
            (core.low_mm[label], core.high_mm[label]),
            (large.low_mm[label], large.high_mm[label]),
            np.array(recipe.crop.shape[::-1]) * recipe.crop.spacing_mm,
        ),
    )


def _moved_center(
    center: FloatArray,
    core: tuple[FloatArray, FloatArray],
    vertebra: tuple[FloatArray, FloatArray],
    size_mm: FloatArray,
) -> FloatArray:
    """The centre of a crop moved by the least that brings the vertebra into it.

    Along each axis it moves by at most `_MAX_MOVE_MM`, only as far as the core stays in the crop, and not at
    all if the vertebra sticks out on both sides.
    """
    half = size_mm / 2
    room_up, room_down = core[0] - (center - half), center + half - core[1]
    up = np.clip(vertebra[1] - (center + half), 0, np.clip(room_up, 0, _MAX_MOVE_MM))
    down = np.clip(center - half - vertebra[0], 0, np.clip(room_down, 0, _MAX_MOVE_MM))
    moved: FloatArray = center + np.where((up > 0) & (down > 0), 0.0, up - down)
    return moved


def _ambiguous_warning(
    name: str, vertebra: VertebraRegion, voxels: npt.NDArray[np.int64], distance_mm: FloatArray
) -> StudyWarning:
    largest = int(voxels.argmax())
    rival_mm3 = voxels[largest] * vertebra.volume_mm3 / vertebra.voxel_count
    more = f" and {len(voxels) - 1} more" if len(voxels) > 1 else ""
    return StudyWarning(
        "VERTEBRA_AMBIGUOUS",
        f"{name} has no crop: it has a part of {vertebra.volume_mm3:.0f} mm3, and one of {rival_mm3:.0f} mm3 "
        f"{distance_mm[largest]:.0f} mm away{more}.",
    )


def _islands_warning(islands: Mapping[str, Islands]) -> StudyWarning:
    details = ", ".join(
        f"{name} {found.voxel_count} voxels up to {found.distance_mm:.1f} mm away"
        for name, found in islands.items()
    )
    return StudyWarning("LABEL_ISLANDS", f"Stray voxels were removed from the segmentation: {details}.")
