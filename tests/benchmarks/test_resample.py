"""The crops and the overview of one study, sampled from a volume in memory, by us and by other libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK
import torch
from scipy import ndimage

from spine_etl.crops import crop_grids, overview_grid
from spine_etl.dicom import read_series
from spine_etl.geometry import Grid
from spine_etl.nifti import read_label_map
from spine_etl.recipe import Recipe
from spine_etl.resample import sample_image
from spine_etl.segmentation import find_vertebrae
from spine_etl.source.layout import Study
from spine_etl.volume import AIR_HU, Volume
from tests.benchmarks.comparison import median_of, median_ratio, print_table, time_in_rounds
from tests.benchmarks.peers import THREADS

pytestmark = pytest.mark.benchmark

ROUNDS = 5
Sampler = Callable[[Grid], npt.NDArray[Any]]


def test_crops_and_overview_of_a_study(study: Callable[[Any], Study], recipe: Recipe) -> None:
    raw = study("explicit")
    assert raw.mask
    volume = read_series(raw.folder)
    crops = list(
        crop_grids(find_vertebrae(read_label_map(raw.mask), recipe).crop_centers_mm(recipe), recipe).values()
    )
    samplers = _samplers(volume)
    _assert_similar(samplers, crops[3])
    _compare("Seven crops, 20.6 million voxels", samplers, crops)
    _compare(
        "One overview, 0.8 million voxels, six times as coarse",
        samplers,
        [overview_grid(volume.grid, recipe)],
    )


def _compare(title: str, samplers: dict[str, Sampler], targets: list[Grid]) -> None:
    def job(sampler: Sampler) -> Callable[[], Any]:
        return lambda: [sampler(target) for target in targets]

    turns = time_in_rounds({name: job(sampler) for name, sampler in samplers.items()}, ROUNDS)
    print_table(
        f"{title}, {THREADS} threads",
        ("sampler", "ms", "CPU ms", "x ours"),
        [
            (
                name,
                1e3 * median_of(taken),
                1e3 * median_of(taken, "cpu_seconds"),
                median_ratio(taken, turns["ours"]),
            )
            for name, taken in turns.items()
        ],
    )
    if len(targets) > 1:
        assert median_ratio(turns["SimpleITK"], turns["ours"]) > 1.0
        assert median_ratio(turns["scipy affine_transform"], turns["ours"]) > 5.0


def _samplers(volume: Volume) -> dict[str, Sampler]:
    """Ours averages if the target is coarser; the others always interpolate two neighbours on each axis."""
    return {
        "ours": lambda target: sample_image(volume, target, threads=THREADS),
        "SimpleITK": _simpleitk_sampler(volume),
        "torch grid_sample": _torch_sampler(volume),
        "scipy affine_transform": lambda target: _sample_with_scipy(volume, target),
    }


def _simpleitk_sampler(volume: Volume) -> Sampler:
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(THREADS)
    image = SimpleITK.GetImageFromArray(volume.voxels)
    _set_grid(image, volume.grid)

    def sample(target: Grid) -> npt.NDArray[Any]:
        reference = SimpleITK.Image(target.shape[::-1], SimpleITK.sitkInt16)
        _set_grid(reference, target)
        linear = SimpleITK.sitkLinear
        sampled = SimpleITK.Resample(image, reference, SimpleITK.Transform(), linear, float(AIR_HU))
        return SimpleITK.GetArrayViewFromImage(sampled).copy()

    return sample


def _set_grid(image: Any, grid: Grid) -> None:
    image.SetOrigin(grid.origin_mm)
    image.SetSpacing(grid.spacing_mm[::-1].tolist())
    image.SetDirection((grid.affine[:3, 2::-1] / grid.spacing_mm[::-1]).ravel().tolist())


def _torch_sampler(volume: Volume) -> Sampler:
    torch.set_num_threads(THREADS)
    above_air = torch.from_numpy(volume.voxels.astype(np.float32) - AIR_HU)[None, None]
    last = torch.tensor(volume.grid.shape, dtype=torch.float32) - 1

    def sample(target: Grid) -> npt.NDArray[Any]:
        index_map = torch.from_numpy(target.index_map_to(volume.grid)).float()
        axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in target.shape), indexing="ij")
        index = torch.stack(axes, dim=-1) @ index_map[:3, :3].T + index_map[:3, 3]
        normalised = (2 * index / last - 1).flip(-1)[None]
        hu = torch.nn.functional.grid_sample(above_air, normalised, align_corners=True)[0, 0] + AIR_HU
        return hu.round().to(torch.int16).numpy()

    return sample


def _sample_with_scipy(volume: Volume, target: Grid) -> npt.NDArray[Any]:
    index_map = target.index_map_to(volume.grid)
    # scipy has a faster path for diagonal matrices, given as their diagonal.
    matrix = np.diag(index_map[:3, :3]) if np.count_nonzero(index_map[:3, :3]) == 3 else index_map[:3, :3]
    return ndimage.affine_transform(
        volume.voxels, matrix, index_map[:3, 3], target.shape, np.int16, order=1, cval=AIR_HU
    )


def _assert_similar(samplers: dict[str, Sampler], target: Grid) -> None:
    expected = samplers["ours"](target).astype(np.int32)
    for name, sampler in samplers.items():
        assert np.median(np.abs(sampler(target) - expected)) < 10, name
