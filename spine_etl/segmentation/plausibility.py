"""Whether labels can be those of the vertebrae that the CT shows.

What contradicts all reason is refused; what real necks do, with disease, metal or a narrow field, is at most
a warning. The limits are wide: docs/decisions.md lists how far legal and faulty masks are from each. A mask
that is mirrored from left to right cannot be recognised, because a neck is symmetrical.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from spine_etl.errors import MaskImplausible, StudyWarning
from spine_etl.geometry import FloatArray
from spine_etl.recipe import Recipe
from spine_etl.segmentation.bone import BoneFit, bone_fit
from spine_etl.segmentation.completeness import is_sparse
from spine_etl.segmentation.curve import (
    Spine,
    head_to_foot,
    relative_distances,
    spine_of,
    vertebra_region,
)
from spine_etl.segmentation.regions import LabelRegion, bounding_grid, label_regions
from spine_etl.segmentation.structure import label_structure
from spine_etl.volume import LabelMap, Volume

_MIN_CT_MM3 = 100_000.0  # less than a vertebra with its surroundings: nothing to compare labels with
_MIN_LABELLED_MM3 = 100.0
_MIN_VOXELS = 4
_MIN_RUN_MM, _MIN_RUN_VOXELS = 4.5, 4.0
_MAX_RAMPS = 0.12

_MIN_POINTS = 40
_MIN_AUC, _FAINT_AUC, _FAINT_LEVEL_AUC = 0.58, 0.72, 0.6
_LEVEL_AUC_BELOW, _ABSENT_BELOW, _SEVERAL = 0.2, 0.25, 3
_MAX_GAIN, _MAX_LEVEL_GAIN, _GAIN_PER_ROOT_POINT = 0.05, 0.065, 1.0
_FAR_MM = 9.0
_EQUAL_GAIN = 0.02
_FEW_LEVELS_GAIN = 0.1  # one or two vertebrae may fit their neighbours as well as themselves
_METAL_SHARE = 0.001

_SPECK_SHARE = 0.05  # of the largest level: a smaller one has no part in the order
_MAX_DETOUR_MM, _MAX_ASCENT_MM = 6.0, 3.0
_MAX_MM3 = {"C": 40_000.0, "T": 60_000.0, "L": 140_000.0, "S": 400_000.0}
_MAX_LENGTH_MM = {"C": 120.0, "T": 130.0, "L": 150.0, "S": 200.0}
_MAX_HEIGHT_MM = {"C": 110.0, "T": 110.0, "L": 140.0, "S": 200.0}
_USUAL_MM3 = {"C": (1_500, 22_000), "T": (3_000, 40_000), "L": (10_000, 100_000), "S": (5_000, 300_000)}
_USUAL_DISTANCE_MM = {"C": (6, 34), "T": (10, 45), "L": (18, 60), "S": (10, 100)}
_C1_HEIGHT, _C3_HEIGHT = 1.25, 1.15  # of the height of C2; at most 1.04 and 0.79 in 87 real necks
_FUSED_MM2 = {"C": 150.0, "T": 300.0, "L": 600.0, "S": 600.0}
_FUSED_SPACING_MM = 4.0  # in larger voxels neighbours touch without being fused
_ABOVE = 1.5  # distances of levels that the CT may reach above the centre of the first
_ABOVE_MM = 35.0  # the same where a single level is labelled
_TIMES_NEIGHBOUR = {
    "C2": 2.25,
    "C3": 1.3,
    "C4": 1.3,
    "C5": 1.3,
    "C6": 1.3,
    "C7": 1.6,
}  # volume, to the larger
_TIMES_DISTANCE = 1.5  # of the median of the nearest distances
_TIMES_DISTANCE_C2 = 2.1
_C2_VOLUME = 1.1  # of that of C3; at least 1.2 in legal masks
_FIRST_HEIGHT = 1.4  # of the median of the levels below, from C3 on; C3 has at most 1.24 in 87 real necks


def check_structure(label_map: LabelMap, volume: Volume, recipe: Recipe) -> tuple[StudyWarning, ...]:
    """Refuse labels that no vertebrae make, whatever the CT shows: empty, scattered or interpolated.

    Returns
    -------
    tuple of StudyWarning
        ``LEVELS_FUSED`` for neighbours that touch over a large area.

    Raises
    ------
    MaskImplausible
        With what was seen.
    """
    regions = label_regions(label_map)
    if not regions:
        raise MaskImplausible("The segmentation is empty.")
    if _is_too_small(volume):
        return ()
    labelled_mm3 = sum(region.volume_mm3 for region in regions.values())
    voxels = max(region.voxel_count for region in regions.values())
    if labelled_mm3 < _MIN_LABELLED_MM3 or voxels < _MIN_VOXELS:
        raise MaskImplausible(
            f"The segmentation has {labelled_mm3:.0f} mm3 of labels, at most {voxels} voxels in one; "
            "a vertebra has thousands of mm3."
        )
    structure = label_structure(label_map, *_box(regions))
    if structure.run_mm < _MIN_RUN_MM and structure.run_voxels < _MIN_RUN_VOXELS:
        raise MaskImplausible(
            f"The labels are scattered: they change after {structure.run_mm:.1f} mm on average, "
            "in vertebrae after about 10 mm."
        )
    if structure.ramps > _MAX_RAMPS:
        raise MaskImplausible(
            f"{structure.ramps:.0%} of the labels' borders have a rim of smaller numbers: "
            "the label numbers were interpolated.",
            action="Resample segmentations with nearest neighbours.",
        )
    if is_sparse(label_map):
        raise MaskImplausible(
            "Labels alternate with empty slices: the vertebrae were not drawn in all slices.",
            action="Fill the slices between those that were drawn.",
        )
    if label_map.grid.spacing_mm.max() > _FUSED_SPACING_MM:
        return ()
    return tuple(
        StudyWarning("LEVELS_FUSED", f"{upper} and {lower} touch over {area:.0f} mm2.")
        for (upper, a), (lower, b) in pairwise(head_to_foot(recipe))
        if (area := float(structure.contacts_mm2[a, b])) > _FUSED_MM2[vertebra_region(upper)]
    )


def check_plausible(
    label_map: LabelMap, volume: Volume, recipe: Recipe, ambiguous: Collection[str] = ()
) -> tuple[StudyWarning, ...]:
    """Refuse labels whose order, size or position contradicts the anatomy or the CT.

    ``label_map`` holds the vertebrae without stray islands. The order and the sizes of the ``ambiguous``
    levels are not compared, since it is not known where they are.

    Returns
    -------
    tuple of StudyWarning
        What is unusual but happens in real necks; the codes are in `spine_etl.errors.WARNINGS`.

    Raises
    ------
    MaskImplausible
        With what was seen.
    """
    regions = label_regions(label_map)
    if not regions:
        raise MaskImplausible("The segmentation shows no vertebra.")
    if _is_too_small(volume):
        return (StudyWarning("MASK_UNCHECKED", "The CT is too small to compare the segmentation with bone."),)
    order = head_to_foot(recipe)
    least = _SPECK_SHARE * max(region.volume_mm3 for region in regions.values())
    present = {
        name: regions[label]
        for name, label in order
        if label in regions and name not in ambiguous and regions[label].volume_mm3 > least
    }
    spine = spine_of({name: region.centroid_mm for name, region in present.items()}, [n for n, _ in order])
    names = {label: name for name, label in (*recipe.levels.items(), *recipe.other_labels.items())}
    by_name = {names[label]: region for label, region in regions.items()}
    _check_sizes(by_name, label_map, ambiguous)
    if len(ambiguous) >= max(_SEVERAL, len(by_name) / 2):
        raise MaskImplausible(f"Labels are in several large parts each: {', '.join(ambiguous)}.")
    by_name = {name: region for name, region in by_name.items() if name not in ambiguous}
    _check_order(spine)
    fit = bone_fit(label_map, volume, *_box(regions))
    _check_bone(fit, len(regions))
    _check_each_level(fit, names)
    return (
        *_bone_warnings(fit, names),
        *_order_warnings(spine, present, volume, order, ambiguous),
        *_shape_warnings(by_name, label_map, volume),
    )


def _is_too_small(volume: Volume) -> bool:
    size = np.prod(volume.grid.shape) * abs(np.linalg.det(volume.grid.affine[:3, :3]))
    return bool(size < _MIN_CT_MM3)


def _box(regions: Mapping[int, LabelRegion]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and last index of all labels along each axis of their map."""
    low = np.array([region.low for region in regions.values()]).min(axis=0)
    return low, np.array([region.high for region in regions.values()]).max(axis=0)


def _extent_mm(region: LabelRegion, label_map: LabelMap) -> FloatArray:
    """(3,): size of the box of a label, along the map's axes."""
    size: FloatArray = (np.array(region.high) - region.low + 1) * label_map.grid.spacing_mm
    return size


def _check_sizes(regions: Mapping[str, LabelRegion], label_map: LabelMap, ambiguous: Collection[str]) -> None:
    for name, region in regions.items():
        part = vertebra_region(name)
        cm3, limit_cm3 = region.volume_mm3 / 1000, _MAX_MM3[part] / 1000
        if name in ambiguous and len(regions) == 1:
            limit_cm3 = _USUAL_MM3[part][1] / 1000  # several large parts under one number: a binary mask
        if cm3 > limit_cm3:
            raise MaskImplausible(f"{name} has {cm3:.1f} cm3; no vertebra exceeds {limit_cm3:.0f} cm3.")
        length, height = float(_extent_mm(region, label_map).max()), _height_mm(region, label_map)
        if name not in ambiguous and (length > _MAX_LENGTH_MM[part] or height > _MAX_HEIGHT_MM[part]):
            raise MaskImplausible(
                f"{name} is {length:.0f} mm long and {height:.0f} mm high; no vertebra exceeds "
                f"{_MAX_LENGTH_MM[part]:.0f} and {_MAX_HEIGHT_MM[part]:.0f} mm."
            )


def _check_order(spine: Spine) -> None:
    if spine.detour_mm > _MAX_DETOUR_MM:
        raise MaskImplausible(
            f"Levels are out of order: the way through {', '.join(spine.levels)} is "
            f"{spine.detour_mm:.0f} mm longer than the way through {', '.join(spine.exchanged)}."
        )
    if spine.descent_mm < -_MAX_ASCENT_MM:
        raise MaskImplausible(
            f"Levels are upside down: {spine.levels[0]} is {-spine.descent_mm:.0f} mm below "
            f"{spine.levels[-1]}."
        )


def _check_bone(fit: BoneFit, levels: int) -> None:
    if fit.points < _MIN_POINTS:
        return
    limit = _MAX_GAIN + _GAIN_PER_ROOT_POINT / fit.points**0.5
    far = limit + (_FEW_LEVELS_GAIN if levels < 3 else 0.0)
    seen = f"labels are brighter than their surroundings in {fit.auc:.0%} of comparisons"
    turned = fit.turn_gain > far
    moved = fit.gain > far and fit.shift_mm > _FAR_MM
    if moved and (fit.gain > fit.turn_gain - _EQUAL_GAIN or not turned):
        raise MaskImplausible(
            f"The segmentation is {fit.shift_mm:.0f} mm away from the bone: its {seen}, "
            f"there {min(1.0, fit.auc + fit.gain):.0%}."
        )
    if turned:
        raise MaskImplausible(
            f"The segmentation fits the bone better {fit.turn}: its {seen}, "
            f"then {min(1.0, fit.auc + fit.turn_gain):.0%}."
        )
    if fit.level_gain > far + _MAX_LEVEL_GAIN - _MAX_GAIN:
        raise MaskImplausible(
            f"The segmentation does not follow the bone: its {seen}, and with each level moved "
            f"by up to {_FAR_MM:.0f} mm in {min(1.0, fit.auc + fit.level_gain):.0%}."
        )
    if fit.auc < _MIN_AUC:
        raise MaskImplausible(f"There is no bone under the segmentation: its {seen}.")


def _check_each_level(fit: BoneFit, names: Mapping[int, str]) -> None:
    """A single level without bone may be diseased, but not several beside others that are clear."""
    best = max(fit.level_auc.values(), default=0.0)
    absent = [
        names[n] for n, auc in fit.level_auc.items() if auc < min(_FAINT_LEVEL_AUC, best - _ABSENT_BELOW)
    ]
    if len(absent) >= _SEVERAL:
        raise MaskImplausible(
            f"There is no bone under {', '.join(absent)}: they are brighter than their surroundings in "
            f"at most {_FAINT_LEVEL_AUC:.0%} of comparisons, other levels in {best:.0%}."
        )


def _bone_warnings(fit: BoneFit, names: Mapping[int, str]) -> Iterator[StudyWarning]:
    if fit.points < _MIN_POINTS:
        text = f"Only {fit.points} points under labels could be compared with the CT."
        yield StudyWarning("MASK_UNCHECKED", text)
        return
    if fit.auc < _FAINT_AUC:
        text = f"Labels are brighter than their surroundings in {fit.auc:.0%} of comparisons."
        yield StudyWarning("BONE_FAINT", text)
    usual = float(np.median([*fit.level_auc.values(), fit.auc]))
    for label, auc in fit.level_auc.items():
        if auc < max(min(_FAINT_LEVEL_AUC, fit.auc), usual - _LEVEL_AUC_BELOW):
            text = f"{names[label]} is brighter than its surroundings in {auc:.0%} of comparisons."
            yield StudyWarning("BONE_FAINT", text)
    if fit.metal > _METAL_SHARE:
        yield StudyWarning("METAL", f"{fit.metal:.1%} of the voxels in and around labels are metal.")


def _order_warnings(
    spine: Spine,
    regions: Mapping[str, LabelRegion],
    volume: Volume,
    order: list[tuple[str, int]],
    ambiguous: Collection[str],
) -> Iterator[StudyWarning]:
    if not spine.levels:
        return
    if missing := [name for name in spine.missing if name not in ambiguous]:
        yield StudyWarning("LEVEL_MISSING", f"{', '.join(missing)}: no label between others.")
    ranks = [name for name, _ in order]
    steps = [ranks.index(lower) - ranks.index(upper) for upper, lower in pairwise(spine.levels)]
    steps_mm = [distance / count for distance, count in zip(spine.distances_mm, steps, strict=True)]
    first = spine.levels[0]
    above = _reach_mm(volume, regions[first])
    limit = _ABOVE * float(np.median(steps_mm)) if steps_mm else _ABOVE_MM
    if above > limit and not set(ranks[: ranks.index(first)]) <= set(ambiguous):
        text = f"The first level is {first}, but the CT reaches {above:.0f} mm above its centre."
        yield StudyWarning("LEVEL_MISSING", text)
    relative = relative_distances(spine.levels, steps_mm)
    for k, (upper, lower) in enumerate(pairwise(spine.levels)):
        distance = spine.distances_mm[k]
        low, high = _USUAL_DISTANCE_MM[vertebra_region(upper)]
        times = _TIMES_DISTANCE_C2 if upper == "C2" else _TIMES_DISTANCE
        if not low <= steps_mm[k] <= high:
            text = f"The centres of {upper} and {lower} are {distance:.0f} mm apart."
            yield StudyWarning("LEVEL_DISTANCE", text)
        elif relative.get(upper, 0.0) > times:
            text = (
                f"The centres of {upper} and {lower} are {distance:.0f} mm apart, "
                f"{relative[upper]:.1f} times as far as the next ones."
            )
            yield StudyWarning("LEVEL_DISTANCE", text)


def _reach_mm(volume: Volume, region: LabelRegion) -> float:
    """How far the CT reaches above the centre of a level, along its slices' axis."""
    axis = int(np.abs(volume.grid.affine[2, :3]).argmax())
    step = float(volume.grid.affine[2, axis])
    index = float(volume.grid.to_index(np.atleast_2d(region.centroid_mm))[0, axis])
    last = volume.grid.shape[axis] - 0.5
    return (last - index) * step if step > 0 else (index + 0.5) * -step


def _shape_warnings(
    regions: Mapping[str, LabelRegion], label_map: LabelMap, volume: Volume
) -> Iterator[StudyWarning]:
    whole = {name: region for name, region in regions.items() if _is_whole(region, label_map, volume)}
    for name, region in regions.items():
        low, high = _USUAL_MM3[vertebra_region(name)]
        if region.volume_mm3 > high or (name in whole and region.volume_mm3 < low):
            yield StudyWarning("LEVEL_SIZE", f"{name} has {region.volume_mm3 / 1000:.1f} cm3.")
    yield from _relative_size_warnings({name: region.volume_mm3 / 1000 for name, region in whole.items()})
    heights = {name: _height_mm(region, label_map) for name, region in whole.items()}
    for name, share in (("C1", _C1_HEIGHT), ("C3", _C3_HEIGHT)):
        if name in heights and "C2" in heights and heights[name] > share * heights["C2"]:
            text = (
                f"{name} is {heights[name]:.0f} mm high and C2, which has the dens, {heights['C2']:.0f} mm."
            )
            yield StudyWarning("NUMBERING_UNUSUAL", text)
    first = min(regions, key=_rank)
    below = [height for name, height in heights.items() if _rank(name) > _rank(first)]
    if below and first in heights and "C3" <= first <= "C7":
        usual = float(np.median(below))
        if heights[first] > _FIRST_HEIGHT * usual:
            text = f"The first level, {first}, is {heights[first]:.0f} mm high, those below {usual:.0f} mm."
            yield StudyWarning("NUMBERING_UNUSUAL", text)


def _rank(name: str) -> tuple[str, int, str]:
    """Sorts C1 to L5 from head to foot."""
    return vertebra_region(name), int("".join(filter(str.isdigit, name)) or 0), name


def _relative_size_warnings(cm3: Mapping[str, float]) -> Iterator[StudyWarning]:
    """Levels that are much larger than those beside them, as if two had one number; C1 has no equal."""
    names = [*_TIMES_NEIGHBOUR, "T1"]
    for k, (name, times) in enumerate(_TIMES_NEIGHBOUR.items()):
        beside = names[k + 1 : k + 2] if name in ("C2", "C3") else [names[k - 1], names[k + 1]]
        sizes = [cm3[other] for other in beside if other in cm3]
        if name in cm3 and sizes and cm3[name] > times * max(sizes):
            text = f"{name} has {cm3[name]:.1f} cm3, more than {times} times {' and '.join(beside)}."
            yield StudyWarning("LEVEL_SIZE", text)
    if "C2" in cm3 and "C3" in cm3 and cm3["C2"] < _C2_VOLUME * cm3["C3"]:
        text = f"C2, which has the dens, has {cm3['C2']:.1f} cm3, and C3 {cm3['C3']:.1f} cm3."
        yield StudyWarning("NUMBERING_UNUSUAL", text)


def _height_mm(region: LabelRegion, label_map: LabelMap) -> float:
    return float(np.ptp(bounding_grid(region, label_map.grid).corners_mm()[:, 2]))


def _is_whole(region: LabelRegion, label_map: LabelMap, volume: Volume) -> bool:
    """True if a label is a voxel or more away from the ends of the CT and of its map."""
    if min(region.low) == 0 or (np.array(region.high) == np.array(label_map.grid.shape) - 1).any():
        return False
    corners = volume.grid.to_index(bounding_grid(region, label_map.grid).corners_mm())
    return bool(
        (corners.min(axis=0) >= 0.5).all()
        and (corners.max(axis=0) <= np.array(volume.grid.shape) - 1.5).all()
    )
