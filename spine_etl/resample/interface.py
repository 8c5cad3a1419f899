"""Sample an image or labels on a `Grid`: nothing is computed but the voxels that are kept.

HU are interpolated linearly. Where the target is coarser than the source along a *source* axis, the linear
kernel is widened to that ratio (a triangle, weights normalised), so that fine detail is averaged and not
aliased; along axes that are not downsampled it stays linear interpolation between the two neighbours.
Outside the source lies air without end, there before anything is interpolated. With uneven slices the
kernel is laid over the places where the slices really are.

Two paths give the same voxels to within rounding. Where each source axis follows one target axis (any
order, any direction) the kernel is a product of three tables and is applied axis by axis; elsewhere (a
gantry tilt, an oblique series) it is evaluated voxel by voxel.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

from spine_etl.geometry import FloatArray, Grid
from spine_etl.volume import AIR_HU, LabelMap, Volume

_DRIFT = 1e-6
"""Source voxels: what an axis drifts less than this over its whole length is round-off, 0.004 HU at most."""
_TIE = 1e-6
"""Source voxels: so near to half way between two voxels, round-off must not choose; the higher is taken."""

_AIR = np.float32(AIR_HU)
_LOWEST, _HIGHEST = np.float32(-32768), np.float32(32767)

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])


def _compiled(kernel: _Kernel) -> _Kernel:
    # Without the GIL, so that threads may share a volume; never numba's own threads: workers share the cores.
    return cast(_Kernel, njit(nogil=True, cache=True, error_model="numpy")(kernel))


class _Axis(NamedTuple):
    """One source axis as the kernel sees it.

    ``places`` are the indices at which samples lie: first ``air`` of them before the source, then the real
    ones, then as many of air again; ``widths`` are half the distances between each one's neighbours.
    ``ratio`` is the target's step along this axis in source steps, ``taps`` the most samples in its reach.
    """

    places: FloatArray
    widths: FloatArray
    air: int
    ratio: float
    taps: int
    even: bool


class _Taps(NamedTuple):
    """How one source axis is read along one target axis of n positions.

    Position i reads ``taps[i]`` samples from ``begin[i]`` on, weighted by ``weights[i]``. ``inside[i]`` is
    the sum of these weights; what is missing to 1 falls on the air outside.
    """

    begin: npt.NDArray[np.int64]
    taps: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    inside: npt.NDArray[np.float32]


def sample_image(
    volume: Volume, target: Grid, *, out: npt.NDArray[np.int16] | None = None, threads: int = 1
) -> npt.NDArray[np.int16]:
    """HU on the target's voxel centres: int16 (z, y, x) of the target's shape, rounded to nearest.

    ``out`` is filled and returned where given: C-ordered, of that shape and dtype.

    Uneven slices (`Volume.slice_coordinates`): where the local step is no finer than the target's, linear
    interpolation between the two real neighbours; where it is finer, the widened triangle over the real
    places, each slice weighted with half the distance between its neighbours. Beyond the first and the last
    slice, air begins one mean step away.
    """
    voxels = _readable(volume.voxels)
    index_map = _index_map(target, volume.grid)
    # The length of a row is the target's step along that source axis, whatever the angle between the grids.
    ratios = np.linalg.norm(index_map[:3, :3], axis=1).tolist()
    places = [volume.slice_coordinates, None, None]
    axes = [_axis(*each) for each in zip(voxels.shape, ratios, places, strict=True)]
    order = _axis_order(index_map)
    image = np.empty(target.shape, np.int16) if out is None else out
    if order is None:
        _over_planes(_sample_points, (voxels, index_map, *axes, image), threads)
        return image
    positions = _axis_positions(index_map, target.shape, order)
    z, y, x = (_Taps(*_axis_taps(*each)) for each in zip(positions, axes, strict=True))
    x = x._replace(weights=np.ascontiguousarray(x.weights[:, : x.taps.max()].T))
    block = _block(image, order)
    _over_planes(_sample_planes, (voxels, z, y, x, block), threads)
    return _unblocked(block, order, image)


def sample_labels(
    label_map: LabelMap, target: Grid, *, out: npt.NDArray[np.uint8] | None = None, threads: int = 1
) -> npt.NDArray[np.uint8]:
    """Labels on the target's voxel centres: uint8 (z, y, x) of the target's shape, 0 outside.

    ``out`` is filled and returned where given: C-ordered, of that shape and dtype.

    Each is the label of the source voxel that the centre lies in; half way between two, the one of higher
    index.
    """
    labels = _readable(label_map.labels)
    index_map = _index_map(target, label_map.grid)
    order = _axis_order(index_map)
    sampled = np.empty(target.shape, np.uint8) if out is None else out
    if order is None:
        _over_planes(_pick_points, (labels, index_map, sampled), threads)
        return sampled
    tables = _axis_voxels(index_map, target.shape, order, label_map.grid.shape)
    block = _block(sampled, order)
    _over_planes(_pick_planes, (labels, *tables, block), threads)
    return _unblocked(block, order, sampled)


def coverage(source: Grid, target: Grid) -> float:
    """Share, 0 to 1, of the target's voxel centres that lie inside the source's block of voxels.

    Inside is an index from -0.5 to n - 0.5, the voxels that `sample_labels` would read.
    """
    index_map = _index_map(target, source)
    order = _axis_order(index_map)
    if order is not None:
        tables = _axis_voxels(index_map, target.shape, order, source.shape)
        return float(np.prod([np.mean(table >= 0) for table in tables]))
    in_plane = index_map[:3, 1:3] @ np.indices(target.shape[1:]).reshape(2, -1) + index_map[:3, 3:]
    limits = np.array(source.shape)[:, None]
    inside = 0
    for z in range(target.shape[0]):
        voxels = np.floor(in_plane + index_map[:3, :1] * z + 0.5 + _TIE)
        inside += int(np.count_nonzero(((voxels >= 0) & (voxels < limits)).all(axis=0)))
    return inside / float(np.prod(target.shape))


def resample_isotropic(volume: Volume, mm: float, *, threads: int = 1) -> Volume:
    """The whole volume on the smallest canonical grid of ``mm`` millimetres that covers it, int16 HU.

    The voxels are no longer the file's slices: ``slice_coordinates`` and ``file_numbers`` become None.
    """
    target = volume.grid.enclosing_canonical(mm)
    voxels = sample_image(volume, target, threads=threads)
    return dataclasses.replace(volume, voxels=voxels, grid=target, slice_coordinates=None, file_numbers=None)


def warm_up() -> None:
    """Compile every kernel, or load it from the cache, so that no worker does so in its first study."""
    tilted = np.eye(4)
    tilted[1, 0] = 0.5
    for target in (Grid((2, 2, 2), np.eye(4)), Grid((2, 2, 2), tilted)):
        source = Grid((2, 2, 2), np.eye(4))
        sample_image(Volume(np.zeros(source.shape, np.int16), source), target)
        sample_image(Volume(np.zeros(source.shape, np.float32), source), target)
        sample_labels(LabelMap(np.zeros(source.shape, np.uint8), source), target)


def _readable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    # Always C-ordered and read-only: numba compiles a kernel once for each layout and mutability it meets.
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def _index_map(target: Grid, source: Grid) -> FloatArray:
    """`Grid.index_map_to`, less the drift that is only round-off: an axis that follows one axis says so."""
    index_map = target.index_map_to(source)
    steps = index_map[:3, :3]
    steps[np.abs(steps) * target.shape < _DRIFT] = 0.0
    return index_map


def _axis_order(index_map: FloatArray) -> list[int] | None:
    """The target axis that each source axis follows, or None where one follows several."""
    follows = index_map[:3, :3] != 0.0
    if (follows.sum(axis=0) == 1).all() and (follows.sum(axis=1) == 1).all():
        order: list[int] = follows.argmax(axis=1).tolist()
        return order
    return None


def _block(out: npt.NDArray[Any], order: list[int]) -> npt.NDArray[Any]:
    """Room for the output with its axes in the source's order: the output itself where that is the same."""
    return out if order == [0, 1, 2] else np.empty([out.shape[axis] for axis in order], out.dtype)


def _unblocked(block: npt.NDArray[Any], order: list[int], out: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if block is not out:
        out[...] = block.transpose(np.argsort(order))
    return out


def _axis_positions(index_map: FloatArray, shape: tuple[int, int, int], order: list[int]) -> list[FloatArray]:
    """For each source axis, the source index of each position along the target axis it follows."""
    return [index_map[axis, to] * np.arange(shape[to]) + index_map[axis, 3] for axis, to in enumerate(order)]


def _axis_voxels(
    index_map: FloatArray, shape: tuple[int, int, int], order: list[int], source_shape: tuple[int, int, int]
) -> list[npt.NDArray[np.int64]]:
    """For each source axis, the voxel in which each position along its target axis lies; -1 outside."""
    positions = _axis_positions(index_map, shape, order)
    voxels = [np.floor(axis + 0.5 + _TIE).astype(np.int64) for axis in positions]
    return [np.where((v >= 0) & (v < n), v, -1) for v, n in zip(voxels, source_shape, strict=True)]


def _axis(samples: int, ratio: float, places: FloatArray | None) -> _Axis:
    """One source axis with the air around it; ``places`` where its samples do not lie at 0, 1, 2, ..."""
    real = np.arange(samples, dtype=np.float64) if places is None else places
    taps = max(2, math.ceil(2 * ratio / np.diff(real, append=real[-1] + 1).min()))
    air = taps + math.ceil(2 * ratio) + 4  # the kernel looks for neighbours without asking where the end is
    around = np.concatenate([np.arange(-air, 0.0), real, real[-1] + np.arange(1.0, air + 1)])
    return _Axis(around, np.gradient(around), air, float(ratio), taps, places is None)


def _over_planes(kernel: Callable[..., None], inputs: tuple[Any, ...], threads: int) -> None:
    """Run ``kernel(*inputs, start, stop)`` over the planes of the last input, a block for each thread."""
    planes = inputs[-1].shape[0]
    if threads == 1:
        return kernel(*inputs, 0, planes)
    bounds = np.linspace(0, planes, threads + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        blocks = [pool.submit(kernel, *inputs, *ends) for ends in pairwise(bounds)]
    for block in blocks:
        block.result()


@_compiled
def _weigh(position: float, axis: _Axis, weights: npt.NDArray[np.float32]) -> tuple[int, int, float]:
    """Fill ``weights`` with those of the real samples near a position; (begin, count, sum of weights)."""
    places, widths, air, ratio, taps, _ = axis
    reach = max(ratio, 1.0)
    if not places[air] - reach < position < places[places.size - air - 1] + reach:
        return 0, 0, 0.0
    first = _first_after(position, places, air) - 1
    reach = places[first + 1] - places[first]
    widened = ratio > reach
    if widened:
        reach = ratio
        first = _first_after(position - ratio, places, air)
    count = taps if widened else 2
    total = 0.0
    # The count is the same at nearly every voxel: a loop that stopped at the last weight would be slower.
    for tap in range(count):
        weight = max(1.0 - abs(places[first + tap] - position) * (1.0 / reach), 0.0)
        weight *= widths[first + tap] if widened else 1.0
        weights[tap] = weight
        total += weight
    for tap in range(count):
        weights[tap] *= 1.0 / total
    if first >= air and first + count <= places.size - air:
        return first - air, count, 1.0
    return _without_air(first - air, count, places.size - 2 * air, weights)


@_compiled
def _first_after(position: float, places: FloatArray, air: int) -> int:
    """The first sample that lies beyond a position; the guess is right where samples are even."""
    sample = int(np.floor(position)) + air + 1
    while places[sample - 1] > position:
        sample -= 1
    while places[sample] <= position:
        sample += 1
    return sample


@_compiled
def _without_air(
    first: int, count: int, samples: int, weights: npt.NDArray[np.float32]
) -> tuple[int, int, float]:
    """Move the weights of real samples to the front, 0 behind them; (begin, count, sum of weights)."""
    begin, end = max(first, 0), max(min(first + count, samples), 0)
    inside = 0.0
    for tap in range(count):
        sample = begin + tap
        weights[tap] = weights[sample - first] if sample < end else 0.0
        inside += weights[tap]
    return begin, max(end - begin, 0), inside


@_compiled
def _axis_taps(
    positions: FloatArray, axis: _Axis
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The fields of `_Taps` for each position along an axis."""
    begin = np.zeros(positions.size, np.int64)
    count = np.zeros(positions.size, np.int64)
    inside = np.zeros(positions.size, np.float32)
    weights = np.zeros((positions.size, axis.taps), np.float32)
    for i in range(positions.size):
        begin[i], count[i], inside[i] = _weigh(positions[i], axis, weights[i])
    return begin, count, weights, inside


@_compiled
def _to_int16(hu: np.float32) -> np.int16:
    return np.int16(min(max(np.rint(hu), _LOWEST), _HIGHEST))


@_compiled
def _add_row(total: npt.NDArray[np.float32], weight: float, row: npt.NDArray[Any], first: bool) -> None:
    if first:
        for x in range(row.size):
            total[x] = weight * np.float32(row[x])
    else:
        for x in range(row.size):
            total[x] += weight * np.float32(row[x])


@_compiled
def _reach(axis: _Taps) -> tuple[int, int]:
    """The range of samples that an axis reads; empty where it lies outside the source."""
    low, high = -1, -1
    for i in range(axis.begin.size):
        if axis.taps[i] > 0:
            low = axis.begin[i] if low < 0 else min(low, axis.begin[i])
            high = max(high, axis.begin[i] + axis.taps[i])
    return max(low, 0), max(high, 0)


@_compiled
def _sample_planes(
    voxels: npt.NDArray[Any], z: _Taps, y: _Taps, x: _Taps, out: npt.NDArray[np.int16], start: int, stop: int
) -> None:
    """Fill ``out[start:stop]``: slices are blended into a plane, its rows into a row, that into voxels.

    ``x.weights`` is (tap, position), so that every loop that counts runs along a row.
    """
    taps, width = x.weights.shape
    y_low, y_high = _reach(y)
    x_low, x_high = _reach(x)
    plane = np.zeros((y_high - y_low, x_high - x_low), np.float32)
    row = np.zeros(x_high - x_low + taps, np.float32)  # voxels of fewer taps read on, with weight 0
    begin = np.where(x.taps > 0, x.begin - x_low, 0)
    blend = np.empty(width, np.float32)
    for i in range(start, stop):
        for source in range(y_low, y_high):
            for tap in range(z.taps[i]):
                samples = voxels[z.begin[i] + tap, source, x_low:x_high]
                _add_row(plane[source - y_low], z.weights[i, tap], samples, tap == 0)
        for j in range(out.shape[1]):
            inside = z.inside[i] * y.inside[j]
            for k in range(width):
                blend[k] = _AIR * (np.float32(1) - inside * x.inside[k])
            if inside > 0:
                for tap in range(y.taps[j]):
                    _add_row(row, y.weights[j, tap], plane[y.begin[j] + tap - y_low], tap == 0)
                for tap in range(taps):
                    weights, samples = x.weights[tap], row[tap:]
                    for k in range(width):
                        blend[k] += weights[k] * samples[begin[k]]
            for k in range(width):
                out[i, j, k] = _to_int16(blend[k])


@_compiled
def _sample_points(
    voxels: npt.NDArray[Any],
    index_map: FloatArray,
    z: _Axis,
    y: _Axis,
    x: _Axis,
    out: npt.NDArray[np.int16],
    start: int,
    stop: int,
) -> None:
    """Fill ``out[start:stop]`` voxel by voxel, for grids at any angle.

    Where no tap of a row's middle part falls on air, which is nearly everywhere, that part is done at once.
    """
    width = out.shape[2]
    together = z.even and x.taps <= 4  # more taps in a row are read faster by themselves
    scratch = (np.empty(z.taps, np.float32), np.empty(y.taps, np.float32), np.empty(x.taps, np.float32))
    begin = np.empty((3, width), np.int64)
    weights = np.empty((z.taps + y.taps + x.taps, width), np.float32)
    for i in range(start, stop):
        for j in range(out.shape[1]):
            low, high = 0, width if together else 0
            for axis, taps, kernel in ((0, 0, z), (1, z.taps, y), (2, z.taps + y.taps, x)):
                first = index_map[axis, 0] * i + index_map[axis, 1] * j + index_map[axis, 3]
                if low < high:
                    kernel_weights = weights[taps : taps + kernel.taps]
                    _weigh_row(first, index_map[axis, 2], kernel, begin[axis], kernel_weights)
                    low, high = _without_taps_on_air(begin[axis], kernel.taps, voxels.shape[axis], low, high)
            _blend_row(voxels, begin, weights, z.taps, y.taps, out[i, j], low, high)
            for k in range(low):
                out[i, j, k] = _point(voxels, _moved(index_map, i, j, k), z, y, x, scratch)
            for k in range(high, width):
                out[i, j, k] = _point(voxels, _moved(index_map, i, j, k), z, y, x, scratch)


@_compiled
def _weigh_row(
    first: float, step: float, axis: _Axis, begin: npt.NDArray[np.int64], weights: npt.NDArray[np.float32]
) -> None:
    """`_weigh` for a row of positions on an even axis; ``weights`` is (tap, position)."""
    reach = max(axis.ratio, 1.0)
    narrowness = np.float32(1.0 / reach)
    place = np.empty(begin.size, np.float32)  # from the first tap on: small, so that float32 holds it
    total = np.zeros(begin.size, np.float32)
    for k in range(begin.size):
        position = first + step * k
        begin[k] = int(np.floor(position - reach)) + 1
        place[k] = position - begin[k]
    for tap in range(axis.taps):
        row = weights[tap]
        for k in range(row.size):
            row[k] = max(np.float32(1) - abs(np.float32(tap) - place[k]) * narrowness, np.float32(0))
            total[k] += row[k]
    for tap in range(axis.taps):
        row = weights[tap]
        for k in range(row.size):
            row[k] /= total[k]


@_compiled
def _without_taps_on_air(
    begin: npt.NDArray[np.int64], taps: int, samples: int, low: int, high: int
) -> tuple[int, int]:
    """The part of low..high whose taps are all real; positions run one way, so it is one part."""
    while low < high and not 0 <= begin[low] <= samples - taps:
        low += 1
    while high > low and not 0 <= begin[high - 1] <= samples - taps:
        high -= 1
    return low, high


@_compiled
def _blend_row(
    voxels: npt.NDArray[Any],
    begin: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float32],
    z_taps: int,
    y_taps: int,
    out: npt.NDArray[np.int16],
    low: int,
    high: int,
) -> None:
    _, rows, columns = voxels.shape
    flat = voxels.reshape(-1)
    corner = (begin[0] * rows + begin[1]) * columns + begin[2]
    hu = np.zeros(out.size, np.float32)
    samples = np.zeros(out.size, np.float32)
    for a in range(z_taps):
        for b in range(y_taps):
            in_plane = weights[a] * weights[z_taps + b]
            for c in range(weights.shape[0] - z_taps - y_taps):
                along = weights[z_taps + y_taps + c]
                shifted = flat[(a * rows + b) * columns + c :]
                for k in range(low, high):  # by itself: loads from all over keep the sum below from SIMD
                    samples[k] = shifted[corner[k]]
                for k in range(low, high):
                    hu[k] += in_plane[k] * along[k] * samples[k]
    for k in range(low, high):
        out[k] = _to_int16(hu[k])


@_compiled
def _point(
    voxels: npt.NDArray[Any],
    place: tuple[float, float, float],
    z_axis: _Axis,
    y_axis: _Axis,
    x_axis: _Axis,
    scratch: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]],
) -> np.int16:
    z_weights, y_weights, x_weights = scratch
    z, z_count, z_inside = _weigh(place[0], z_axis, z_weights)
    y, y_count, y_inside = _weigh(place[1], y_axis, y_weights)
    x, x_count, x_inside = _weigh(place[2], x_axis, x_weights)
    hu = _AIR * np.float32(1.0 - z_inside * y_inside * x_inside)
    for a in range(z_count):
        for b in range(y_count):
            line = np.float32(0)
            for c in range(x_count):
                line += x_weights[c] * np.float32(voxels[z + a, y + b, x + c])
            hu += z_weights[a] * y_weights[b] * line
    return _to_int16(hu)


@_compiled
def _moved(index_map: FloatArray, i: int, j: int, k: int) -> tuple[float, float, float]:
    m = index_map
    return (
        m[0, 0] * i + m[0, 1] * j + m[0, 2] * k + m[0, 3],
        m[1, 0] * i + m[1, 1] * j + m[1, 2] * k + m[1, 3],
        m[2, 0] * i + m[2, 1] * j + m[2, 2] * k + m[2, 3],
    )


@_compiled
def _pick_planes(
    labels: npt.NDArray[np.uint8],
    z: npt.NDArray[np.int64],
    y: npt.NDArray[np.int64],
    x: npt.NDArray[np.int64],
    out: npt.NDArray[np.uint8],
    start: int,
    stop: int,
) -> None:
    """Fill ``out[start:stop]`` from tables of source indices, -1 outside."""
    for i in range(start, stop):
        for j in range(y.size):
            if z[i] < 0 or y[j] < 0:
                out[i, j] = 0
                continue
            row = labels[z[i], y[j]]
            for k in range(x.size):
                out[i, j, k] = row[x[k]] if x[k] >= 0 else 0


@_compiled
def _pick_points(
    labels: npt.NDArray[np.uint8], index_map: FloatArray, out: npt.NDArray[np.uint8], start: int, stop: int
) -> None:
    """Fill ``out[start:stop]`` voxel by voxel, for grids at any angle."""
    for i in range(start, stop):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                place = _moved(index_map, i, j, k)
                z = int(np.floor(place[0] + 0.5 + _TIE))
                y = int(np.floor(place[1] + 0.5 + _TIE))
                x = int(np.floor(place[2] + 0.5 + _TIE))
                inside = 0 <= z < labels.shape[0] and 0 <= y < labels.shape[1] and 0 <= x < labels.shape[2]
                out[i, j, k] = labels[z, y, x] if inside else 0
