"""The scan of one study: slice positions, spacing, pixel format, and the header strings that encode them.

Numbers are rounded to their header strings first; the geometry is computed from the strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spine_etl.geometry import FloatArray
from spine_etl.phantom.anatomy import CERVICAL, Neck

IMPLICIT, EXPLICIT, JPEG_LOSSLESS = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70"
SYNTAXES = {"implicit": IMPLICIT, "explicit": EXPLICIT, "jpeg-lossless": JPEG_LOSSLESS}

_SPACINGS_MM = (0.5, 0.625, 0.7, 0.75, 0.8)
_LEVELS_AT = {"top": CERVICAL[:2], "bottom": CERVICAL[5:]}


@dataclass(frozen=True)
class PixelFormat:
    """Stored bits, sign, intercept, and the stored value outside the round field of view (None: air)."""

    bits_stored: int
    signed: bool
    intercept: int
    outside: int | None


_FORMATS = (
    PixelFormat(16, True, -1024, -2000),
    PixelFormat(12, False, -1024, None),
    PixelFormat(16, True, -1024, None),
    PixelFormat(16, True, 0, None),
    PixelFormat(12, False, -1024, None),
    PixelFormat(16, True, -1024, -2000),
    PixelFormat(16, True, 0, -2000),
)


@dataclass(frozen=True)
class HeaderStyle:
    """Decimals of the numbers in a header (-1: as few as possible) and its windows."""

    position: tuple[int, int, int]
    orientation: int
    spacing: int
    windows: tuple[tuple[str, ...], tuple[str, ...]]


_STYLES = (
    HeaderStyle((3, 3, 3), 6, 6, (("500.0",), ("2000.0",))),
    HeaderStyle((4, 5, 2), 5, 3, (("350.0",), ("2700.0",))),
    HeaderStyle((-1, -1, -1), -1, -1, (("450", "40"), ("1500", "350"))),
)
_OBLIQUE_STYLE = HeaderStyle((4, 5, 5), 6, 6, (("350.0",), ("2000.0",)))


@dataclass(frozen=True, eq=False)
class Scan:
    """Geometry of one study in file order, as encoded in the header strings.

    ``positions_mm`` (files, 3) is the LPS position of the first pixel of each file. ``along_row`` and
    ``along_column`` are the two halves of ImageOrientationPatient. ``pixel_spacing_mm`` is PixelSpacing,
    equal for rows and columns. ``foot_to_head`` is True if z increases with the file number,
    ``evenly_spaced`` if all slice steps are equal.
    """

    size: int
    positions_mm: FloatArray
    position_strings: tuple[tuple[str, str, str], ...]
    orientation_strings: tuple[str, ...]
    along_row: FloatArray
    along_column: FloatArray
    pixel_spacing_mm: float
    spacing_string: str
    thickness_string: str
    windows: tuple[tuple[str, ...], tuple[str, ...]]
    first_file: int
    foot_to_head: bool
    evenly_spaced: bool
    transfer_syntax: str
    pixels: PixelFormat

    @property
    def normal(self) -> FloatArray:
        """(3,): unit normal of the slices, toward the head."""
        normal = np.cross(self.along_row, self.along_column)
        unit: FloatArray = normal / np.linalg.norm(normal)
        return unit

    @property
    def view(self) -> FloatArray:
        """(5,): the normal, then the heights half a slice step below and above all slices."""
        heights = self.positions_mm @ self.normal
        half = (heights.max() - heights.min()) / (len(heights) - 1) / 2
        return np.array([*self.normal, heights.min() - half, heights.max() + half])

    def plane_mm(self, index: int) -> FloatArray:
        """(3, 3): LPS of pixel (0, 0) of a slice, the step between rows, the step between columns."""
        step = self.pixel_spacing_mm
        return np.array([self.positions_mm[index], self.along_column * step, self.along_row * step])


def hidden_end(index: int) -> str | None:
    """The end of the neck that is outside the scan, ``top`` or ``bottom``: in every eleventh study."""
    if index % 11 != 10:
        return None
    return "top" if index % 22 == 10 else "bottom"


def fully_visible_levels(index: int) -> tuple[str, ...]:
    """Cervical levels that are entirely in the scan; only these are fractured."""
    hidden = _LEVELS_AT.get(hidden_end(index) or "", ())
    return tuple(level for level in CERVICAL if level not in hidden)


def _decimal(value: float, decimals: int) -> str:
    """A DS string of at most 16 characters."""
    if decimals < 0:
        return f"{value:.9f}".rstrip("0").rstrip(".") or "0"
    return f"{value:.{decimals}f}"


def _cosine(value: float, decimals: int, negative_zero: bool) -> str:
    """A DS string of a direction cosine; with six decimals, small ones have an exponent as in RSNA 2022."""
    if decimals == 6 and 0 < abs(value) < 0.1:
        mantissa, exponent = f"{value:.4e}".split("e")
        return f"{mantissa}e{'-' if int(exponent) < 0 else '+'}{abs(int(exponent)):03d}"
    zero = "-" if negative_zero and value == 0 else ""
    return zero + _decimal(value, decimals)


def _orientation(rng: np.random.Generator, oblique: bool) -> tuple[FloatArray, FloatArray]:
    """Unit vectors along a row and along a column; a few degrees off the patient's axes if oblique."""
    if not oblique:
        return np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    yaw, roll, pitch = rng.uniform(1, 2), rng.uniform(3, 4.5), rng.uniform(2, 4)
    angles = np.radians([yaw, roll, pitch])
    c, s = np.cos(angles), np.sin(angles)
    about_z = np.array([[c[0], -s[0], 0], [s[0], c[0], 0], [0, 0, 1]])
    about_y = np.array([[c[1], 0, s[1]], [0, 1, 0], [-s[1], 0, c[1]]])
    about_x = np.array([[1, 0, 0], [0, c[2], -s[2]], [0, s[2], c[2]]])
    axes = about_z @ about_y @ about_x
    return axes[:, 0], axes[:, 1]


def _coverage(neck: Neck, normal: FloatArray, index: int, rng: np.random.Generator) -> tuple[float, float]:
    """Lowest and highest height along the normal that the scan covers."""
    heights = [part.corners_mm() @ normal for part in neck.vertebrae]
    chest = float(neck.vertebrae[8].origin_mm @ normal) - 12 * neck.scale  # below the body of T2
    low = min(chest, *(h.min() for h in heights[:7])) - rng.uniform(0, 6)
    high = max(h.max() for h in heights) + rng.uniform(12, 30)
    hidden = hidden_end(index)
    if hidden == "top":
        high = float(neck.vertebrae[1].origin_mm @ normal) + 5 * neck.scale
    if hidden == "bottom":
        low = float(neck.vertebrae[6].origin_mm @ normal) + 9 * neck.scale
    return float(low), float(high)


def _field_of_view_mm(neck: Neck, rng: np.random.Generator) -> tuple[FloatArray, float]:
    """Centre (x, y) and side of the reconstructed square: 135-250 mm, or more if the vertebrae need it."""
    corners = np.concatenate([part.corners_mm() for part in neck.vertebrae])[:, :2]
    centre = (corners.min(axis=0) + corners.max(axis=0)) / 2 + rng.uniform(-4, 4, 2) + [0.0, -6.0]
    needed = 2 * np.linalg.norm(corners - centre, axis=1).max() + 4
    return centre, float(max(needed, rng.uniform(135, 250)))


def _heights(
    rng: np.random.Generator,
    coverage: tuple[float, float],
    slices: int | None,
    decimals: int,
    uneven: bool,
    oblique: bool,
) -> tuple[FloatArray, float]:
    """Slice heights from foot to head, from 0, and their mean step, both rounded to ``decimals``."""
    length = coverage[1] - coverage[0]
    default_step = 2.626 if oblique else float(rng.choice(_SPACINGS_MM))
    step = default_step if slices is None else length / (slices - 1)
    digits = 3 if decimals < 0 else min(decimals, 3)
    step = round(float(step), digits)
    count = int(np.ceil(length / step)) + 1 if slices is None else slices
    steps = np.full(count - 1, step)
    if uneven:
        jitter = rng.uniform(0.8, 1.2, count - 1)
        steps = np.round(step * jitter / jitter.mean(), digits)
    return np.concatenate([[0.0], np.cumsum(steps)]), step


def plan_scan(
    neck: Neck, rng: np.random.Generator, index: int, syntax: str, slices: int | None, size: int
) -> Scan:
    """Place the field of view around a neck and encode its geometry as header strings.

    Only ``index`` decides the kind of the scan, so that a few studies already include all kinds: every fifth
    study runs from foot to head, every sixth has file numbers that do not begin at 1, every thirteenth has
    uneven slice spacing, and every seventeenth has oblique slices.
    """
    oblique, uneven = index % 17 == 6, index % 13 == 5
    style = _OBLIQUE_STYLE if oblique else _STYLES[0 if uneven else index // 2 % 3]
    along_row, along_column = _orientation(rng, oblique)
    row_strings, column_strings = (
        tuple(_cosine(float(v), style.orientation, index % 4 == 3) for v in axis)
        for axis in (along_row, along_column)
    )
    along_row, along_column = (np.array([float(t) for t in s]) for s in (row_strings, column_strings))
    normal = np.cross(along_row, along_column)
    normal /= np.linalg.norm(normal)

    coverage = _coverage(neck, normal, index, rng)
    centre_xy, side = _field_of_view_mm(neck, rng)
    spacing_string = _decimal(np.ceil(side) / size, style.spacing)
    spacing = float(spacing_string)
    heights, step = _heights(rng, coverage, slices, style.position[2], uneven, oblique)
    middle = np.array([*centre_xy, neck.vertebrae[3].origin_mm[2]])
    middle += normal * ((coverage[0] + coverage[1]) / 2 - middle @ normal)
    first = middle - (along_row + along_column) * spacing * (size - 1) / 2 - normal * heights[-1] / 2
    first = np.array([float(_decimal(float(v), d)) for v, d in zip(first, style.position, strict=True)])
    positions = first + heights[:, None] * normal
    foot_to_head = index % 5 == 2
    strings = _position_strings(positions if foot_to_head else positions[::-1], style)
    thickness = step * (1.0, 2.0, 1.0, 1.5)[index % 4] if not oblique else spacing
    return Scan(
        size=size,
        positions_mm=np.array([[float(t) for t in s] for s in strings]),
        position_strings=strings,
        orientation_strings=(*row_strings, *column_strings),
        along_row=along_row,
        along_column=along_column,
        pixel_spacing_mm=spacing,
        spacing_string=spacing_string,
        thickness_string=f"{round(thickness, 6)}",
        windows=style.windows,
        first_file=1 if index % 6 != 4 else int(rng.integers(2, 40)),
        foot_to_head=foot_to_head,
        evenly_spaced=not uneven,
        transfer_syntax=syntax,
        pixels=_FORMATS[index % len(_FORMATS)],
    )


def _position_strings(positions: FloatArray, style: HeaderStyle) -> tuple[tuple[str, str, str], ...]:
    def strings(row: Sequence[float]) -> tuple[str, str, str]:
        x, y, z = (_decimal(float(v), d) for v, d in zip(row, style.position, strict=True))
        return x, y, z

    return tuple(strings(row) for row in positions)
