"""Masks that are wrong by construction: each changes a true mask in one way that no neck explains."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from scipy import ndimage

from tests.faults.files import Mask, mask_of
from tests.faults.necks import Array, Case, Labels, case

Rng = np.random.Generator
Fault = Callable[[Case, Rng], Mask]

IMPLAUSIBLE = "MASK_IMPLAUSIBLE"
OUTSIDE = "MASK_OUTSIDE_VOLUME"


def _renumbered(**numbers: int) -> Fault:
    """Other numbers for some labels, as ``L3=4``."""

    def change(one: Case, rng: Rng) -> Mask:
        table = np.arange(256, dtype=np.uint8)
        for name, number in numbers.items():
            table[int(name[1:])] = number
        return mask_of(one, table[one.labels])

    return change


def _permuted(one: Case, rng: Rng) -> Mask:
    """A random order in which no label keeps both neighbours."""
    table = np.arange(256, dtype=np.uint8)
    while True:
        numbers = rng.permutation(9) + 1
        if (np.abs(np.diff(numbers)) > 1).all():
            table[1:10] = numbers
            return mask_of(one, table[one.labels])


def _flipped(*axes: int) -> Fault:
    return lambda one, rng: mask_of(one, np.flip(one.labels, axes))


def _flipped_in_place(*axes: int) -> Fault:
    """Mirrored about the middle of the labels, so that their box stays where it is."""

    def change(one: Case, rng: Rng) -> Mask:
        box = ndimage.find_objects((one.labels > 0).astype(int))[0]
        labels = np.zeros_like(one.labels)
        labels[box] = np.flip(one.labels[box], axes)
        return mask_of(one, labels)

    return change


def _transposed(one: Case, rng: Rng) -> Mask:
    return mask_of(one, one.labels.transpose(0, 2, 1))


def _turned_in_plane(one: Case, rng: Rng) -> Mask:
    return mask_of(one, np.rot90(one.labels, int(rng.choice([1, 3])), (1, 2)))


def _turned(degrees: float, axes: tuple[int, int]) -> Fault:
    def change(one: Case, rng: Rng) -> Mask:
        """About the middle of the labels, in millimetres."""
        points = one.points_mm()
        center = points[one.labels > 0].mean(axis=0)
        a, b = axes
        angle = np.radians(degrees)
        offset = points - center
        turned = offset.copy()
        turned[..., a] = np.cos(angle) * offset[..., a] - np.sin(angle) * offset[..., b]
        turned[..., b] = np.sin(angle) * offset[..., a] + np.cos(angle) * offset[..., b]
        return mask_of(one, _taken(one, turned + center))

    return change


def _taken(one: Case, points_mm: Array) -> Labels:
    """The true label at each point (LPS), 0 outside the CT."""
    inverse = np.linalg.inv(one.affine)
    index = np.rint(points_mm @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    inside = ((index >= 0) & (index < one.labels.shape)).all(axis=-1)
    index[~inside] = 0
    return np.where(inside, one.labels[tuple(np.moveaxis(index, -1, 0))], 0).astype(np.uint8)


def _shifted(left: float, posterior: float, superior: float) -> Fault:
    """By millimetres in LPS; the sign of each component is random."""

    def change(one: Case, rng: Rng) -> Mask:
        shift = np.array([left, posterior, superior]) * rng.choice([-1, 1], 3)
        return mask_of(one, _taken(one, one.points_mm() - shift))

    return change


def _shifted_by_affine(millimetres: float) -> Fault:
    """A grid of its own, around the labels, at a wrong position."""

    def change(one: Case, rng: Rng) -> Mask:
        mask = cropped(one)
        direction = rng.normal(size=3)
        affine = mask.affine.copy()
        affine[:3, 3] += direction / np.linalg.norm(direction) * millimetres
        return Mask(mask.labels, affine)

    return change


def cropped(one: Case, margin: int = 2) -> Mask:
    """The part of the true mask around its labels, on a grid of its own."""
    indices = np.argwhere(one.labels)
    low = np.maximum(indices.min(axis=0) - margin, 0)
    high = np.minimum(indices.max(axis=0) + margin + 1, one.labels.shape)
    affine = one.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    return Mask(one.labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], affine)


def _scaled(factor: float, axes: tuple[int, ...] = (0, 1, 2)) -> Fault:
    """A wrong voxel size about the middle of a grid of its own."""

    def change(one: Case, rng: Rng) -> Mask:
        mask = cropped(one)
        affine = mask.affine.copy()
        affine[:3, list(axes)] *= factor
        middle = (np.array(mask.labels.shape) - 1) / 2
        affine[:3, 3] += (mask.affine[:3, :3] - affine[:3, :3]) @ middle
        return Mask(mask.labels, affine)

    return change


def _of_another_patient(one: Case, rng: Rng) -> Mask:
    other = case(int(rng.integers(50, 60)))
    return mask_of(one, other.labels)


def _of_another_patient_in_place(one: Case, rng: Rng) -> Mask:
    """Moved so that the middles of both patients' labels agree."""
    other = cropped(case(int(rng.integers(50, 60))))
    points = one.points_mm()[one.labels > 0]
    index = np.argwhere(other.labels)
    affine = other.affine.copy()
    affine[:3, 3] += points.mean(axis=0) - (index.mean(axis=0) @ affine[:3, :3].T + affine[:3, 3])
    return Mask(other.labels, affine)


def _array_axes_reversed(one: Case, rng: Rng) -> Mask:
    """Slices last, as written by tools that store (row, column, slice), with the affine of slices first."""
    return Mask(one.labels.transpose(1, 2, 0), one.affine)


def _lps_as_ras(one: Case, rng: Rng) -> Mask:
    return Mask(one.labels, np.diag([-1.0, -1.0, 1.0, 1.0]) @ one.affine)


def _without_affine(one: Case, rng: Rng) -> Mask:
    """The voxel sizes alone: the first voxel is at the origin."""
    return Mask(
        one.labels, np.diag([*np.linalg.norm(one.affine[:3, :3], axis=0)[::-1], 1.0])[:, [2, 1, 0, 3]]
    )


def _empty(one: Case, rng: Rng) -> Mask:
    return mask_of(one, np.zeros_like(one.labels))


def _binary(label: int) -> Fault:
    return lambda one, rng: mask_of(one, (one.labels > 0).astype(np.uint8) * label)


def _thresholded(one: Case, rng: Rng) -> Mask:
    return mask_of(one, (one.hu > 250).astype(np.uint8))


def _one_voxel_each(one: Case, rng: Rng) -> Mask:
    labels = np.zeros_like(one.labels)
    for label in range(1, 10):
        labels[tuple(rng.choice(np.argwhere(one.labels == label)))] = label
    return mask_of(one, labels)


def _columns(axis: int) -> Fault:
    """A column of voxels for each label, through the whole map."""

    def change(one: Case, rng: Rng) -> Mask:
        labels = np.zeros_like(one.labels)
        along = np.moveaxis(labels, axis, 0)
        r, c = np.array(along.shape[1:]) // 2
        for label in range(1, 10):
            along[:, r, c + label - 5] = label
        return mask_of(one, labels)

    return change


def _enlarged(one: Case, rng: Rng) -> Mask:
    """Twice the voxels along each axis, label numbers interpolated linearly."""
    labels = np.rint(ndimage.zoom(one.labels.astype(float), 2, order=1, grid_mode=True, mode="nearest"))
    affine = one.affine.copy()
    affine[:3, :3] /= 2
    affine[:3, 3] -= affine[:3, :3] @ [0.5, 0.5, 0.5]
    return Mask(labels.astype(np.uint8), affine)


def _moved_with_interpolation(*voxels: float) -> Fault:
    def change(one: Case, rng: Rng) -> Mask:
        return mask_of(
            one, np.rint(ndimage.shift(one.labels.astype(float), voxels, order=1)).astype(np.uint8)
        )

    return change


def _blurred(one: Case, rng: Rng) -> Mask:
    return mask_of(one, np.rint(ndimage.gaussian_filter(one.labels.astype(float), 0.7)).astype(np.uint8))


def _averaged(one: Case, rng: Rng) -> Mask:
    """Half the voxels along each axis, each the mean of eight label numbers."""
    n = [size // 2 * 2 for size in one.labels.shape]
    blocks = one.labels[: n[0], : n[1], : n[2]].reshape(n[0] // 2, 2, n[1] // 2, 2, n[2] // 2, 2)
    affine = one.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [0.5, 0.5, 0.5]
    affine[:3, :3] *= 2
    return Mask(np.rint(blocks.mean(axis=(1, 3, 5))).astype(np.uint8), affine)


def _constant(label: int) -> Fault:
    return lambda one, rng: mask_of(one, np.full_like(one.labels, label))


def _half(one: Case, rng: Rng) -> Mask:
    labels = np.zeros_like(one.labels)
    labels[: len(labels) // 2] = 7
    return mask_of(one, labels)


def _slice_numbers(one: Case, rng: Rng) -> Mask:
    numbers = np.arange(len(one.labels))[::-1] * 9 // len(one.labels) + 1
    return mask_of(one, np.broadcast_to(numbers[:, None, None], one.labels.shape).astype(np.uint8))


def _slice_numbers_in_body(one: Case, rng: Rng) -> Mask:
    numbers = np.arange(len(one.labels))[::-1] * 9 // len(one.labels) + 1
    return mask_of(one, np.where(one.hu > -300, numbers[:, None, None], 0).astype(np.uint8))


def _noise(share: float) -> Fault:
    """Random labels in this share of the voxels."""

    def change(one: Case, rng: Rng) -> Mask:
        labels = rng.integers(1, 10, one.labels.shape)
        return mask_of(one, np.where(rng.random(labels.shape) < share, labels, 0).astype(np.uint8))

    return change


def _noise_in_labels(one: Case, rng: Rng) -> Mask:
    random = rng.integers(0, 10, one.labels.shape)
    return mask_of(
        one,
        np.where((one.labels > 0) & (rng.random(random.shape) < 0.6), random, one.labels).astype(np.uint8),
    )


def _hu_as_labels(one: Case, rng: Rng) -> Mask:
    return mask_of(one, one.hu)


def _hu_scaled_to_labels(one: Case, rng: Rng) -> Mask:
    return mask_of(one, np.clip((one.hu + 200.0) / 150, 0, 9).astype(np.uint8))


def _corner(labels_in_it: int) -> Fault:
    def change(one: Case, rng: Rng) -> Mask:
        labels = np.zeros_like(one.labels)
        for k in range(labels_in_it):
            labels[-8 * k - 9 : -8 * k - 1, :12, :12] = k + 1
        return mask_of(one, labels)

    return change


def _numbers_times_ten(one: Case, rng: Rng) -> Mask:
    return mask_of(one, one.labels * 10)


def _halves(one: Case, rng: Rng) -> Mask:
    return mask_of(one, (one.labels / 2).astype(np.float32))


def _boxes(one: Case, rng: Rng) -> Mask:
    """The bounding box of each label instead of its shape."""
    labels = np.zeros_like(one.labels)
    for label, box in enumerate(ndimage.find_objects(one.labels), 1):
        if box:
            labels[box] = label
    return mask_of(one, labels)


def _canal(one: Case, rng: Rng) -> Mask:
    """The spinal canal in the place of its vertebrae: 9 mm around the cord."""
    labels = np.zeros_like(one.labels)
    points = one.points_mm()
    for label in range(1, 10):
        of_level = points[one.labels == label]
        if len(of_level) == 0:
            continue
        middle = (of_level.max(axis=0) + of_level.min(axis=0)) / 2
        near = np.hypot(points[..., 0] - middle[0], points[..., 1] - middle[1] + 1) < 7
        labels[near & (np.abs(points[..., 2] - middle[2]) < 7)] = label
    return mask_of(one, labels)


def _beside_the_spine(one: Case, rng: Rng) -> Mask:
    """A ball in the muscle beside each vertebra."""
    labels = np.zeros_like(one.labels)
    points = one.points_mm()
    for label in range(1, 10):
        of_level = points[one.labels == label]
        if len(of_level):
            middle = of_level.mean(axis=0) + np.array([40, -5, 0])
            labels[np.linalg.norm(points - middle, axis=-1) < 9] = label
    return mask_of(one, labels)


def _background_and_bone_exchanged(one: Case, rng: Rng) -> Mask:
    return mask_of(one, (one.labels == 0).astype(np.uint8))


def _sheared(one: Case, rng: Rng) -> Mask:
    """As if a gantry tilt of 15 degrees had been ignored."""
    points = one.points_mm()
    heights = points[..., 2] - points[one.labels > 0][:, 2].mean()
    points[..., 1] += np.tan(np.radians(15)) * heights
    return mask_of(one, _taken(one, points))


def _slices_shuffled(one: Case, rng: Rng) -> Mask:
    return mask_of(one, one.labels[rng.permutation(len(one.labels))])


def _slices_exchanged_in_pairs(one: Case, rng: Rng) -> Mask:
    index = np.minimum(np.arange(len(one.labels)) ^ 1, len(one.labels) - 1)
    return mask_of(one, one.labels[index])


def _slices_wrapped(one: Case, rng: Rng) -> Mask:
    return mask_of(one, np.roll(one.labels, 20, 0))


def _upper_half_repeated(one: Case, rng: Rng) -> Mask:
    labels = one.labels.copy()
    half = len(labels) // 2
    labels[:half] = labels[-half:]
    return mask_of(one, labels)


def _lower_half_front_to_back(one: Case, rng: Rng) -> Mask:
    flipped = _flipped_in_place(1)(one, rng).labels
    lower = np.arange(len(one.labels))[:, None, None] < len(one.labels) // 2
    return mask_of(one, np.where(lower, flipped, one.labels))


def _left_half_renumbered(one: Case, rng: Rng) -> Mask:
    labels = one.labels.copy()
    left = labels[:, :, int(np.argwhere(labels)[:, 2].mean()) :]
    left[left > 0] += 1
    return mask_of(one, labels)


def _discs(one: Case, rng: Rng) -> Mask:
    """The discs in the place of the vertebrae."""
    labels, points = np.zeros_like(one.labels), one.points_mm()
    centers = [points[one.labels == label].mean(axis=0) for label in range(1, 10)]
    for label, (upper, lower) in enumerate(pairwise(centers), 1):
        x, y, z = np.moveaxis(points - (upper + lower) / 2 - [0, -8, 0], -1, 0)
        labels[(np.hypot(x, y) < 9) & (np.abs(z) < 3)] = label
    return mask_of(one, labels)


def _other_bone(one: Case, rng: Rng) -> Mask:
    """Skull, jaw, ribs and collar bones, numbered by height."""
    numbers = (np.arange(len(one.labels))[::-1] * 9 // len(one.labels) + 1)[:, None, None]
    return mask_of(one, np.where((one.hu > 300) & (one.labels == 0), numbers, 0).astype(np.uint8))


def _checkerboard(one: Case, rng: Rng) -> Mask:
    return mask_of(
        one, np.where(np.indices(one.labels.shape).sum(axis=0) % 2, one.labels, 0).astype(np.uint8)
    )


def _dilated_by_8_mm(one: Case, rng: Rng) -> Mask:
    spacing = np.linalg.norm(one.affine[:3, :3], axis=0)
    distance, nearest = ndimage.distance_transform_edt(one.labels == 0, return_indices=True, sampling=spacing)
    return mask_of(one, np.where(distance < 8, one.labels[tuple(nearest)], 0).astype(np.uint8))


def _cropped_without_origin(one: Case, rng: Rng) -> Mask:
    return Mask(cropped(one).labels, one.affine)


def _upside_down_and_renumbered(one: Case, rng: Rng) -> Mask:
    """Each vertebra upside down, the numbers from head to foot all the same."""
    table = np.arange(256, dtype=np.uint8)
    table[1:10] = np.arange(9, 0, -1)
    return mask_of(one, table[_flipped_in_place(0)(one, rng).labels])


def _all_numbers_in_c2(one: Case, rng: Rng) -> Mask:
    labels = np.zeros_like(one.labels)
    index = np.nonzero(one.labels == 2)
    labels[index] = rng.integers(1, 8, len(index[0]))
    return mask_of(one, labels)


def _every_slice_of(step: int, axis: int = 0) -> Fault:
    def change(one: Case, rng: Rng) -> Mask:
        labels = np.zeros_like(one.labels)
        part = tuple(slice(None, None, step) if k == axis else slice(None) for k in range(3))
        labels[part] = one.labels[part]
        return mask_of(one, labels)

    return change


FAULTS: dict[str, tuple[Fault, set[str]]] = {
    "numbers reversed": (_renumbered(**{f"L{k}": 10 - k for k in range(1, 10)}), {IMPLAUSIBLE}),
    "cervical numbers reversed": (_renumbered(**{f"L{k}": 8 - k for k in range(1, 8)}), {IMPLAUSIBLE}),
    "C1 and C2 exchanged": (_renumbered(L1=2, L2=1), {IMPLAUSIBLE}),
    "C3 and C4 exchanged": (_renumbered(L3=4, L4=3), {IMPLAUSIBLE}),
    "C7 and T1 exchanged": (_renumbered(L7=8, L8=7), {IMPLAUSIBLE}),
    "T1 and T2 exchanged": (_renumbered(L8=9, L9=8), {IMPLAUSIBLE}),
    "C2 and C6 exchanged": (_renumbered(L2=6, L6=2), {IMPLAUSIBLE}),
    "numbers rotated by one": (_renumbered(**{f"L{k}": k % 9 + 1 for k in range(1, 10)}), {IMPLAUSIBLE}),
    "numbers in random order": (_permuted, {IMPLAUSIBLE}),
    "front to back": (_flipped(1), {IMPLAUSIBLE}),
    "upside down": (_flipped(0), {IMPLAUSIBLE}),
    "upside down and front to back": (_flipped(0, 1), {IMPLAUSIBLE}),
    "turned by 180 degrees in the plane": (_flipped(1, 2), {IMPLAUSIBLE}),
    "front to back in place": (_flipped_in_place(1), {IMPLAUSIBLE}),
    "upside down in place": (_flipped_in_place(0), {IMPLAUSIBLE}),
    "rows and columns exchanged": (_transposed, {IMPLAUSIBLE}),
    "turned by 90 degrees in the plane": (_turned_in_plane, {IMPLAUSIBLE}),
    "turned by 20 degrees about left": (_turned(20, (1, 2)), {IMPLAUSIBLE}),
    "turned by 25 degrees about superior": (_turned(25, (0, 1)), {IMPLAUSIBLE}),
    "turned by 15 degrees about superior": (_turned(15, (0, 1)), {IMPLAUSIBLE}),
    "turned by 15 degrees about posterior": (_turned(15, (0, 2)), {IMPLAUSIBLE}),
    "axes of the array reversed": (_array_axes_reversed, {OUTSIDE}),
    "LPS written as RAS": (_lps_as_ras, {OUTSIDE}),
    "affine without position": (_without_affine, {OUTSIDE}),
    "shifted by 5 mm to the side": (_shifted(5, 0, 0), {IMPLAUSIBLE}),
    "shifted by 10 mm to the side": (_shifted(10, 0, 0), {IMPLAUSIBLE}),
    "shifted by 30 mm to the side": (_shifted(30, 0, 0), {IMPLAUSIBLE}),
    "shifted by 6 mm to the front or back": (_shifted(0, 6, 0), {IMPLAUSIBLE}),
    "shifted by 15 mm to the front or back": (_shifted(0, 15, 0), {IMPLAUSIBLE}),
    "shifted by 5 mm up or down": (_shifted(0, 0, 5), {IMPLAUSIBLE}),
    "shifted by half a vertebra": (_shifted(0, 0, 9), {IMPLAUSIBLE}),
    "shifted by a vertebra": (_shifted(0, 0, 17), {IMPLAUSIBLE}),
    "shifted by 30 mm up or down": (_shifted(0, 0, 30), {IMPLAUSIBLE}),
    "shifted by 8 mm along each axis": (_shifted(8, 8, 8), {IMPLAUSIBLE}),
    "own grid 12 mm off": (_shifted_by_affine(12), {IMPLAUSIBLE}),
    "own grid 25 mm off": (_shifted_by_affine(25), {IMPLAUSIBLE, OUTSIDE}),
    "voxels a quarter too large": (_scaled(1.25), {IMPLAUSIBLE}),
    "voxels a tenth too small": (_scaled(0.9), {IMPLAUSIBLE}),
    "slices a third too thick": (_scaled(1.33, (0,)), {IMPLAUSIBLE}),
    "another patient's": (_of_another_patient, {IMPLAUSIBLE}),
    "another patient's at the same position": (_of_another_patient_in_place, {IMPLAUSIBLE}),
    "empty": (_empty, {IMPLAUSIBLE}),
    "binary": (_binary(1), {IMPLAUSIBLE}),
    "binary with a thoracic number": (_binary(8), {IMPLAUSIBLE}),
    "all bone as one label": (_thresholded, {IMPLAUSIBLE}),
    "one voxel for each label": (_one_voxel_each, {IMPLAUSIBLE}),
    "one column for each label": (_columns(0), {IMPLAUSIBLE}),
    "one row for each label": (_columns(2), {IMPLAUSIBLE}),
    "enlarged with interpolated numbers": (_enlarged, {IMPLAUSIBLE}),
    "moved by half a slice with interpolated numbers": (_moved_with_interpolation(0.5, 0, 0), {IMPLAUSIBLE}),
    "moved in the plane with interpolated numbers": (_moved_with_interpolation(0, 0.4, 0.4), {IMPLAUSIBLE}),
    "blurred numbers": (_blurred, {IMPLAUSIBLE}),
    "averaged numbers": (_averaged, {IMPLAUSIBLE}),
    "one label everywhere": (_constant(1), {IMPLAUSIBLE}),
    "T3 everywhere": (_constant(10), {IMPLAUSIBLE}),
    "lower half labelled": (_half, {IMPLAUSIBLE}),
    "slice numbers": (_slice_numbers, {IMPLAUSIBLE}),
    "slice numbers within the body": (_slice_numbers_in_body, {IMPLAUSIBLE}),
    "noise everywhere": (_noise(1.0), {IMPLAUSIBLE}),
    "noise in a third": (_noise(0.3), {IMPLAUSIBLE}),
    "noise in a thousandth": (_noise(0.001), {IMPLAUSIBLE}),
    "noise within the labels": (_noise_in_labels, {IMPLAUSIBLE}),
    "HU as labels": (_hu_as_labels, {"LABEL_UNKNOWN"}),
    "HU scaled to labels": (_hu_scaled_to_labels, {IMPLAUSIBLE}),
    "only a corner labelled": (_corner(1), {IMPLAUSIBLE}),
    "nine labels in a corner": (_corner(8), {IMPLAUSIBLE}),
    "numbers times ten": (_numbers_times_ten, {"LABEL_UNKNOWN"}),
    "half numbers": (_halves, {"MASK_UNREADABLE"}),
    "boxes for shapes": (_boxes, {IMPLAUSIBLE}),
    "the spinal canal": (_canal, {IMPLAUSIBLE}),
    "muscle": (_beside_the_spine, {IMPLAUSIBLE}),
    "sheared by 15 degrees": (_sheared, {IMPLAUSIBLE}),
    "slices in random order": (_slices_shuffled, {IMPLAUSIBLE}),
    "slices wrapped around": (_slices_wrapped, {IMPLAUSIBLE}),
    "upper half repeated below": (_upper_half_repeated, {IMPLAUSIBLE}),
    "lower half front to back": (_lower_half_front_to_back, {IMPLAUSIBLE}),
    "discs": (_discs, {IMPLAUSIBLE}),
    "other bones": (_other_bone, {IMPLAUSIBLE}),
    "checkerboard": (_checkerboard, {IMPLAUSIBLE}),
    "dilated by 8 mm": (_dilated_by_8_mm, {IMPLAUSIBLE}),
    "cropped without its origin": (_cropped_without_origin, {IMPLAUSIBLE}),
    "upside down and renumbered": (_upside_down_and_renumbered, {IMPLAUSIBLE}),
    "slices 40 % too thin": (_scaled(0.6, (0,)), {IMPLAUSIBLE}),
    "all numbers in C2": (_all_numbers_in_c2, {IMPLAUSIBLE}),
    "drawn in every second slice": (_every_slice_of(2), {IMPLAUSIBLE}),
    "drawn in every third slice": (_every_slice_of(3), {IMPLAUSIBLE}),
    "drawn in every fifth slice": (_every_slice_of(5), {IMPLAUSIBLE}),
    "drawn in every second sagittal slice": (_every_slice_of(2, 2), {IMPLAUSIBLE}),
    "drawn in every fifth sagittal slice": (_every_slice_of(5, 2), {IMPLAUSIBLE}),
    "background and labels exchanged": (_background_and_bone_exchanged, {IMPLAUSIBLE}),
}
"""By name: the fault, and the codes of which each of its studies must be refused with one."""


def _one_level_moved(one: Case, rng: Rng) -> Mask:
    """C4 in the muscle behind its place."""
    labels = np.where(one.labels == 4, 0, one.labels)
    points = one.points_mm()
    moved = _taken(one, points - [0.0, 25.0, 0.0])
    return mask_of(one, np.where((labels == 0) & (moved == 4), 4, labels).astype(np.uint8))


def _half_a_voxel_off(one: Case, rng: Rng) -> Mask:
    affine = one.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [0.5, 0.5, 0.5]
    return Mask(one.labels, affine)


def _two_as_one(one: Case, rng: Rng) -> Mask:
    return mask_of(one, np.where(one.labels == 5, 4, one.labels).astype(np.uint8))


def _balls(one: Case, rng: Rng) -> Mask:
    """A ball of 6 mm in the front of each vertebra instead of its shape."""
    labels = np.zeros_like(one.labels)
    points = one.points_mm()
    for label in range(1, 10):
        of_level = points[one.labels == label]
        if len(of_level):
            front = of_level[of_level[:, 1] < of_level[:, 1].min() + 12].mean(axis=0)
            labels[np.linalg.norm(points - front, axis=-1) < 6] = label
    return mask_of(one, labels)


def _map_ends(axis: int, share: float, *, begins: bool = False, label: int = 0) -> Fault:
    """A grid of its own that ends, or begins, at this share of a label's extent, or that of all labels."""

    def change(one: Case, rng: Rng) -> Mask:
        chosen = one.labels == label if label else one.labels > 0
        shown = np.flatnonzero(chosen.any(axis=tuple(k for k in range(3) if k != axis)))
        at = int(shown[0] + share * (shown[-1] - shown[0]))
        part = [slice(None)] * 3
        part[axis] = slice(at, None) if begins else slice(0, at)
        affine = one.affine.copy()
        if begins:
            affine[:3, 3] += affine[:3, axis] * at
        return Mask(one.labels[tuple(part)], affine)

    return change


def _part_of_level(label: int, axis: int, first: float, last: float) -> Fault:
    """Of this label only what is between two shares of its extent along an axis (LPS)."""

    def change(one: Case, rng: Rng) -> Mask:
        along = one.points_mm()[..., axis]
        of_level = along[one.labels == label]
        share = (along - of_level.min()) / np.ptp(of_level)
        lost = (one.labels == label) & ((share < first) | (share > last))
        return mask_of(one, np.where(lost, 0, one.labels))

    return change


def _leak(label: int, length_mm: float, radius_mm: float) -> Fault:
    """A rod of this label from its vertebra to the front."""

    def change(one: Case, rng: Rng) -> Mask:
        points = one.points_mm()
        of_level = points[one.labels == label]
        offset = points - (of_level.min(axis=0) + of_level.max(axis=0)) / 2
        rod = (np.hypot(offset[..., 0], offset[..., 2]) < radius_mm) & (
            np.abs(offset[..., 1] + 20) < length_mm
        )
        return mask_of(one, np.where(rod & (one.labels == 0), label, one.labels).astype(np.uint8))

    return change


WARNED: dict[str, tuple[Fault, set[str]]] = {
    "numbered from C2": (_renumbered(**{f"L{k}": k + 1 for k in range(1, 10)}), {"NUMBERING_UNUSUAL"}),
    "C1 without a label, C2 numbered C1": (
        _renumbered(**{f"L{k}": k - 1 for k in range(1, 10)}),
        {"NUMBERING_UNUSUAL"},
    ),
    "C4 without a label": (_renumbered(L4=0), {"LEVEL_MISSING"}),
    "C4 and C5 as one label": (_two_as_one, {"LEVEL_MISSING"}),
    "one level beside the spine": (_one_level_moved, {"BONE_FAINT"}),
    "edges taken for centres": (_half_a_voxel_off, {"MASK_SHIFTED"}),
    "slices exchanged in pairs": (_slices_exchanged_in_pairs, {"LEVELS_FUSED"}),
    "left half numbered one too high": (_left_half_renumbered, {"LEVELS_FUSED"}),
    "two vertebrae a number": (
        _renumbered(L2=1, L3=2, L4=2, L5=3, L6=3, L7=4, L8=4, L9=5),
        {"LEVEL_SIZE", "LEVEL_DISTANCE", "LEVEL_MISSING"},
    ),
    "only odd numbers": (
        _renumbered(L2=3, L3=5, L4=7, L5=9, L6=11, L7=13, L8=15, L9=17),
        {"LEVEL_MISSING"},
    ),
    "map ends within the right half": (_map_ends(2, 0.5), {"LEVEL_CUT"}),
    "map ends at two thirds of the width": (_map_ends(2, 0.6), {"LEVEL_CUT"}),
    "map of the rear half": (_map_ends(1, 0.5, begins=True), {"LEVEL_CUT"}),
    **{
        f"map {'begins' if begins else 'ends'} within C{label}": (
            _map_ends(0, 0.5, begins=begins, label=label),
            {"LEVEL_CUT", "VERTEBRA_AMBIGUOUS"},
        )
        for label in (3, 4, 7)
        for begins in (False, True)
    },
    **{
        f"only the {part} of C{level}": (
            _part_of_level(level, *bounds),
            {"LEVEL_CUT", "LEVEL_OFF_CURVE", "LEVEL_SIZE"},
        )
        for level in (1, 2, 4, 7)
        for part, bounds in {
            "right half": (0, 0.0, 0.5),
            "left half": (0, 0.5, 1.0),
            "front half": (1, 0.0, 0.5),
            "rear half": (1, 0.5, 1.0),
            "arch": (1, 0.4, 1.0),
            "lower half": (2, 0.0, 0.5),
            "upper half": (2, 0.5, 1.0),
        }.items()
        if (level, part) != (2, "lower half")
    },
    "C4 with a leak to the front": (_leak(4, 18, 4), {"LEVEL_SIZE"}),
    "balls for shapes": (_balls, {"LEVEL_SIZE", IMPLAUSIBLE}),
}
"""What a real neck could explain, and the codes of which each study must have one, as warning or refusal."""
