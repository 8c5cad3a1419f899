"""Sample an image or labels on a `Grid`: only the voxels that are kept are computed.

HU are interpolated linearly. Where the target is coarser than the source along a *source* axis, the linear
kernel is widened to that ratio (a triangle, weights normalised), so fine detail is averaged and does not
alias; along all other axes the kernel stays linear interpolation between the two neighbours. The source is
padded with air, without end, before anything is interpolated. With uneven slices the kernel is evaluated at
the real positions of the slices.

Two code paths give the same voxels to within rounding. Where each source axis follows one target axis (in
any order and direction) the kernel is a product of three tables and is applied axis by axis; elsewhere (a
gantry tilt, an oblique series) it is evaluated voxel by voxel.

This module prepares index maps, axes and tables; the loops over voxels are in `spine_etl.resample.kernels`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from spine_etl.geometry import FloatArray, Grid
from spine_etl.jit import read_only
from spine_etl.resample.kernels import (
    AxisTaps,
    HuRange,
    SourceAxis,
    axis_taps,
    nearest_general,
    nearest_separable,
    sample_general,
    sample_separable,
)
from spine_etl.volume import AIR_HU, LabelMap, Volume

_DRIFT_TOLERANCE = 1e-6
"""Source voxels: less drift than this over the length of an axis is round-off, worth 0.004 HU at most."""
_HU_RANGE = HuRange(np.float32(AIR_HU), np.float32(-32768), np.float32(32767))


def sample_image(
    volume: Volume, target: Grid, *, out: npt.NDArray[np.int16] | None = None, threads: int = 1
) -> npt.NDArray[np.int16]:
    """HU at the target's voxel centres: int16 (z, y, x) of the target's shape, rounded to nearest.

    If ``out`` is given, it is filled and returned: C-ordered, of that shape and dtype.

    Uneven slices (`Volume.slice_coordinates`): where the local step is no finer than the target's, linear
    interpolation between the two real neighbours; where it is finer, the widened triangle over the real
    positions, with each slice weighted by half the distance between its neighbours. Beyond the first and the
    last slice, air begins one mean step away.
    """
    voxels = read_only(volume.voxels)
    index_map = _index_map(target, volume.grid)
    # The norm of a row is the target's step along that source axis, whatever the angle between the grids.
    ratios = np.linalg.norm(index_map[:3, :3], axis=1).tolist()
    coordinates = [volume.slice_coordinates, None, None]
    axes = [_source_axis(*each) for each in zip(voxels.shape, ratios, coordinates, strict=True)]
    order = _axis_order(index_map)
    image = np.empty(target.shape, np.int16) if out is None else out
    if order is None:
        _run_over_planes(sample_general, (voxels, index_map, *axes, _HU_RANGE, image), threads)
        return image
    positions = _axis_positions(index_map, target.shape, order)
    z, y, x = (AxisTaps(*axis_taps(*each)) for each in zip(positions, axes, strict=True))
    x = x._replace(weights=np.ascontiguousarray(x.weights[:, : x.tap_count.max()].T))
    buffer = _source_order_buffer(image, order)
    _run_over_planes(sample_separable, (voxels, z, y, x, _HU_RANGE, buffer), threads)
    return _copy_to_target_order(buffer, order, image)


def sample_labels(
    label_map: LabelMap, target: Grid, *, out: npt.NDArray[np.uint8] | None = None, threads: int = 1
) -> npt.NDArray[np.uint8]:
    """Labels at the target's voxel centres: uint8 (z, y, x) of the target's shape, 0 outside.

    If ``out`` is given, it is filled and returned: C-ordered, of that shape and dtype.

    Each centre takes the label of the source voxel that contains it; halfway between two, the one that
    `Grid.tie_shifts` chooses by its position, so the order and direction of the source's axes do not matter.
    """
    labels = read_only(label_map.labels)
    index_map = _index_map(target, label_map.grid)
    order = _axis_order(index_map)
    sampled = np.empty(target.shape, np.uint8) if out is None else out
    if order is None:
        _run_over_planes(nearest_general, (labels, index_map, label_map.grid.tie_shifts(), sampled), threads)
        return sampled
    tables = _axis_voxels(index_map, target.shape, order, label_map.grid)
    buffer = _source_order_buffer(sampled, order)
    _run_over_planes(nearest_separable, (labels, *tables, buffer), threads)
    return _copy_to_target_order(buffer, order, sampled)


def coverage(source: Grid, target: Grid) -> float:
    """Share, 0 to 1, of the target's voxel centres inside the source's block of voxels.

    Inside is an index from -0.5 to n - 0.5: the voxels that `sample_labels` would read. Of two opposite faces
    one belongs to the block, as `Grid.tie_shifts` says.
    """
    index_map = _index_map(target, source)
    order = _axis_order(index_map)
    if order is not None:
        tables = _axis_voxels(index_map, target.shape, order, source)
        return float(np.prod([np.mean(table >= 0) for table in tables]))
    in_plane = index_map[:3, 1:3] @ np.indices(target.shape[1:]).reshape(2, -1) + index_map[:3, 3:]
    limits, ties = np.array(source.shape)[:, None], source.tie_shifts()[:, None]
    inside = 0
    for z in range(target.shape[0]):
        voxels = np.floor(in_plane + index_map[:3, :1] * z + 0.5 + ties)
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
    """Compile every kernel, or load it from numba's cache, before the first study needs it."""
    tilted = np.eye(4)
    tilted[1, 0] = 0.5
    for target in (Grid((2, 2, 2), np.eye(4)), Grid((2, 2, 2), tilted)):
        source = Grid((2, 2, 2), np.eye(4))
        sample_image(Volume(np.zeros(source.shape, np.int16), source), target)
        sample_image(Volume(np.zeros(source.shape, np.float32), source), target)
        sample_labels(LabelMap(np.zeros(source.shape, np.uint8), source), target)


def _index_map(target: Grid, source: Grid) -> FloatArray:
    """`Grid.index_map_to`, with round-off drift set to 0 so that parallel axes are exactly parallel."""
    index_map = target.index_map_to(source)
    steps = index_map[:3, :3]
    steps[np.abs(steps) * target.shape < _DRIFT_TOLERANCE] = 0.0
    return index_map


def _axis_order(index_map: FloatArray) -> list[int] | None:
    """The target axis that each source axis follows, or None if one of them follows several."""
    follows = index_map[:3, :3] != 0.0
    if (follows.sum(axis=0) == 1).all() and (follows.sum(axis=1) == 1).all():
        order: list[int] = follows.argmax(axis=1).tolist()
        return order
    return None


def _source_order_buffer(out: npt.NDArray[Any], order: list[int]) -> npt.NDArray[Any]:
    """An array for the output with its axes in the source's order: ``out`` itself if the orders agree."""
    return out if order == [0, 1, 2] else np.empty([out.shape[axis] for axis in order], out.dtype)


def _copy_to_target_order(
    buffer: npt.NDArray[Any], order: list[int], out: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    if buffer is not out:
        out[...] = buffer.transpose(np.argsort(order))
    return out


def _axis_positions(index_map: FloatArray, shape: tuple[int, int, int], order: list[int]) -> list[FloatArray]:
    """For each source axis, the source index of each position along the target axis it follows."""
    return [index_map[axis, to] * np.arange(shape[to]) + index_map[axis, 3] for axis, to in enumerate(order)]


def _axis_voxels(
    index_map: FloatArray, shape: tuple[int, int, int], order: list[int], source: Grid
) -> list[npt.NDArray[np.int64]]:
    """For each source axis, the voxel that contains each position along its target axis; -1 outside."""
    positions = _axis_positions(index_map, shape, order)
    ties = source.tie_shifts()
    voxels = [np.floor(axis + 0.5 + tie).astype(np.int64) for axis, tie in zip(positions, ties, strict=True)]
    return [np.where((v >= 0) & (v < n), v, -1) for v, n in zip(voxels, source.shape, strict=True)]


def _source_axis(samples: int, ratio: float, coordinates: FloatArray | None) -> SourceAxis:
    """One source axis padded with air; ``coordinates`` are given if its samples are not at 0, 1, 2, ..."""
    real = np.arange(samples, dtype=np.float64) if coordinates is None else coordinates
    taps = max(2, math.ceil(2 * ratio / np.diff(real, append=real[-1] + 1).min()))
    padding = taps + math.ceil(2 * ratio) + 4  # the kernels search for neighbours without bounds checks
    positions = np.concatenate([np.arange(-padding, 0.0), real, real[-1] + np.arange(1.0, padding + 1)])
    return SourceAxis(
        positions, np.gradient(positions), padding, float(ratio), taps, even=coordinates is None
    )


def _run_over_planes(kernel: Callable[..., None], inputs: tuple[Any, ...], threads: int) -> None:
    """Call ``kernel(*inputs, start, stop)`` over the planes of the last input, one block for each thread."""
    planes = inputs[-1].shape[0]
    if threads == 1:
        return kernel(*inputs, 0, planes)
    bounds = np.linspace(0, planes, threads + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        blocks = [pool.submit(kernel, *inputs, *ends) for ends in pairwise(bounds)]
    for block in blocks:
        block.result()
