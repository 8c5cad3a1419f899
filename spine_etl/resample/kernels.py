"""The numba kernels that sample images and labels.

Each source axis has a kernel of weights, the linear kernel or the widened triangle (see
`spine_etl.resample.interface`). The ``separable`` kernels work where each source axis follows one target
axis, the ``general`` ones at any angle between the grids. All fill planes ``start`` to ``stop`` of their
output, so threads can share it. Every constant is an argument (see `spine_etl.jit`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from spine_etl.geometry import FloatArray
from spine_etl.jit import compiled


class HuRange(NamedTuple):
    """float32 HU: the value outside the source, and the limits that the output is clipped to."""

    air: np.float32
    lowest: np.float32
    highest: np.float32


class SourceAxis(NamedTuple):
    """One source axis, padded with air.

    ``positions`` are the source indices of the samples: ``padding`` samples of air, the samples of the
    source, then ``padding`` samples of air again. ``widths`` are half the distances between each sample's
    neighbours. ``ratio`` is the target's step along this axis in source steps; ``taps`` is the largest
    number of samples under the kernel of weights. ``even`` is true if the source's samples are at 0, 1, 2 ...
    """

    positions: FloatArray
    widths: FloatArray
    padding: int
    ratio: float
    taps: int
    even: bool


class AxisTaps(NamedTuple):
    """The samples of one source axis that each of n positions along a target axis reads, and their weights.

    Position i reads ``tap_count[i]`` samples from ``begin[i]`` on, weighted by ``weights[i]``. ``inside[i]``
    is the sum of these weights; the rest, up to 1, is the weight of the air outside.
    """

    begin: npt.NDArray[np.int64]
    tap_count: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    inside: npt.NDArray[np.float32]


@compiled
def axis_taps(
    targets: FloatArray, axis: SourceAxis
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The fields of `AxisTaps` for positions along a target axis, given as source indices."""
    begin = np.zeros(targets.size, np.int64)
    count = np.zeros(targets.size, np.int64)
    inside = np.zeros(targets.size, np.float32)
    weights = np.zeros((targets.size, axis.taps), np.float32)
    for i in range(targets.size):
        begin[i], count[i], inside[i] = _weigh_samples(targets[i], axis, weights[i])
    return begin, count, weights, inside


@compiled
def sample_separable(
    voxels: npt.NDArray[Any],
    z: AxisTaps,
    y: AxisTaps,
    x: AxisTaps,
    hu_range: HuRange,
    out: npt.NDArray[np.int16],
    start: int,
    stop: int,
) -> None:
    """Sample an image axis by axis: blend slices into a plane, its rows into one row, that row into voxels.

    ``x.weights`` is (tap, position), so that the inner loops run along rows.
    """
    taps, width = x.weights.shape
    y_low, y_high = _sample_range(y)
    x_low, x_high = _sample_range(x)
    plane = np.zeros((y_high - y_low, x_high - x_low), np.float32)
    row = np.zeros(x_high - x_low + taps, np.float32)  # voxels with fewer taps read on, with weight 0
    begin = np.where(x.tap_count > 0, x.begin - x_low, 0)
    blend = np.empty(width, np.float32)
    for i in range(start, stop):
        for source in range(y_low, y_high):
            for tap in range(z.tap_count[i]):
                samples = voxels[z.begin[i] + tap, source, x_low:x_high]
                _accumulate_row(plane[source - y_low], z.weights[i, tap], samples, tap == 0)
        for j in range(out.shape[1]):
            inside = z.inside[i] * y.inside[j]
            for k in range(width):
                blend[k] = hu_range.air * (np.float32(1) - inside * x.inside[k])
            if inside > 0:
                for tap in range(y.tap_count[j]):
                    _accumulate_row(row, y.weights[j, tap], plane[y.begin[j] + tap - y_low], tap == 0)
                for tap in range(taps):
                    weights, samples = x.weights[tap], row[tap:]
                    for k in range(width):
                        blend[k] += weights[k] * samples[begin[k]]
            for k in range(width):
                out[i, j, k] = _round_to_int16(blend[k], hu_range)


@compiled
def sample_general(
    voxels: npt.NDArray[Any],
    index_map: FloatArray,
    z: SourceAxis,
    y: SourceAxis,
    x: SourceAxis,
    hu_range: HuRange,
    out: npt.NDArray[np.int16],
    start: int,
    stop: int,
) -> None:
    """Sample an image voxel by voxel.

    In nearly every row there is a middle part whose taps are all inside the source; it is computed at once.
    """
    width = out.shape[2]
    by_row = z.even and x.taps <= 4  # with more taps in a row, single voxels are faster
    scratch = (np.empty(z.taps, np.float32), np.empty(y.taps, np.float32), np.empty(x.taps, np.float32))
    begin = np.empty((3, width), np.int64)
    weights = np.empty((z.taps + y.taps + x.taps, width), np.float32)
    for i in range(start, stop):
        for j in range(out.shape[1]):
            low, high = 0, width if by_row else 0
            for dimension, taps, axis in ((0, 0, z), (1, z.taps, y), (2, z.taps + y.taps, x)):
                first = index_map[dimension, 0] * i + index_map[dimension, 1] * j + index_map[dimension, 3]
                if low < high:
                    axis_weights = weights[taps : taps + axis.taps]
                    _weigh_row(first, index_map[dimension, 2], axis, begin[dimension], axis_weights)
                    low, high = _interior(begin[dimension], axis.taps, voxels.shape[dimension], low, high)
            _blend_row(voxels, begin, weights, z.taps, y.taps, hu_range, out[i, j], low, high)
            for k in range(low):
                index = _map_index(index_map, i, j, k)
                out[i, j, k] = _blend_voxel(voxels, index, z, y, x, hu_range, scratch)
            for k in range(high, width):
                index = _map_index(index_map, i, j, k)
                out[i, j, k] = _blend_voxel(voxels, index, z, y, x, hu_range, scratch)


@compiled
def nearest_separable(
    labels: npt.NDArray[np.uint8],
    z: npt.NDArray[np.int64],
    y: npt.NDArray[np.int64],
    x: npt.NDArray[np.int64],
    out: npt.NDArray[np.uint8],
    start: int,
    stop: int,
) -> None:
    """Sample labels through one table of source indices for each axis, -1 outside the source."""
    for i in range(start, stop):
        for j in range(y.size):
            if z[i] < 0 or y[j] < 0:
                out[i, j] = 0
                continue
            row = labels[z[i], y[j]]
            for k in range(x.size):
                out[i, j, k] = row[x[k]] if x[k] >= 0 else 0


@compiled
def nearest_general(
    labels: npt.NDArray[np.uint8],
    index_map: FloatArray,
    ties: FloatArray,
    out: npt.NDArray[np.uint8],
    start: int,
    stop: int,
) -> None:
    """Sample labels voxel by voxel; ``ties`` (z, y, x) are added to each index (`Grid.tie_shifts`)."""
    for i in range(start, stop):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                index = _map_index(index_map, i, j, k)
                z = int(np.floor(index[0] + 0.5 + ties[0]))
                y = int(np.floor(index[1] + 0.5 + ties[1]))
                x = int(np.floor(index[2] + 0.5 + ties[2]))
                inside = 0 <= z < labels.shape[0] and 0 <= y < labels.shape[1] and 0 <= x < labels.shape[2]
                out[i, j, k] = labels[z, y, x] if inside else 0


@compiled
def _weigh_samples(
    target: float, axis: SourceAxis, weights: npt.NDArray[np.float32]
) -> tuple[int, int, float]:
    """Fill ``weights`` for the samples around a source index; return (begin, count, sum of weights).

    Only samples of the source count: the weights of padding are left out of all three.
    """
    positions, widths, padding, ratio, taps, _ = axis
    reach = max(ratio, 1.0)
    if not positions[padding] - reach < target < positions[positions.size - padding - 1] + reach:
        return 0, 0, 0.0
    first = _first_sample_after(target, positions, padding) - 1
    reach = positions[first + 1] - positions[first]
    widened = ratio > reach
    if widened:
        reach = ratio
        first = _first_sample_after(target - ratio, positions, padding)
    count = taps if widened else 2
    total = 0.0
    # The count is the same for nearly every voxel; stopping at the last weight above 0 would be slower.
    for tap in range(count):
        weight = max(1.0 - abs(positions[first + tap] - target) * (1.0 / reach), 0.0)
        weight *= widths[first + tap] if widened else 1.0
        weights[tap] = weight
        total += weight
    for tap in range(count):
        weights[tap] *= 1.0 / total
    if first >= padding and first + count <= positions.size - padding:
        return first - padding, count, 1.0
    return _drop_padding(first - padding, count, positions.size - 2 * padding, weights)


@compiled
def _first_sample_after(target: float, positions: FloatArray, padding: int) -> int:
    """The first sample beyond a source index; the first guess is right if the samples are even."""
    sample = int(np.floor(target)) + padding + 1
    while positions[sample - 1] > target:
        sample -= 1
    while positions[sample] <= target:
        sample += 1
    return sample


@compiled
def _drop_padding(
    first: int, count: int, samples: int, weights: npt.NDArray[np.float32]
) -> tuple[int, int, float]:
    """Move the weights of the source's samples to the front, 0 behind; return (begin, count, their sum)."""
    begin, end = max(first, 0), max(min(first + count, samples), 0)
    inside = 0.0
    for tap in range(count):
        sample = begin + tap
        weights[tap] = weights[sample - first] if sample < end else 0.0
        inside += weights[tap]
    return begin, max(end - begin, 0), inside


@compiled
def _round_to_int16(hu: np.float32, hu_range: HuRange) -> np.int16:
    return np.int16(min(max(np.rint(hu), hu_range.lowest), hu_range.highest))


@compiled
def _accumulate_row(
    total: npt.NDArray[np.float32], weight: float, row: npt.NDArray[Any], first: bool
) -> None:
    """Add a weighted row to ``total``, or overwrite it with the ``first`` one."""
    if first:
        for x in range(row.size):
            total[x] = weight * np.float32(row[x])
    else:
        for x in range(row.size):
            total[x] += weight * np.float32(row[x])


@compiled
def _sample_range(axis: AxisTaps) -> tuple[int, int]:
    """The range of samples that an axis reads; empty if it is outside the source."""
    low, high = -1, -1
    for i in range(axis.begin.size):
        if axis.tap_count[i] > 0:
            low = axis.begin[i] if low < 0 else min(low, axis.begin[i])
            high = max(high, axis.begin[i] + axis.tap_count[i])
    return max(low, 0), max(high, 0)


@compiled
def _weigh_row(
    first: float,
    step: float,
    axis: SourceAxis,
    begin: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float32],
) -> None:
    """`_weigh_samples` for a row of voxels along an even axis; ``weights`` is (tap, voxel)."""
    reach = max(axis.ratio, 1.0)
    narrowness = np.float32(1.0 / reach)
    offset = np.empty(begin.size, np.float32)  # from the first tap: small enough for float32
    total = np.zeros(begin.size, np.float32)
    for k in range(begin.size):
        target = first + step * k
        begin[k] = int(np.floor(target - reach)) + 1
        offset[k] = target - begin[k]
    for tap in range(axis.taps):
        row = weights[tap]
        for k in range(row.size):
            row[k] = max(np.float32(1) - abs(np.float32(tap) - offset[k]) * narrowness, np.float32(0))
            total[k] += row[k]
    for tap in range(axis.taps):
        row = weights[tap]
        for k in range(row.size):
            row[k] /= total[k]


@compiled
def _interior(begin: npt.NDArray[np.int64], taps: int, samples: int, low: int, high: int) -> tuple[int, int]:
    """The part of low..high whose taps are all inside the source: one part, as ``begin`` is monotonic."""
    while low < high and not 0 <= begin[low] <= samples - taps:
        low += 1
    while high > low and not 0 <= begin[high - 1] <= samples - taps:
        high -= 1
    return low, high


@compiled
def _blend_row(
    voxels: npt.NDArray[Any],
    begin: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float32],
    z_taps: int,
    y_taps: int,
    hu_range: HuRange,
    out: npt.NDArray[np.int16],
    low: int,
    high: int,
) -> None:
    """Fill ``out[low:high]``, voxels whose taps are all inside the source."""
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
                for k in range(low, high):  # a loop of its own: scattered loads would keep the sum from SIMD
                    samples[k] = shifted[corner[k]]
                for k in range(low, high):
                    hu[k] += in_plane[k] * along[k] * samples[k]
    for k in range(low, high):
        out[k] = _round_to_int16(hu[k], hu_range)


@compiled
def _blend_voxel(
    voxels: npt.NDArray[Any],
    index: tuple[float, float, float],
    z_axis: SourceAxis,
    y_axis: SourceAxis,
    x_axis: SourceAxis,
    hu_range: HuRange,
    scratch: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]],
) -> np.int16:
    """HU at one source index; ``scratch`` has space for the weights of the three axes."""
    z_weights, y_weights, x_weights = scratch
    z, z_count, z_inside = _weigh_samples(index[0], z_axis, z_weights)
    y, y_count, y_inside = _weigh_samples(index[1], y_axis, y_weights)
    x, x_count, x_inside = _weigh_samples(index[2], x_axis, x_weights)
    hu = hu_range.air * np.float32(1.0 - z_inside * y_inside * x_inside)
    for a in range(z_count):
        for b in range(y_count):
            line = np.float32(0)
            for c in range(x_count):
                line += x_weights[c] * np.float32(voxels[z + a, y + b, x + c])
            hu += z_weights[a] * y_weights[b] * line
    return _round_to_int16(hu, hu_range)


@compiled
def _map_index(index_map: FloatArray, i: int, j: int, k: int) -> tuple[float, float, float]:
    """The source index of a target index."""
    m = index_map
    return (
        m[0, 0] * i + m[0, 1] * j + m[0, 2] * k + m[0, 3],
        m[1, 0] * i + m[1, 1] * j + m[1, 2] * k + m[1, 3],
        m[2, 0] * i + m[2, 1] * j + m[2, 2] * k + m[2, 3],
    )
