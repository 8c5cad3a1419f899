"""Necks with known pathologies, built from the phantom's parts, and their studies on disk.

A `Case` is the truth: HU and labels, slice by slice, in the order of the files. Its labels follow from the
shapes that were painted, not from any code that is tested.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from spine_etl.phantom.anatomy import Neck, Part, build_neck
from spine_etl.phantom.render import Renderer
from spine_etl.phantom.scanner import EXPLICIT, PixelFormat, Scan, plan_scan
from spine_etl.phantom.shapes import CAPSULE, shape_boxes

Labels = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float64]
Change = Callable[[Neck, np.random.Generator], Neck]

SLICES, SIZE = 72, 88
_FORMAT = PixelFormat(16, True, 0, None)
_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Case:
    """A CT and its true labels, (slice from foot to head, row, column); ``affine`` maps that to LPS mm."""

    scan: Scan
    hu: npt.NDArray[np.int16]
    labels: Labels

    @property
    def affine(self) -> Array:
        """(4, 4): index (slice, row, column, 1) to LPS mm."""
        foot, head = self.scan.positions_mm[[0, -1]]
        affine = np.eye(4)
        affine[:3, 0] = (head - foot) / (len(self.scan.positions_mm) - 1)
        affine[:3, 1] = self.scan.along_column * self.scan.pixel_spacing_mm
        affine[:3, 2] = self.scan.along_row * self.scan.pixel_spacing_mm
        affine[:3, 3] = foot
        return affine

    def points_mm(self) -> Array:
        """(slices, rows, columns, 3): LPS of every voxel."""
        index = np.moveaxis(np.indices(self.labels.shape, np.float64), 0, -1)
        return index @ self.affine[:3, :3].T + self.affine[:3, 3]

    def part(self, slices: slice) -> Case:
        """The same study with fewer slices."""
        scan = replace(
            self.scan,
            positions_mm=self.scan.positions_mm[slices],
            position_strings=self.scan.position_strings[slices],
        )
        return Case(scan, self.hu[slices], self.labels[slices])


@lru_cache(128)
def case(
    index: int,
    seed: int = 0,
    change: Change | None = None,
    slices: int = SLICES,
    size: int = SIZE,
) -> Case:
    """Paint the neck of this index, changed by a function of this module; equal arguments, equal voxels."""
    rng = np.random.default_rng([seed, index, 77])
    neck = build_neck(rng)
    plain = plan_scan(neck, rng, 2 + 24310 * index, EXPLICIT, slices, size)  # foot to head, even, not oblique
    scan = replace(plain, pixels=_FORMAT, first_file=1)
    if change:
        neck = change(neck, np.random.default_rng([seed, index, 78]))
    renderer = Renderer(neck, scan, rng)
    labels = np.zeros((slices, size, size), np.uint16)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        planes = list(threads.map(lambda k: renderer.slice(k, labels[k]), range(slices)))
    hu = np.stack(planes).astype(np.int16)
    hu.setflags(write=False)
    true = labels.astype(np.uint8)
    true.setflags(write=False)
    return Case(scan, hu, true)


def scoliosis(degrees: float) -> Change:
    """The spine as an arc in the frontal plane, with this angle between its first and last vertebra."""

    def bend(neck: Neck, rng: np.random.Generator) -> Neck:
        return _bent(neck, np.radians(degrees), axis=0)

    return bend


def flexion(degrees: float) -> Change:
    """The spine bent by this angle more to the front (negative: to the back) than it was."""

    def bend(neck: Neck, rng: np.random.Generator) -> Neck:
        return _bent(neck, np.radians(-degrees), axis=1)

    return bend


def _bent(neck: Neck, angle: float, axis: int) -> Neck:
    """Bend all parts that have a frame of their own along a circle in the plane of z and ``axis``."""
    heights = [part.origin_mm[2] for part in neck.vertebrae]
    low, high = min(heights), max(heights)
    middle = (low + high) / 2
    radius = (high - low) / angle

    def move(part: Part) -> Part:
        if not part.origin_mm.any():
            return part  # vessels and airways, which run through the whole neck
        turn = np.clip((part.origin_mm[2] - middle) / radius, -1.2, 1.2)
        across = radius * (1 - np.cos(turn))
        origin = part.origin_mm.copy()
        origin[axis] += across
        origin[2] = middle + radius * np.sin(turn)
        rotation = np.eye(3)
        rotation[[axis, axis, 2, 2], [axis, 2, axis, 2]] = [
            np.cos(turn),
            np.sin(turn),
            -np.sin(turn),
            np.cos(turn),
        ]
        return replace(part, origin_mm=origin, rotation=rotation @ part.rotation)

    return replace(neck, vertebrae=tuple(map(move, neck.vertebrae)), tissues=tuple(map(move, neck.tissues)))


def relabelled(*labels: int) -> Change:
    """Other labels, from head to foot; 0 leaves a vertebra's bone without a label."""

    def change(neck: Neck, rng: np.random.Generator) -> Neck:
        parts = (replace(part, label=label) for part, label in zip(neck.vertebrae, labels, strict=True))
        return replace(neck, vertebrae=tuple(parts))

    return change


def fused(*levels: int) -> Change:
    """The vertebrae with these labels and the next ones as blocks: no disc, their bodies touch."""

    def change(neck: Neck, rng: np.random.Generator) -> Neck:
        parts = list(neck.vertebrae)
        tissues = list(neck.tissues)
        for label in levels:
            gap = parts[label - 1].origin_mm - parts[label].origin_mm
            up = gap / np.linalg.norm(gap) * 5.2 * neck.scale
            limit = parts[label].origin_mm[2] + 1
            parts[label:] = [replace(part, origin_mm=part.origin_mm + up) for part in parts[label:]]
            tissues = [
                replace(part, origin_mm=part.origin_mm + up)
                if part.origin_mm.any() and part.origin_mm[2] < limit
                else part
                for part in tissues
            ]
        return replace(neck, vertebrae=tuple(parts), tissues=tuple(tissues))

    return change


def without(level: int) -> Change:
    """The vertebra with this label has never formed."""

    def change(neck: Neck, rng: np.random.Generator) -> Neck:
        return replace(neck, vertebrae=tuple(part for part in neck.vertebrae if part.label != level))

    return change


def bone_density(shell_hu: float, core_hu: float) -> Change:
    """Other HU of cortex and marrow; low ones are osteoporosis."""

    def change(neck: Neck, rng: np.random.Generator) -> Neck:
        parts = (
            replace(part, material=np.array([shell_hu, core_hu, part.material[2] * 0.7, 50.0]))
            for part in neck.vertebrae
        )
        return replace(neck, vertebrae=tuple(parts))

    return change


def contrast(hu: float) -> Change:
    """Vessels with contrast medium."""

    def change(neck: Neck, rng: np.random.Generator) -> Neck:
        tissues = tuple(
            replace(part, material=np.array([hu, hu, 1.0, 0.0]))
            if part.material[0] in (150.0, 110.0)
            else part
            for part in neck.tissues
        )
        return replace(neck, tissues=tissues)

    return change


def _added(label_of: int, neck: Neck, rows: list[list[float]], material: list[float], label: int) -> Part:
    parent = neck.vertebrae[label_of - 1]
    shapes = np.array(rows)
    return Part(parent.origin_mm, parent.rotation, shapes, shape_boxes(shapes), np.array(material), label)


def lysis(*levels: int) -> Change:
    """Half of the body of these vertebrae is tumour of soft-tissue density; the labels include it."""

    def change(neck: Neck, rng: np.random.Generator) -> Neck:
        holes = []
        for level in levels:
            u, v = rng.uniform(-3, 3, 2)
            ball = [CAPSULE, u, v, -2.0, u, v, 2.0, 6.5, 6.5, 1.0]
            holes.append(_added(level, neck, [ball], [55.0, 55.0, 1.0, 10.0], 0))
        return replace(neck, vertebrae=(*neck.vertebrae, *holes))

    return change


def metal(*levels: int, hu: float = 9000.0) -> Change:
    """A plate in front of these vertebrae and two screws in each."""

    def change(neck: Neck, rng: np.random.Generator) -> Neck:
        implants = []
        for level in levels:
            rows = [[CAPSULE, u, -11.0, 0.0, u * 0.6, 5.0, 1.0, 2.0, 1.6, 1.0] for u in (-6.0, 6.0)]
            rows += [[CAPSULE, u, -11.5, -10.0, u, -11.5, 10.0, 2.2, 2.2, 1.0] for u in (-5.0, 5.0)]
            implants.append(_added(level, neck, rows, [hu, hu, 1.0, 0.0], 0))
        return replace(neck, vertebrae=(*neck.vertebrae, *implants))

    return change


def combined(
    *changes: Change,
) -> Change:
    def change(neck: Neck, rng: np.random.Generator) -> Neck:
        for one in changes:
            neck = one(neck, rng)
        return neck

    return change


def noisy(one: Case, sigma_hu: float, seed: int = 0) -> Case:
    """A lower dose: white noise in every voxel."""
    noise = np.random.default_rng(seed).normal(0, sigma_hu, one.hu.shape)
    return replace(one, hu=np.clip(one.hu + noise, -1024, 3071).astype(np.int16))


def streaked(one: Case, hu: float = 2500, strength: float = 600) -> Case:
    """Dark and bright streaks through each slice that contains metal, along its rows and diagonals."""
    changed = one.hu.astype(np.float64)
    for plane in changed:
        rows, columns = np.nonzero(plane > hu)
        if not len(rows):
            continue
        r, c = np.indices(plane.shape)
        r, c = r - rows.mean(), c - columns.mean()
        angle = np.arctan2(r, c)
        plane += strength * np.sin(9 * angle) / (1 + np.hypot(r, c) / 8)
    return replace(one, hu=np.clip(changed, -1024, 3071).astype(np.int16))
