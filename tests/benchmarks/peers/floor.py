"""The floor: the work that no implementation can avoid, stage by stage and with nothing else.

Files are read into allocated memory from known offsets, compressed slices are decoded, crops are sampled with
two taps per axis, compressed with blosc and written. Nothing is checked: no header is parsed, no digest
computed, no label searched, no air set outside the field of view, no anti-aliasing for the coarse overview,
and no flush. ``stages.json`` in the output folder has the seconds of each stage.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
from numba import njit
from numcodecs import blosc

from spine_etl.crops import crop_grids, overview_grid
from spine_etl.dicom import read_series, series_files
from spine_etl.geometry import Grid
from spine_etl.nifti import read_label_map
from spine_etl.recipe import Recipe
from spine_etl.segmentation import find_vertebrae
from spine_etl.source.layout import Study
from tests.benchmarks.peers import THREADS, Crops

_Table = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]


def prepare(study: Study, recipe: Recipe, out: Path) -> Callable[[], Crops]:
    assert study.mask
    volume, mask = read_series(study.folder), read_label_map(study.mask)
    targets = [
        *crop_grids(find_vertebrae(mask, recipe).crop_centers_mm(recipe), recipe).values(),
        overview_grid(volume.grid, recipe),
    ]
    image_tables = [_tables(target, volume.grid) for target in targets]
    mask_tables = [
        [np.where(w >= 0.5, i + 1, i) for i, w in _tables(target, mask.grid)] for target in targets
    ]
    files = _Files(study, volume.voxels.shape, mask.labels.shape)
    del volume, mask
    crops = np.zeros((len(recipe.levels), *recipe.crop.shape), np.int16)
    masks, overview = crops.astype(np.uint8), np.zeros(recipe.overview.shape, np.int16)
    overview_mask = overview.astype(np.uint8)
    images, labels = [*crops, overview], [*masks, overview_mask]
    blosc.set_nthreads(THREADS)
    stages: dict[str, float] = {}

    def sample(index: int) -> None:
        _interpolate(files.voxels, *image_tables[index], images[index])
        _take_nearest(files.labels, *mask_tables[index], labels[index])

    def run() -> Crops:
        with ThreadPoolExecutor(THREADS) as pool:
            with _timed(stages, "read"):
                _consume(pool.map(files.read, range(len(files))))
            with _timed(stages, "decode"):
                _consume(pool.map(files.decode, range(len(files))))
            with _timed(stages, "sample"):
                _consume(pool.map(sample, range(len(targets))))
        with _timed(stages, "compress"):
            arrays = (crops, masks, overview, overview_mask)
            packed = [blosc.compress(a, b"lz4", 5, blosc.SHUFFLE, 0, a.itemsize) for a in arrays]
        with _timed(stages, "write"):
            for index, content in enumerate(packed):
                (out / f"{index}").write_bytes(content)
        (out / "stages.json").write_text(json.dumps(stages))
        return lambda: dict(zip(recipe.levels, crops + np.int16(files.intercept), strict=True))

    sample(0)  # compile outside the timing
    return run


class _Files:
    """The files of the study, with the offsets of their pixels and all memory allocated beforehand."""

    def __init__(self, study: Study, shape: tuple[int, ...], mask_shape: tuple[int, ...]) -> None:
        paths = [file.path for file in series_files(study.folder)]
        first = pydicom.dcmread(paths[0])
        self.intercept = int(first.RescaleIntercept)
        self.compressed = first.file_meta.TransferSyntaxUID.is_compressed
        self.voxels = np.ones(shape, np.int16)
        self.mask = np.ones(mask_shape, np.uint16)
        self.labels = self.mask
        slices = [
            (path, self._pixel_offset(path), plane) for path, plane in zip(paths, self.voxels, strict=True)
        ]
        assert study.mask
        parts = [(study.mask.path, 352 + n * plane.nbytes, plane) for n, plane in enumerate(self.mask)]
        self.slices, self.parts = slices, parts
        self.streams = [bytearray(path.stat().st_size - offset) for path, offset, _ in slices]

    def __len__(self) -> int:
        return len(self.slices)

    def _pixel_offset(self, path: Path) -> int:
        """Offset of the pixels of a slice, or of its only compressed frame."""
        content = path.read_bytes()
        return content.index(b"\xff\xd8\xff") if self.compressed else len(content) - self.voxels[0].nbytes

    def read(self, index: int) -> None:
        path, offset, plane = self.slices[index]
        self._read(path, offset, self.streams[index] if self.compressed else plane)
        self._read(*self.parts[index])

    def _read(self, path: Path, offset: int, target: Any) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        os.preadv(descriptor, [target], offset)
        os.close(descriptor)

    def decode(self, index: int) -> None:
        if self.compressed:
            imagecodecs.jpeg8_decode(self.streams[index], out=self.voxels[index].view(np.uint16))


@contextmanager
def _timed(stages: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    stages[name] = time.perf_counter() - start


def _consume(results: Iterable[Any]) -> None:
    for _ in results:
        pass


def _tables(target: Grid, source: Grid) -> list[_Table]:
    """For each axis: the lower neighbour of every position, and the weight of the upper neighbour."""
    index_map = target.index_map_to(source)
    steps = np.diag(index_map[:3, :3])
    assert np.allclose(index_map[:3, :3], np.diag(steps), atol=1e-9), "oblique studies are unsupported"
    tables = []
    for axis in range(3):
        positions = steps[axis] * np.arange(target.shape[axis]) + index_map[axis, 3]
        positions = np.clip(positions, 0, source.shape[axis] - 1.001)
        tables.append((positions.astype(np.int64), (positions % 1).astype(np.float32)))
    return tables


@njit(nogil=True, cache=True, fastmath=True)  # type: ignore[untyped-decorator]
def _interpolate(voxels: Any, z: Any, y: Any, x: Any, out: Any) -> None:
    x_low = x[0].min()
    width = x[0].max() + 2 - x_low
    row = np.empty(width, np.float32)
    first = x[0] - x_low
    for i in range(out.shape[0]):
        wz = z[1][i]
        for j in range(out.shape[1]):
            wy = y[1][j]
            a, b = np.float32((1 - wz) * (1 - wy)), np.float32((1 - wz) * wy)
            c, d = np.float32(wz * (1 - wy)), np.float32(wz * wy)
            above = voxels[z[0][i], y[0][j] : y[0][j] + 2, x_low : x_low + width]
            below = voxels[z[0][i] + 1, y[0][j] : y[0][j] + 2, x_low : x_low + width]
            for k in range(width):
                row[k] = a * above[0, k] + b * above[1, k] + c * below[0, k] + d * below[1, k]
            for k in range(out.shape[2]):
                left = row[first[k]]
                out[i, j, k] = np.int16(np.rint(left + x[1][k] * (row[first[k] + 1] - left)))


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _take_nearest(labels: Any, z: Any, y: Any, x: Any, out: Any) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            row = labels[z[i], y[j]]
            for k in range(out.shape[2]):
                out[i, j, k] = row[x[k]]
