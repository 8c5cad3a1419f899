"""A neck in millimetres: C1 to T2 along a lordotic curve, and the tissues around them.

Sizes follow the usual textbook means of adult cervical vertebrae (bodies 16-20 mm wide, 14-17 deep, 12-15
high, discs 5 mm, C1 about 75 mm across, spinous processes longer toward C7). Each neck has its own scale,
curve, tilt, rotation and small asymmetries. The frame of a part is u to Left, v to Posterior, w to Superior.
The frame of the neck is LPS; its origin depends on the position of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from spine_etl.geometry import FloatArray
from spine_etl.phantom.shapes import BODY, CAPSULE, NO_CUT, SHELL, part_bounds, shape_boxes

LEVELS = ("C1", "C2", "C3", "C4", "C5", "C6", "C7", "T1", "T2")
"""Levels from head to foot; the label number of a level in the masks is its index here plus 1."""

CERVICAL = LEVELS[:7]
"""The levels that can be fractured and that train.csv lists."""

# In mm: half width, half depth, half height of the body; length, drop of the spinous process.
_BODIES = {
    "C3": (8.6, 7.6, 6.6, 11.0, 4.0),
    "C4": (8.8, 7.7, 6.5, 11.0, 5.0),
    "C5": (9.1, 7.8, 6.4, 13.0, 6.0),
    "C6": (9.6, 8.0, 6.6, 17.0, 8.0),
    "C7": (10.2, 8.2, 7.2, 24.0, 13.0),
    "T1": (11.5, 8.6, 8.0, 25.0, 17.0),
    "T2": (12.0, 9.2, 8.6, 25.0, 20.0),
}
_C2_HALF_HEIGHT_MM, _C1_ABOVE_C2_MM, _DISC_MM = 9.0, 21.0, 5.0

Point = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Part:
    """Shapes with a common frame and material.

    ``rotation`` (3, 3) has u, v and w as its columns, in LPS. ``material`` is the HU of shell and core, the
    thickness of the shell (mm) and the amplitude of the texture (HU). ``label`` is 0 for parts that are not
    in the masks. ``cut`` is the fracture of the part (see `shapes`).
    """

    origin_mm: FloatArray
    rotation: FloatArray
    shapes: FloatArray
    boxes: FloatArray
    material: FloatArray
    label: int = 0
    cut: FloatArray = field(default_factory=NO_CUT.copy)

    def corners_mm(self) -> FloatArray:
        """(8, 3): LPS corners of a box that encloses the part, including fragments moved by its fracture."""
        ends = np.array(part_bounds(self.boxes, self.cut))
        local = np.array(
            [[ends[i, 0], ends[j, 1], ends[k, 2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)]
        )
        corners: FloatArray = local @ self.rotation.T + self.origin_mm
        return corners


@dataclass(frozen=True, eq=False)
class Neck:
    """One patient: ``vertebrae`` C1..T2, other ``tissues`` in painting order, ``outline`` of the skin."""

    vertebrae: tuple[Part, ...]
    tissues: tuple[Part, ...]
    scale: float
    outline: FloatArray
    """(n, 7), z ascending: z, skin centre x and y, half width, half depth, fat thickness, noise factor."""

    def with_cut(self, level: str, cut: FloatArray) -> Neck:
        """A copy of the neck with this fracture in one level."""
        index = LEVELS.index(level)
        vertebrae = list(self.vertebrae)
        vertebrae[index] = replace(vertebrae[index], cut=cut)
        return replace(self, vertebrae=tuple(vertebrae))


def _rod(a: Point, b: Point, r1: float, r2: float | None = None, squeeze: float = 1.0) -> list[float]:
    return [CAPSULE, *a, *b, r1, r1 if r2 is None else r2, squeeze]


def _both(*rows: list[float]) -> list[list[float]]:
    """The rods of the left side and their mirror images on the right."""
    mirrored = [[k, -au, av, aw, -bu, bv, bw, r1, r2, s] for k, au, av, aw, bu, bv, bw, r1, r2, s in rows]
    return [*rows, *mirrored]


def _chain(points: Sequence[Point], radius: float, squeeze: float = 1.0) -> list[list[float]]:
    return [_rod(a, b, radius, None, squeeze) for a, b in pairwise(points)]


def _atlas() -> list[list[float]]:
    return [
        *_both(
            _rod((15.0, -4.0, 0.0), (17.5, 6.0, 0.0), 5.6, 5.4, 0.8),  # lateral mass
            _rod((19.0, -2.0, 0.0), (36.0, 3.0, -1.5), 2.6, 2.9),  # transverse process, anterior root
            _rod((19.0, 9.5, 0.0), (36.0, 3.5, -1.5), 2.5, 2.9),  # posterior root
            _rod((15.0, -5.0, 0.0), (9.0, -9.8, 0.0), 3.0, 2.9, 0.7),  # anterior arch
            _rod((9.0, -9.8, 0.0), (0.0, -11.2, 0.0), 2.9, 3.1, 0.65),
            _rod((17.5, 7.0, 0.0), (18.0, 16.0, 0.0), 3.6, 3.0, 0.75),  # posterior arch
            _rod((18.0, 16.0, 0.0), (12.0, 24.5, 0.0), 3.0, 2.9, 0.7),
            _rod((12.0, 24.5, 0.0), (0.0, 29.0, 0.0), 2.9, 3.3, 0.65),
        )
    ]


def _axis() -> list[list[float]]:
    return [
        [BODY, 0.0, 0.0, 0.0, 9.2, 7.6, _C2_HALF_HEIGHT_MM, 0.6, 0.0, 1.0],
        _rod((0.0, -0.5, 6.0), (0.0, -1.2, 23.5), 5.4, 4.4),  # dens
        *_both(
            _rod((10.0, 1.0, 5.5), (13.5, 2.5, 6.5), 5.2, 4.8, 1.0),  # superior facet
            _rod((8.0, 4.0, 3.0), (14.5, 10.0, 0.0), 4.4, 4.2),  # pars
            _rod((15.5, 10.5, -0.5), (16.5, 13.5, -4.0), 4.6),  # inferior facet
            _rod((13.0, 2.0, 1.0), (22.0, 4.0, -3.0), 3.2, 2.8),  # transverse process
            _rod((21.5, 4.5, -3.0), (16.5, 10.0, -1.0), 2.4, 2.6),
            _rod((15.5, 14.5, -1.5), (1.0, 24.5, -1.0), 3.2, 3.4, 0.55),  # lamina
            _rod((1.0, 27.0, -2.0), (4.0, 37.0, -5.0), 3.2, 3.0, 0.7),  # bifid spinous process
        ),
        _rod((0.0, 24.0, -1.0), (0.0, 31.0, -3.0), 3.5, 3.5, 0.55),
    ]


def _subaxial(level: str) -> list[list[float]]:
    a, b, h, spine, drop = _BODIES[level]
    p = b + 3.6  # v of the articular pillars
    thoracic = level.startswith("T")
    tip: Point = (33.0, p + 7.0, 3.0) if thoracic else (26.0 + (4.0 if level == "C7" else 0.0), 4.5, -2.5)
    rows = [[BODY, 0.0, 0.0, 0.0, a, b, h, 1.0, 0.0, 1.0]]
    rows += _both(
        _rod((a * 0.7, b * 0.55, 1.0), (15.0, p, 0.8), 3.4, 3.8, 0.85),  # pedicle
        _rod((16.5, p - 1.6, 3.2), (16.8, p + 2.6, -3.2), 4.6),  # articular pillar
        _rod((16.0, p + 3.5, -1.5), (0.5, b + 15.5, -2.5), 3.0, 3.0, 0.55),  # lamina
    )
    if thoracic:
        rows += _both(_rod((17.0, p + 1.0, 0.0), tip, 4.2, 4.6))
    else:
        rows += _both(
            _rod((a * 0.8, -1.0, -0.5), (21.0, 0.5, -1.2), 2.3, 2.3),  # transverse process, anterior root
            _rod((21.0, 0.5, -1.2), tip, 2.3, 2.7),
            _rod((18.0, p - 2.0, 0.0), tip, 3.0, 2.7),  # posterior root
            _rod((a * 0.86, 0.0, h - 0.5), (a * 0.86, 4.5, h + 0.3), 1.9, 1.9),  # uncinate process
        )
    end = (0.0, b + 15.5 + spine, -2.5 - drop)
    rows.append(_rod((0.0, b + 15.0, -2.5), end, 3.1, 3.4, 0.6 if not thoracic else 0.75))
    if level in ("C3", "C4", "C5", "C6"):
        rows += _both(_rod((0.5, end[1] - 3.0, end[2] + 1.0), (3.8, end[1] + 2.0, end[2] - 1.0), 2.8, 2.5))
    return rows


def _rotation(pitch: float, roll: float, yaw: float) -> FloatArray:
    """Columns u, v, w in LPS; degrees about the left, posterior and superior axes, in this order."""
    (cx, sx), (cy, sy), (cz, sz) = ((np.cos(t), np.sin(t)) for t in np.radians([pitch, roll, yaw]))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    rotation: FloatArray = about_z @ about_y @ about_x
    return rotation


def _frames(rng: np.random.Generator, scale: float) -> list[tuple[FloatArray, FloatArray]]:
    """Origin and rotation of C1..T2, stacked downward from C2 along the curve.

    C4 is at a random position of the table.
    """
    upper, lower = rng.uniform(-11, -2), rng.uniform(10, 22)
    roll, yaw = rng.uniform(-3.5, 3.5), rng.uniform(-5, 5)
    half_heights = [_C2_HALF_HEIGHT_MM, *(_BODIES[level][2] for level in LEVELS[2:])]
    count = len(half_heights)
    pitches = np.linspace(upper, lower, count) + rng.uniform(-0.7, 0.7, count)
    rolls = roll * np.linspace(1, 0.1, count) + rng.uniform(-0.4, 0.4, count)
    rotations = [_rotation(p, r, yaw) for p, r in zip(pitches, rolls, strict=True)]
    origins = [np.zeros(3)]
    for i in range(1, count):
        step = (half_heights[i - 1] + _DISC_MM + half_heights[i]) * scale
        down = rotations[i - 1][:, 2] + rotations[i][:, 2]
        origins.append(origins[-1] - down / np.linalg.norm(down) * step)
    atlas = origins[0] + rotations[0][:, 2] * _C1_ABOVE_C2_MM * scale
    frames = [(atlas, rotations[0]), *zip(origins, rotations, strict=True)]
    middle = frames[3][0] - [
        rng.uniform(-15, 15),
        rng.uniform(-190, 40),
        rng.choice([-420.0, -90.0, 40.0, 1850.0]),
    ]
    return [(origin - middle, rotation) for origin, rotation in frames]


def _part(
    frame: tuple[FloatArray, FloatArray], rows: list[list[float]], scale: float, material: Sequence[float]
) -> Part:
    shapes = np.array(rows, dtype=np.float64)
    shapes[:, 1:9] *= scale
    shapes[shapes[:, 0] == SHELL, 9] *= scale
    return Part(frame[0], frame[1], shapes, shape_boxes(shapes), np.array(material, dtype=np.float64))


def _vertebrae(
    rng: np.random.Generator, frames: list[tuple[FloatArray, FloatArray]], scale: float
) -> tuple[Part, ...]:
    rows = {"C1": _atlas(), "C2": _axis(), **{level: _subaxial(level) for level in _BODIES}}
    material = (rng.uniform(950, 1150), rng.uniform(330, 410), 1.1, rng.uniform(25, 45))
    parts = []
    for index, level in enumerate(LEVELS):
        asymmetric = np.array(rows[level])
        asymmetric[:, 1:4] += rng.uniform(-0.25, 0.25, (len(asymmetric), 3))
        part = _part(frames[index], asymmetric.tolist(), scale, material)
        parts.append(replace(part, label=index + 1))
    return tuple(parts)


def _tube(points: Sequence[FloatArray], radius: float, hu: float) -> Part:
    rows = _chain([(p[0], p[1], p[2]) for p in points], radius)
    return _part((np.zeros(3), np.eye(3)), rows, 1.0, (hu, hu, 1.0, 0.0))


def _along(
    frames: list[tuple[FloatArray, FloatArray]], offsets: Sequence[Point], scale: float
) -> list[FloatArray]:
    """One LPS point per level, from offsets in the frame of the level."""
    return [o + r @ (np.array(p) * scale) for (o, r), p in zip(frames, offsets, strict=True)]


def _discs(frames: list[tuple[FloatArray, FloatArray]], scale: float) -> list[Part]:
    half_heights = [_C2_HALF_HEIGHT_MM, *(_BODIES[level][2] for level in LEVELS[2:])]
    discs = []
    for i in range(1, len(half_heights)):
        a, b = _BODIES[LEVELS[i + 1]][:2]
        (upper, tilt), (lower, _) = frames[i], frames[i + 1]
        above, below = half_heights[i - 1], half_heights[i]
        share = (above + _DISC_MM / 2) / (above + _DISC_MM + below)
        rows = [[BODY, 0.0, 0.0, 0.0, a * 0.95, b * 0.97, _DISC_MM / 2 + 0.8, 0.0, 0.0, 1.0]]
        discs.append(_part((upper + (lower - upper) * share, tilt), rows, scale, (85, 80, 1.0, 0.0)))
    return discs


def _skull(frame: tuple[FloatArray, FloatArray], scale: float) -> Part:
    rows = [
        [SHELL, 0.0, 8.0, 74.0, 70.0, 88.0, 57.0, 6.0, 17.0, 10.0],
        *_both(
            _rod((16.0, -3.0, 13.5), (17.5, 4.0, 13.5), 4.6, 4.6, 0.8),  # occipital condyle
            _rod((15.0, -2.0, 17.0), (16.0, 2.0, 19.0), 6.0, 6.0),
            _rod((45.0, 2.0, 28.0), (49.0, 5.0, 8.0), 10.0, 4.0),  # mastoid process
        ),
        _rod((0.0, -8.0, 19.5), (0.0, -26.0, 38.0), 6.0, 8.0),  # clivus
    ]
    return _part(frame, rows, scale, (1100, 450, 1.5, 60.0))


def _other_bones(frames: list[tuple[FloatArray, FloatArray]], scale: float) -> list[Part]:
    jaw = _both(
        _rod((47.0, -22.0, 22.0), (44.0, -28.0, -6.0), 5.0, 5.5),
        _rod((44.0, -28.0, -6.0), (30.0, -66.0, -14.0), 5.5, 5.5, 0.55),
        _rod((30.0, -66.0, -14.0), (0.0, -86.0, -16.0), 5.5, 6.0, 0.55),
    )
    hyoid = _both(
        _rod((16.0, -32.0, 2.0), (9.0, -42.0, -1.0), 1.6), _rod((9.0, -42.0, -1.0), (0.0, -45.0, -1.5), 2.2)
    )
    bone = (1000.0, 350.0, 1.3, 40.0)
    parts = [
        _skull(frames[0], scale),
        _part(frames[1], jaw, scale, bone),
        _part(frames[3], hyoid, scale, bone),
    ]
    for index in (7, 8):  # T1 and T2
        rib = _both(
            _rod((15.5, 9.0, 6.0), (42.0, 18.0, 8.0), 3.2, 3.6, 0.8),
            _rod((42.0, 18.0, 8.0), (62.0, 4.0, 2.0), 3.8, 3.8, 0.8),
            _rod((62.0, 4.0, 2.0), (58.0, -30.0, -14.0), 3.8, 3.8, 0.8),
        )
        parts.append(_part(frames[index], rib, scale, bone))
    collar = _both(
        _rod((24.0, -52.0, -14.0), (75.0, -42.0, 2.0), 6.5, 6.0),
        _rod((75.0, -42.0, 2.0), (130.0, -4.0, 14.0), 6.0),
    )
    return [*parts, _part((frames[7][0], np.eye(3)), collar, scale, bone)]


def _soft_parts(frames: list[tuple[FloatArray, FloatArray]], scale: float) -> list[Part]:
    canal: list[Point] = [(0.0, 13.0, 22.0), (0.0, 13.0, 0.0), (0.0, 15.0, 0.0), *[(0.0, 16.6, 0.0)] * 7]
    with_skull = [frames[0], *frames]
    cord = _along(with_skull, canal, scale)
    throat: list[Point] = [(0.0, -21.0, 10.0), (0.0, -21.0, 0.0), *[(0.0, -21.0, 0.0)] * 2, (0.0, -24.0, 0.0)]
    throat += [
        (0.0, -28.0, 0.0),
        (0.0, -29.0, 0.0),
        (0.0, -30.0, 0.0),
        (0.0, -31.0, 0.0),
        (0.0, -33.0, -60.0),
    ]
    airway = _along(with_skull, throat, scale)
    brain_rows = [_rod((0.0, -12.0, 72.0), (0.0, 28.0, 72.0), 62.0, 62.0, 1.1)]
    parts = [_lungs(frames, scale), _part(frames[0], brain_rows, scale, (38, 38, 1.0, 0.0))]
    for side in (-1.0, 1.0):
        carotid = _along(frames, [(side * (27.0 - i * 0.4), -17.0 - i, 0.0) for i in range(9)], scale)
        jugular = _along(frames, [(side * (34.0 - i * 0.4), -14.0 - i, 0.0) for i in range(9)], scale)
        thyroid = [airway[i] + [side * 15.0, 2.0, 0.0] for i in (6, 7)]
        parts += [_tube(carotid, 3.6, 150), _tube(jugular, 5.2, 110), _tube(thyroid, 7.0, 130)]
    larynx = _part(
        (airway[5], np.eye(3)),
        _chain([(0.0, 0.0, 12.0), (0.0, 0.0, -14.0)], 11.5),
        scale,
        (170, 60, 2.0, 0.0),
    )
    wall, air = _tube(airway, 9.6 * scale, 70), _tube(airway, 7.6 * scale, -990)
    return [*parts, larynx, wall, air, _tube(cord, 8.0 * scale, 12), _tube(cord, 4.4 * scale, 42)]


def _lungs(frames: list[tuple[FloatArray, FloatArray]], scale: float) -> Part:
    rows = _both(_rod((36.0, -6.0, -48.0), (34.0, -2.0, -8.0), 30.0, 16.0))
    return _part((frames[7][0], np.eye(3)), rows, scale, (-840, -850, 1.0, 0.0))


def _outline(
    rng: np.random.Generator, frames: list[tuple[FloatArray, FloatArray]], scale: float
) -> FloatArray:
    z = [
        frames[8][0][2] - 40,
        *(frames[i][0][2] for i in (8, 7, 6, 4, 2, 1, 0)),
        frames[0][0][2] + 16,
        frames[0][0][2] + 60,
    ]
    spine_y = [
        frames[8][0][1],
        *(frames[i][0][1] for i in (8, 7, 6, 4, 2, 1, 0)),
        frames[0][0][1],
        frames[0][0][1],
    ]
    width, depth = rng.uniform(0.9, 1.2) * scale, rng.uniform(0.92, 1.1) * scale
    half_width = np.array([200, 190, 165, 95, 62, 61, 66, 72, 75, 76]) * width
    half_depth = np.array([100, 96, 88, 76, 66, 74, 90, 97, 99, 100]) * depth
    nape_distance = np.array([78, 74, 68, 62, 58, 60, 66, 76, 84, 88]) * depth  # behind the bodies
    centre_y = np.array(spine_y) + nape_distance - half_depth
    fat = np.array([14, 13, 12, 9, 7, 7, 6, 5, 5, 5]) * rng.uniform(0.6, 1.5)
    noise = np.array([1.7, 1.6, 1.5, 1.3, 1.0, 1.0, 1.1, 1.2, 1.2, 1.2])
    centre_x = np.full(len(z), frames[4][0][0])
    return np.column_stack([z, centre_x, centre_y, half_width, half_depth, fat, noise])


def build_neck(rng: np.random.Generator) -> Neck:
    """A neck without fractures."""
    scale = rng.uniform(0.9, 1.08)
    frames = _frames(rng, scale)
    vertebrae = _vertebrae(rng, frames, scale)
    tissues = [*_soft_parts(frames, scale), *_discs(frames, scale), *_other_bones(frames, scale)]
    return Neck(vertebrae, tuple(tissues), scale, _outline(rng, frames, scale))
