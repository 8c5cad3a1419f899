"""Shapes as signed distance functions, and the kernels that paint and measure them.

A shape is a row of ten numbers, in mm in the frame of its part (u to Left, v to Posterior, w to Superior):

    kind, a (3), b (3), r1, r2, squeeze

- ``CAPSULE``: a round rod from a to b with radii r1 and r2; ``squeeze`` below 1 stretches it along w.
- ``BODY``: a vertebral body or disc centred at a, with half sizes b; r1 is the concavity of the end plates.
- ``SHELL``: an ellipsoidal shell centred at a, with radii b and thickness r1, and a round hole of radius r2
  at u = 0, v = ``squeeze``.

Distances are in mm and negative inside; they are exact for round rods and accurate near the surface of the
other shapes. Slices are independent of each other, so any number of threads gives the same bytes.

A cut is a row of `CUT_SIZE` numbers, a plane through the part beyond which bone is moved (see `fractures`):

    active, normal (3), offset, move (3), gap, half width of the lucent line, centre (3), radius
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from spine_etl.geometry import FloatArray
from spine_etl.jit import compiled

CAPSULE, BODY, SHELL = 0.0, 1.0, 2.0
MARGIN_MM = 2.5
"""Distance from a shape up to which it is evaluated; larger than the blend and the soft edges."""

CUT_SIZE = 14
NO_CUT = np.zeros(CUT_SIZE)

_BLEND_MM = 1.5
_FAR_MM = 99.0
_ZONE_MM = 2.0


def shape_boxes(shapes: FloatArray) -> FloatArray:
    """(n, 6): lowest (u, v, w) and highest (u, v, w) of each shape, widened by `MARGIN_MM`."""
    kind, a, b = shapes[:, 0], shapes[:, 1:4], shapes[:, 4:7]
    radius_a, radius_b = np.repeat(shapes[:, 7:8], 3, axis=1), np.repeat(shapes[:, 8:9], 3, axis=1)
    rod = kind == CAPSULE
    radius_a[rod, 2] /= shapes[rod, 9]
    radius_b[rod, 2] /= shapes[rod, 9]
    low, high = np.minimum(a - radius_a, b - radius_b), np.maximum(a + radius_a, b + radius_b)
    block = ~rod
    low[block], high[block] = a[block] - b[block] - 3.0, a[block] + b[block] + 3.0
    return np.hstack([low - MARGIN_MM, high + MARGIN_MM])


def part_bounds(boxes: FloatArray, cut: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Lowest and highest (u, v, w) of a part, including bone that its cut moves."""
    low, high = boxes[:, :3].min(axis=0), boxes[:, 3:].max(axis=0)
    return np.minimum(low, low + cut[5:8]), np.maximum(high, high + cut[5:8])


@compiled
def _rod(q: FloatArray, i: int, u: float, v: float, w: float) -> float:
    s = q[i, 9]
    bu, bv, bw = q[i, 4] - q[i, 1], q[i, 5] - q[i, 2], (q[i, 6] - q[i, 3]) * s
    pu, pv, pw = u - q[i, 1], v - q[i, 2], (w - q[i, 3]) * s
    length = bu * bu + bv * bv + bw * bw
    along = 0.0
    if length > 0.0:
        along = min(1.0, max(0.0, (pu * bu + pv * bv + pw * bw) / length))
    pu, pv, pw = pu - along * bu, pv - along * bv, pw - along * bw
    radius: float = q[i, 7] + (q[i, 8] - q[i, 7]) * along
    return math.sqrt(pu * pu + pv * pv + pw * pw) - radius


@compiled
def _body(q: FloatArray, i: int, u: float, v: float, w: float) -> float:
    x, y = abs(u - q[i, 1]) / q[i, 4], (v - q[i, 2]) / q[i, 5]
    if y > 0.0:
        y *= 1.0 + 0.18 * (1.0 - min(1.0, x))  # the posterior wall, toward the canal, is flat to concave
    across = x * x + y * y
    side = (math.sqrt(math.sqrt(x**4 + y**4 + 1.2 * x * x * y * y)) - 1.0) * min(q[i, 4], q[i, 5])
    height = abs(w - q[i, 3]) - (q[i, 6] - q[i, 7] * max(0.0, 1.0 - across))
    side, height = side + 1.2, height + 1.2
    depth: float = min(max(side, height), 0.0)
    return math.sqrt(max(side, 0.0) ** 2 + max(height, 0.0) ** 2) + depth - 1.2


@compiled
def _shell(q: FloatArray, i: int, u: float, v: float, w: float) -> float:
    x, y, z = (u - q[i, 1]) / q[i, 4], (v - q[i, 2]) / q[i, 5], (w - q[i, 3]) / q[i, 6]
    wall = abs((math.sqrt(x * x + y * y + z * z) - 1.0) * min(q[i, 4], q[i, 5], q[i, 6])) - q[i, 7] / 2
    distance: float = max(wall, q[i, 8] - math.sqrt(u * u + (v - q[i, 9]) ** 2))
    return distance


@compiled
def _distance(
    shapes: FloatArray, boxes: FloatArray, active: npt.NDArray[np.int64], u: float, v: float, w: float
) -> float:
    """Distance to the union of the active shapes, with rounded joints."""
    best = _FAR_MM
    for i in active:
        if u < boxes[i, 0] or u > boxes[i, 3] or v < boxes[i, 1] or v > boxes[i, 4]:
            continue
        if w < boxes[i, 2] or w > boxes[i, 5]:
            continue
        if shapes[i, 0] == CAPSULE:
            d = _rod(shapes, i, u, v, w)
        elif shapes[i, 0] == BODY:
            d = _body(shapes, i, u, v, w)
        else:
            d = _shell(shapes, i, u, v, w)
        blend = max(_BLEND_MM - abs(best - d), 0.0) / _BLEND_MM
        best = min(best, d) - blend * blend * _BLEND_MM * 0.25
    return best


@compiled
def _cut_distance(
    shapes: FloatArray,
    boxes: FloatArray,
    active: npt.NDArray[np.int64],
    cut: FloatArray,
    u: float,
    v: float,
    w: float,
) -> tuple[float, float, float]:
    """Distances to the intact bone, to the bone without the gap, and beyond the plane.

    The cortex follows the intact bone, so a cut surface has none.
    """
    beyond = cut[1] * u + cut[2] * v + cut[3] * w - cut[4]
    gap = cut[8]
    if beyond > gap / 2:
        u, v, w = u - cut[5], v - cut[6], w - cut[7]
    intact = _distance(shapes, boxes, active, u, v, w)
    remaining = intact
    if gap > 0.0:
        remaining = max(intact, beyond if beyond <= gap / 2 else gap - beyond)
    return intact, remaining, beyond


@compiled
def _active(boxes: FloatArray, axis: int, low: float, high: float) -> npt.NDArray[np.int64]:
    """Indices of the shapes that overlap the interval from low to high along an axis of the part."""
    chosen = np.empty(len(boxes), np.int64)
    count = 0
    for i in range(len(boxes)):
        if boxes[i, axis] <= high and boxes[i, axis + 3] >= low:
            chosen[count] = i
            count += 1
    return chosen[:count]


@compiled
def _active_in_slice(
    boxes: FloatArray, plane: FloatArray, window: FloatArray, cut: FloatArray
) -> npt.NDArray[np.int64]:
    """Indices of the shapes that overlap the window of a slice along w."""
    low, high = 1e9, -1e9
    for r in (window[0], window[1]):
        for c in (window[2], window[3]):
            w = plane[0, 2] + r * plane[1, 2] + c * plane[2, 2]
            low, high = min(low, w), max(high, w)
    moved = abs(cut[7])
    return _active(boxes, 2, low - moved, high + moved)


@compiled
def _active_in_row(
    boxes: FloatArray,
    active: npt.NDArray[np.int64],
    plane: FloatArray,
    window: FloatArray,
    cut: FloatArray,
    r: int,
) -> tuple[npt.NDArray[np.int64], int, int]:
    """The active shapes that overlap a row of pixels, and the first and last column that they may cover."""
    v0 = plane[0, 1] + r * plane[1, 1] + window[2] * plane[2, 1]
    v1 = plane[0, 1] + r * plane[1, 1] + window[3] * plane[2, 1]
    low, high = min(v0, v1) - abs(cut[6]), max(v0, v1) + abs(cut[6])
    chosen = np.empty(len(active), np.int64)
    count, left, right = 0, 1e9, -1e9
    for i in active:
        if boxes[i, 1] <= high and boxes[i, 4] >= low:
            chosen[count] = i
            count += 1
            left, right = min(left, boxes[i, 0]), max(right, boxes[i, 3])
    # Parts are rotated by a few degrees only, so u increases with the column.
    start, step = plane[0, 0] + r * plane[1, 0], plane[2, 0]
    first = max(window[2], math.floor((left - abs(cut[5]) - start) / step))
    last = min(window[3], math.ceil((right + abs(cut[5]) - start) / step))
    return chosen[:count], int(first), int(last) if count else int(first) - 1


@compiled
def _texture_at(texture: npt.NDArray[np.float32], u: float, v: float, w: float) -> float:
    """Trilinear interpolation in a periodic block of 1.3 mm voxels whose side is a power of two."""
    mask = texture.shape[0] - 1
    x, y, z = u / 1.3 + 512.0, v / 1.3 + 512.0, w / 1.3 + 512.0
    i, j, k = int(x), int(y), int(z)
    fx, fy, fz = x - i, y - j, z - k
    value = 0.0
    for a in range(2):
        for b in range(2):
            for c in range(2):
                weight = (fx if a else 1 - fx) * (fy if b else 1 - fy) * (fz if c else 1 - fz)
                value += weight * texture[(i + a) & mask, (j + b) & mask, (k + c) & mask]
    return value


@compiled
def _clip_to_unit(value: float) -> float:
    return min(1.0, max(0.0, value))


@compiled
def _lucency(cut: FloatArray, beyond: float, edge: float, u: float, v: float, w: float) -> float:
    """Remaining density: 1 in intact bone, 0 on the fracture line within its radius."""
    if cut[9] <= 0.0:
        return 1.0
    radius = math.sqrt((u - cut[10]) ** 2 + (v - cut[11]) ** 2 + (w - cut[12]) ** 2)
    line = 1.0 - _clip_to_unit((abs(beyond) - cut[9]) / edge + 0.5)
    return 1.0 - line * _clip_to_unit((cut[13] - radius) / edge + 0.5)


@compiled
def paint(
    hu: npt.NDArray[np.float32],
    labels: npt.NDArray[np.uint16],
    plane: FloatArray,
    window: FloatArray,
    shapes: FloatArray,
    boxes: FloatArray,
    cut: FloatArray,
    material: FloatArray,
    texture: npt.NDArray[np.float32],
    edge: float,
    label: int,
) -> None:
    """Paint one part into a slice: HU with soft edges, and its label in pixels whose centre is inside.

    ``plane`` (3, 3) is pixel (0, 0) and the steps from row to row and from column to column, in the frame of
    the part. ``window`` is the first and last row and column to visit. ``material`` is the HU of the shell
    and of the core, the thickness of the shell in mm and the amplitude of the texture of the core in HU.
    """
    active = _active_in_slice(boxes, plane, window, cut)
    if len(active) == 0:
        return
    for r in range(int(window[0]), int(window[1]) + 1):
        nearby, first, last = _active_in_row(boxes, active, plane, window, cut, r)
        for c in range(first, last + 1):
            u = plane[0, 0] + r * plane[1, 0] + c * plane[2, 0]
            v = plane[0, 1] + r * plane[1, 1] + c * plane[2, 1]
            w = plane[0, 2] + r * plane[1, 2] + c * plane[2, 2]
            beyond = 0.0
            if cut[0] > 0.0:
                intact, remaining, beyond = _cut_distance(shapes, boxes, nearby, cut, u, v, w)
            else:
                intact = remaining = _distance(shapes, boxes, nearby, u, v, w)
            if intact > edge:
                continue
            if remaining < 0.0 and label > 0 and labels[r, c] == 0:
                labels[r, c] = label
            opacity = _clip_to_unit(0.5 - remaining / edge)
            background = hu[r, c]
            if cut[0] > 0.0:
                opacity *= _lucency(cut, beyond, edge, u, v, w)
                if intact < 0.0:
                    background = 0.0
            value = material[1]
            if material[3] > 0.0 and intact < -material[2] / 2:
                value += material[3] * _texture_at(texture, u, v, w)
            shell = _clip_to_unit((material[2] + intact) / max(0.6, edge) + 0.5)
            value += (material[0] - value) * shell
            hu[r, c] = background + (value - background) * opacity


@compiled
def fracture_window(
    plane: FloatArray, window: FloatArray, shapes: FloatArray, boxes: FloatArray, cut: FloatArray
) -> tuple[int, int, int, int]:
    """First and last row and column of a slice where bone meets the cut; (0, -1, 0, -1) if nowhere."""
    active = _active_in_slice(boxes, plane, window, cut)
    r0, r1, c0, c1 = 1 << 30, -1, 1 << 30, -1
    for r in range(int(window[0]), int(window[1]) + 1):
        nearby, first, last = _active_in_row(boxes, active, plane, window, cut, r)
        for c in range(first, last + 1):
            u = plane[0, 0] + r * plane[1, 0] + c * plane[2, 0]
            v = plane[0, 1] + r * plane[1, 1] + c * plane[2, 1]
            w = plane[0, 2] + r * plane[1, 2] + c * plane[2, 2]
            beyond = cut[1] * u + cut[2] * v + cut[3] * w - cut[4]
            if beyond < -_ZONE_MM or beyond > cut[8] + _ZONE_MM:
                continue
            radius = math.sqrt((u - cut[10]) ** 2 + (v - cut[11]) ** 2 + (w - cut[12]) ** 2)
            if radius > cut[13] or _cut_distance(shapes, boxes, nearby, cut, u, v, w)[0] > 0.0:
                continue
            r0, r1, c0, c1 = min(r0, r), max(r1, r), min(c0, c), max(c1, c)
    if r1 < 0:
        return 0, -1, 0, -1
    return r0, r1, c0, c1


@compiled
def measure(
    step: float,
    low: FloatArray,
    high: FloatArray,
    view: FloatArray,
    origin: FloatArray,
    rotation: FloatArray,
    shapes: FloatArray,
    boxes: FloatArray,
    cut: FloatArray,
) -> tuple[FloatArray, float, float]:
    """Sample one part every ``step`` mm along its own axes, from (u, v, w) ``low`` to ``high``.

    ``view`` is a unit normal and the lowest and highest visible height along it. Returns (3, 3) the centroid,
    the lowest and the highest LPS point of the visible part in mm, then the visible and the total volume in
    cubic steps. Samples near a surface are weighted by their distance from it, so a coarse step is accurate
    enough.
    """
    result = np.zeros((3, 3))
    result[1], result[2] = 1e9, -1e9
    visible_volume = volume = 0.0
    moved = np.abs(cut[5:8])
    for w in np.arange(low[2], high[2], step):
        in_layer = _active(boxes, 2, w - moved[2], w + moved[2])
        layer, layer_boxes = shapes[in_layer], boxes[in_layer]
        for v in np.arange(low[1], high[1], step):
            active = _active(layer_boxes, 1, v - moved[1], v + moved[1])
            if len(active) == 0:
                continue
            for u in np.arange(low[0], high[0], step):
                if cut[0] > 0.0:
                    depth = -_cut_distance(layer, layer_boxes, active, cut, u, v, w)[1]
                else:
                    depth = -_distance(layer, layer_boxes, active, u, v, w)
                weight = _clip_to_unit(depth / step + 0.5)
                if weight == 0.0:
                    continue
                volume += weight
                x = origin[0] + rotation[0, 0] * u + rotation[0, 1] * v + rotation[0, 2] * w
                y = origin[1] + rotation[1, 0] * u + rotation[1, 1] * v + rotation[1, 2] * w
                z = origin[2] + rotation[2, 0] * u + rotation[2, 1] * v + rotation[2, 2] * w
                height = view[0] * x + view[1] * y + view[2] * z
                weight *= _clip_to_unit((height - view[3]) / step + 0.5) * _clip_to_unit(
                    (view[4] - height) / step + 0.5
                )
                visible_volume += weight
                for axis, value in enumerate((x, y, z)):
                    result[0, axis] += weight * value
                    if depth > 0.0 and weight > 0.0:
                        result[1, axis] = min(result[1, axis], value - depth)
                        result[2, axis] = max(result[2, axis], value + depth)
    result[0] /= max(1e-9, visible_volume)
    return result, visible_volume, volume
