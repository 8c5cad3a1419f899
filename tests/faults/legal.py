"""Masks that are right by construction, of healthy and of pathological necks, in every form of file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import permutations, product

import numpy as np
from scipy import ndimage

from tests.faults import necks
from tests.faults.faults import cropped
from tests.faults.files import Mask, mask_of
from tests.faults.necks import Array, Case, Change, Labels, case

NONE = (0,) * 9

NECKS: dict[str, Change | None] = {
    "healthy": None,
    "scoliosis of 30 degrees": necks.scoliosis(30),
    "scoliosis of -30 degrees": necks.scoliosis(-30),
    "scoliosis of 45 degrees": necks.scoliosis(45),
    "flexion": necks.flexion(35),
    "extension": necks.flexion(-30),
    "C3 and C4 fused": necks.fused(3),
    "C3 to C5 fused": necks.fused(3, 4),
    "C2 to C7 fused": necks.fused(2, 3, 4, 5, 6),
    "C4 never formed": necks.without(4),
    "C4 without a label": necks.relabelled(1, 2, 3, 0, 5, 6, 7, 8, 9),
    "C3, C5 and C7 without labels": necks.relabelled(1, 2, 0, 4, 0, 6, 0, 8, 9),
    "six cervical levels": necks.relabelled(1, 2, 3, 4, 5, 6, 8, 9, 10),
    "numbered from C2": necks.relabelled(2, 3, 4, 5, 6, 7, 8, 9, 10),
    "numbered one too high": necks.relabelled(0, 1, 2, 3, 4, 5, 6, 7, 8),
    "no thoracic labels": necks.relabelled(1, 2, 3, 4, 5, 6, 7, 0, 0),
    "only C3": necks.relabelled(0, 0, 3, 0, 0, 0, 0, 0, 0),
    "only C1": necks.relabelled(1, 0, 0, 0, 0, 0, 0, 0, 0),
    "only C1 and C2": necks.relabelled(1, 2, 0, 0, 0, 0, 0, 0, 0),
    "only C6 and C7": necks.relabelled(0, 0, 0, 0, 0, 6, 7, 0, 0),
    "only T1 and T2": necks.relabelled(0, 0, 0, 0, 0, 0, 0, 8, 9),
    "osteoporosis": necks.bone_density(420, 75),
    "severe osteoporosis": necks.bone_density(320, 50),
    "dense bone": necks.bone_density(1500, 900),
    "contrast medium": necks.contrast(450),
    "contrast medium and osteoporosis": necks.combined(necks.contrast(500), necks.bone_density(420, 90)),
    "lysis of C3, C5 and C6": necks.lysis(3, 5, 6),
    "lysis of every body": necks.lysis(2, 3, 4, 5, 6, 7, 8, 9),
    "metal in C4 to C6": necks.metal(4, 5, 6),
    "metal in C3 to C7": necks.metal(3, 4, 5, 6, 7, hu=20000),
    "metal, osteoporosis and a fusion": necks.combined(
        necks.fused(4), necks.bone_density(420, 75), necks.metal(4, 5)
    ),
    "only C3, metal in C4 and C5": necks.combined(
        necks.relabelled(0, 0, 3, 0, 0, 0, 0, 0, 0), necks.metal(4, 5)
    ),
    "only C5, with lysis": necks.combined(necks.relabelled(0, 0, 0, 0, 5, 0, 0, 0, 0), necks.lysis(5)),
    "only C4, osteoporosis": necks.combined(
        necks.relabelled(0, 0, 0, 4, 0, 0, 0, 0, 0), necks.bone_density(380, 60)
    ),
    "only C4 and C5, osteoporosis": necks.combined(
        necks.relabelled(0, 0, 0, 4, 5, 0, 0, 0, 0), necks.bone_density(380, 60)
    ),
}
"""By name: how the neck differs from a healthy one."""

SCANS: dict[str, tuple[str, Callable[[Case], Case]]] = {
    "low dose": ("healthy", lambda one: necks.noisy(one, 100)),
    "very low dose": ("healthy", lambda one: necks.noisy(one, 200)),
    "low dose and osteoporosis": ("osteoporosis", lambda one: necks.noisy(one, 80)),
    "very low dose and osteoporosis": ("osteoporosis", lambda one: necks.noisy(one, 140)),
    "low dose, only C4": ("only C4, osteoporosis", lambda one: necks.noisy(one, 60)),
    "streaks from metal": ("metal in C4 to C6", necks.streaked),
    "strong streaks from metal": ("metal in C3 to C7", lambda one: necks.streaked(one, strength=1200)),
    "HU 1000 too high": ("healthy", lambda one: replace(one, hu=(one.hu + 1000).astype(np.int16))),
    "HU 150 too low": (
        "healthy",
        lambda one: replace(one, hu=np.maximum(one.hu - 150, -1024).astype(np.int16)),
    ),
    "field ends below C1": ("healthy", lambda one: _field(one, 0, 0.72)),
    "field begins at C4": ("healthy", lambda one: _field(one, 0.45, 1)),
    "field of C3 to C5": ("healthy", lambda one: _field(one, 0.4, 0.7)),
    "field of one vertebra": ("healthy", lambda one: _field(one, 0.5, 0.62)),
    "field of half a vertebra": ("healthy", lambda one: _field(one, 0.5, 0.56)),
    "narrow field with osteoporosis": ("osteoporosis", lambda one: _field(one, 0.4, 0.6)),
    "narrow field with metal": ("metal in C4 to C6", lambda one: _field(one, 0.4, 0.65)),
}
"""By name: a neck of `NECKS`, and how its scan differs."""


def _field(one: Case, first: float, last: float) -> Case:
    """Slices between two shares of the height of the labels, or to the scan's own end at 0 and 1."""
    z = np.flatnonzero(one.labels.any(axis=(1, 2)))
    begin = 0 if first == 0 else int(z[0] + first * (z[-1] - z[0]))
    end = len(one.labels) if last == 1 else int(z[0] + last * (z[-1] - z[0]))
    return one.part(slice(begin, end))


def _regridded(one: Case, shape: tuple[int, ...], affine: Array) -> Mask:
    """The nearest true label at each voxel of another grid."""
    index = np.moveaxis(np.indices(shape, np.float64), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    inverse = np.linalg.inv(one.affine)
    voxel = np.rint(index @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    inside = ((voxel >= 0) & (voxel < one.labels.shape)).all(axis=-1)
    voxel[~inside] = 0
    return Mask(np.where(inside, one.labels[tuple(np.moveaxis(voxel, -1, 0))], 0).astype(np.uint8), affine)


def _isotropic(spacing: float) -> Callable[[Case], Mask]:
    """A grid along the patient's axes over the whole CT."""

    def regrid(one: Case) -> Mask:
        corners = one.points_mm()[
            :: len(one.labels) - 1, :: one.labels.shape[1] - 1, :: one.labels.shape[2] - 1
        ]
        low, high = corners.min(axis=(0, 1, 2)), corners.max(axis=(0, 1, 2))
        affine = np.zeros((4, 4))
        affine[[2, 1, 0], [0, 1, 2]] = spacing
        affine[:3, 3], affine[3, 3] = low, 1
        return _regridded(one, tuple(np.ceil((high - low) / spacing).astype(int)[::-1] + 1), affine)

    return regrid


def _oblique(degrees: float) -> Callable[[Case], Mask]:
    def regrid(one: Case) -> Mask:
        mask = _isotropic(2.0)(one)
        angle = np.radians(degrees)
        turn = np.array(
            [
                [np.cos(angle), -np.sin(angle), 0],
                [np.sin(angle) * np.cos(angle), np.cos(angle) ** 2, -np.sin(angle)],
                [np.sin(angle) ** 2, np.sin(angle) * np.cos(angle), np.cos(angle)],
            ]
        )
        affine = mask.affine.copy()
        middle = affine[:3, :3] @ ((np.array(mask.labels.shape) - 1) / 2) + affine[:3, 3]
        affine[:3, :3] = turn @ affine[:3, :3]
        affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(mask.labels.shape) - 1) / 2)
        return _regridded(one, mask.labels.shape, affine)

    return regrid


def _reordered(order: tuple[int, ...], signs: tuple[int, ...]) -> Callable[[Case], Mask]:
    """The same voxels with the axes stored in another order and direction."""

    def reorder(one: Case) -> Mask:
        reverse = np.diag([*map(float, signs), 1.0])
        reverse[:3, 3] = [(n - 1) * (s < 0) for n, s in zip(one.labels.shape, signs, strict=True)]
        labels = one.labels[tuple(slice(None, None, s) for s in signs)].transpose(order)
        return Mask(labels, (one.affine @ reverse)[:, [*order, 3]])

    return reorder


def _drawn(change: Callable[[Labels], Labels]) -> Callable[[Case], Mask]:
    return lambda one: mask_of(one, change(one.labels))


def _dilated(labels: Labels, voxels: int = 1) -> Labels:
    distance, nearest = ndimage.distance_transform_edt(labels == 0, return_indices=True)
    return np.where(distance <= voxels, labels[tuple(nearest)], 0).astype(np.uint8)


def _eroded(labels: Labels) -> Labels:
    kept = np.zeros_like(labels)
    for label in range(1, 11):
        kept[ndimage.binary_erosion(labels == label)] = label
    return kept


def _smoothed(labels: Labels) -> Labels:
    """The label with the largest share of a Gaussian around each voxel."""
    shares = np.stack([ndimage.gaussian_filter((labels == k).astype(float), 1.0) for k in range(11)])
    return shares.argmax(axis=0).astype(np.uint8)


def _bodies(labels: Labels) -> Labels:
    """Only the front half of each vertebra."""
    kept = labels.copy()
    for label, box in enumerate(ndimage.find_objects(labels), 1):
        if box:
            back = (slice(None), slice((box[1].start + box[1].stop) // 2, None))
            kept[back][kept[back] == label] = 0
    return kept


def _with_holes(labels: Labels) -> Labels:
    """A tenth of the labelled voxels are missing."""
    return np.where(np.random.default_rng(0).random(labels.shape) < 0.1, 0, labels).astype(np.uint8)


def _with_islands(labels: Labels) -> Labels:
    changed = labels.copy()
    changed[2:4, 10:13, 10:13] = 2
    changed[-4:-2, 50:53, 60:63] = 7
    return changed


def _of_every_third_slice(labels: Labels) -> Labels:
    """Drawn in every third slice and copied to its neighbours."""
    return labels[np.minimum(np.arange(len(labels)) // 3 * 3 + 1, len(labels) - 1)]


MASKS: dict[str, Callable[[Case], Mask]] = {
    "coarser grid": _isotropic(4.0),
    "much coarser grid": _isotropic(6.0),
    "finer grid": _isotropic(1.2),
    "oblique grid": _oblique(20),
    "very oblique grid": _oblique(40),
    "cropped grid": lambda one: cropped(one),
    "grid cropped to the labels": lambda one: cropped(one, 0),
    "edges for centres": lambda one: Mask(
        one.labels, one.affine + np.pad((one.affine[:3, :3] @ [0.5, 0.5, 0.5])[:, None], ((0, 1), (3, 0)))
    ),
    "float32": lambda one: mask_of(one, one.labels.astype(np.float32)),
    "int16": lambda one: mask_of(one, one.labels.astype(np.int16)),
    "dilated": _drawn(_dilated),
    "dilated twice": _drawn(lambda labels: _dilated(labels, 2)),
    "eroded": _drawn(_eroded),
    "smoothed": _drawn(_smoothed),
    "only bodies": _drawn(_bodies),
    "holes": _drawn(_with_holes),
    "islands": _drawn(_with_islands),
    "drawn in every third slice": _drawn(_of_every_third_slice),
}
"""By name: how a mask is stored or drawn."""


FINE = ("eroded", "dilated twice")
"""Names in `MASKS` for voxels of about 1.2 mm, so that nothing is drawn further off than a person would."""


def axis_orders() -> Iterator[tuple[str, Callable[[Case], Mask]]]:
    """All 48 orders and directions of the axes."""
    for order in permutations(range(3)):
        for signs in product((1, -1), repeat=3):
            yield f"axes {order} {signs}", _reordered(order, signs)


def scan(name: str, index: int, seed: int, *, fine: bool = False) -> Case:
    """The scan of this name in `NECKS` or `SCANS`."""
    if name in NECKS:
        return case(index, seed, NECKS[name], *((120, 140) if fine else ()))
    neck, change = SCANS[name]
    return change(case(index, seed, NECKS[neck]))
