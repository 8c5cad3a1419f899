"""Render a neck as slices: stored pixel values and labels, and the ground truth of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spine_etl.geometry import FloatArray
from spine_etl.jit import compiled
from spine_etl.phantom.anatomy import Neck, Part
from spine_etl.phantom.scanner import Scan
from spine_etl.phantom.shapes import fracture_window, measure, paint, part_bounds

_NOISE_HU = (9.0, 26.0)
_BOX_MARGIN_PIXELS = 1.5
_MEASURE_STEP_MM = 0.8


@dataclass(frozen=True)
class Box:
    """A fracture box on one slice, in pixels: upper left corner (x along a row, y down a column) and size."""

    file_number: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, eq=False)
class LevelTruth:
    """Ground truth of the part of one vertebra that is in the scan, measured on its analytic shape.

    ``centroid_mm`` (3,) and ``bounds_mm`` (2, 3: lowest and highest corner) are LPS. ``in_view`` is the share
    of its volume that the slices cover, 0 to 1. The centroid is accurate to a few hundredths of a millimetre,
    the bounds to half a millimetre.
    """

    label: int
    centroid_mm: FloatArray
    bounds_mm: FloatArray
    in_view: float


@dataclass(frozen=True, eq=False)
class LocatedPart:
    """A part and the pixels it may cover.

    ``window`` is its first and last row and column; ``first`` and ``end`` are its slices, ``end`` excluded.
    """

    part: Part
    window: FloatArray
    first: int
    end: int


def locate_part(part: Part, scan: Scan) -> LocatedPart:
    """The rows, columns and slices that the corners of a part span."""
    corners = part.corners_mm()
    heights = scan.positions_mm @ scan.normal
    corner_heights = corners @ scan.normal
    inside = np.flatnonzero((heights >= corner_heights.min()) & (heights <= corner_heights.max()))
    offset = corners - scan.positions_mm[0]
    ends = []
    for axis in (scan.along_column, scan.along_row):
        pixel = offset @ axis / scan.pixel_spacing_mm
        ends += [max(0.0, np.floor(pixel.min()) - 1), min(scan.size - 1.0, np.ceil(pixel.max()) + 1)]
    first, end = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)
    return LocatedPart(part, np.array(ends), first, end)


def _plane_in_part(plane: FloatArray, part: Part) -> FloatArray:
    """(3, 3): the plane of `Scan.plane_mm` in the frame of a part."""
    local = plane @ part.rotation
    local[0] -= part.origin_mm @ part.rotation
    result: FloatArray = local
    return result


@compiled
def _paint_outline(
    hu: npt.NDArray[np.float32],
    plane: FloatArray,
    rows: FloatArray,
    table_y: float,
    planes: npt.NDArray[np.float32],
    weights: FloatArray,
    edge: float,
) -> None:
    """Paint air, table, skin, fat and muscle; ``rows`` (size, 6) is the outline at the height of each row."""
    for r in range(hu.shape[0]):
        cx, cy, hx, hy, fat_mm = rows[r, 0], rows[r, 1], rows[r, 2], rows[r, 3], rows[r, 4]
        inner = min(hx, hy)
        for c in range(hu.shape[1]):
            x = plane[0, 0] + r * plane[1, 0] + c * plane[2, 0]
            y = plane[0, 1] + r * plane[1, 1] + c * plane[2, 1]
            depth = (1.0 - np.sqrt(((x - cx) / hx) ** 2 + ((y - cy) / hy) ** 2)) * inner
            value = -1000.0
            if depth > -edge:
                field = weights[0] * planes[0, r, c] + weights[1] * planes[1, r, c]
                lean = min(1.0, max(0.0, (abs(field) - 0.07) / 0.12))
                lean *= min(1.0, max(0.0, (depth - fat_mm) / 1.5 + 0.5))
                tissue = -98.0 + (150.0 + 7.0 * planes[1, r, c]) * lean
                if depth < 1.5:
                    tissue = 20.0
                value += (tissue + 1000.0) * min(1.0, max(0.0, depth / edge + 0.5))
            if depth < edge:
                below = y - table_y - (x - cx) ** 2 / 900.0
                if abs(below) < 1.6 or abs(below - 42.0) < 1.6:
                    value = max(value, -150.0)
                elif 0.0 < below < 42.0:
                    value = max(value, -955.0)
            hu[r, c] = value


@compiled
def _to_stored_values(
    hu: npt.NDArray[np.float32],
    noise: npt.NDArray[np.float32],
    row_noise_hu: FloatArray,
    intercept: int,
    lowest: int,
    highest: int,
    outside: int,
    raw: npt.NDArray[np.int32],
) -> None:
    """Add noise and convert HU to stored values; with ``outside`` below -10000 the corners are kept."""
    size = hu.shape[0]
    middle, radius = (size - 1) / 2, (size / 2) ** 2
    for r in range(size):
        for c in range(size):
            if outside > -10000 and (r - middle) ** 2 + (c - middle) ** 2 > radius:
                raw[r, c] = outside
                continue
            air_factor = 0.45 if hu[r, c] < -900 else 1.0
            value = round(hu[r, c] + noise[r, c] * row_noise_hu[r] * air_factor) - intercept
            raw[r, c] = min(highest, max(lowest, max(-1024 - intercept, value)))


def _muscle_planes(rng: np.random.Generator, scan: Scan) -> npt.NDArray[np.float32]:
    """(2, size, size): smooth random fields of unit variance whose zero crossings become sheets of fat."""
    steps = np.arange(scan.size) * scan.pixel_spacing_mm
    x, y = steps + scan.positions_mm[0, 0], steps + scan.positions_mm[0, 1]
    fields = np.zeros((2, scan.size, scan.size), np.float32)
    for field in fields:
        angle, wave = rng.uniform(0, 2 * np.pi, 24), 2 * np.pi / rng.uniform(26, 70, 24)
        phase = rng.uniform(0, 2 * np.pi, 24)
        across = np.exp(1j * (np.outer(y, wave * np.sin(angle)) + phase))
        along = np.exp(1j * np.outer(x, wave * np.cos(angle)))
        field[:] = np.real(across @ along.T) / np.sqrt(12)
    return fields


def _smooth(noise: npt.NDArray[np.float32], axes: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Smooth noise periodically with the kernel (1, 2, 1) along each axis and scale it to unit variance."""
    for axis in axes:
        noise = noise * 2 + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)
    unit: npt.NDArray[np.float32] = noise / noise.std()
    return unit


class Renderer:
    """Paint any slice of one study. Slices are independent, so threads may share a renderer."""

    def __init__(self, neck: Neck, scan: Scan, rng: np.random.Generator) -> None:
        self._scan, self._neck = scan, neck
        self._parts = [locate_part(part, scan) for part in (*neck.tissues, *neck.vertebrae)]
        self._texture = _smooth(rng.standard_normal((32, 32, 32), dtype=np.float32), (0, 1, 2))
        self._planes = _muscle_planes(rng, scan)
        self._noise_hu = rng.uniform(*_NOISE_HU)
        tile = scan.size + scan.size // 8
        self._noise = _smooth(rng.standard_normal((tile, tile), dtype=np.float32), (0, 1))
        self._shifts = rng.integers(0, tile - scan.size + 1, (len(scan.positions_mm), 2))
        self._signs = rng.choice([-1.0, 1.0], len(scan.positions_mm))
        skin = neck.outline[:, 2] + neck.outline[:, 4]
        self._table_y = float(skin.max()) + 3.0
        self._edge = max(0.6, scan.pixel_spacing_mm)

    def slice(
        self, index: int, labels: npt.NDArray[np.uint16]
    ) -> npt.NDArray[np.uint16] | npt.NDArray[np.int16]:
        """Stored values (rows, columns) of the slice at ``index`` in file order.

        The labels of the slice are written into ``labels`` (rows, columns) where it is 0.
        """
        plane = self._scan.plane_mm(index)
        size = self._scan.size
        hu = np.empty((size, size), np.float32)
        rows = self._outline_rows(plane)
        phase = plane[0, 2] / 17.0
        weights = np.array([np.cos(phase), np.sin(phase)])
        _paint_outline(hu, plane, rows, self._table_y, self._planes, weights, self._edge)
        for located in self._parts:
            if located.first <= index < located.end:
                self._paint_part(hu, labels, plane, located)
        return self._add_noise(hu, rows, index)

    def _outline_rows(self, plane: FloatArray) -> FloatArray:
        size = self._scan.size
        heights = plane[0, 2] + np.arange(size) * plane[1, 2] + size / 2 * plane[2, 2]
        outline = self._neck.outline
        return np.column_stack([np.interp(heights, outline[:, 0], column) for column in outline.T[1:]])

    def _paint_part(
        self,
        hu: npt.NDArray[np.float32],
        labels: npt.NDArray[np.uint16],
        plane: FloatArray,
        located: LocatedPart,
    ) -> None:
        part = located.part
        paint(
            hu,
            labels,
            _plane_in_part(plane, part),
            located.window,
            part.shapes,
            part.boxes,
            part.cut,
            part.material,
            self._texture,
            self._edge,
            part.label,
        )

    def _add_noise(
        self, hu: npt.NDArray[np.float32], rows: FloatArray, index: int
    ) -> npt.NDArray[np.uint16] | npt.NDArray[np.int16]:
        pixels, size = self._scan.pixels, self._scan.size
        (r, c), sign = self._shifts[index], self._signs[index]
        row_noise_hu = rows[:, 5] * self._noise_hu * sign
        lowest, highest = (-32768, 32767) if pixels.signed else (0, (1 << pixels.bits_stored) - 1)
        outside = -20000 if pixels.outside is None else pixels.outside
        raw = np.empty((size, size), np.int32)
        noise = self._noise[r : r + size, c : c + size]
        _to_stored_values(hu, noise, row_noise_hu, pixels.intercept, lowest, highest, outside, raw)
        return raw.astype(np.int16) if pixels.signed else raw.astype(np.uint16)


def level_truth(part: Part, scan: Scan) -> LevelTruth:
    """Ground truth of a vertebra, fracture included, from a fine sampling of its analytic shape."""
    result, visible_volume, volume = measure(
        _MEASURE_STEP_MM,
        *part_bounds(part.boxes, part.cut),
        scan.view,
        part.origin_mm,
        part.rotation,
        part.shapes,
        part.boxes,
        part.cut,
    )
    return LevelTruth(part.label, result[0], result[1:], visible_volume / volume)


def fracture_boxes(part: Part, scan: Scan) -> Iterator[Box]:
    """A box around the fracture on each slice that it crosses, clipped to the image, in file order."""
    located = locate_part(part, scan)
    for index in range(located.first, located.end):
        plane = _plane_in_part(scan.plane_mm(index), part)
        r0, r1, c0, c1 = fracture_window(plane, located.window, part.shapes, part.boxes, part.cut)
        if r1 < r0:
            continue
        low = np.maximum(0.0, np.array([c0, r0]) - _BOX_MARGIN_PIXELS)
        high = np.minimum(scan.size, np.array([c1, r1]) + 1 + _BOX_MARGIN_PIXELS)
        width, height = high - low
        yield Box(scan.first_file + index, float(low[0]), float(low[1]), float(width), float(height))
