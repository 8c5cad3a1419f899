"""A first, simple script: pydicom slice by slice, scipy's zoom, crop, np.save."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom
from scipy import ndimage

from spine_etl.recipe import Recipe
from spine_etl.source.layout import Study
from spine_etl.volume import AIR_HU
from tests.benchmarks.peers import Crops
from tests.benchmarks.peers.blocks import block_start, padded_block


def prepare(study: Study, recipe: Recipe, out: Path) -> Callable[[], Crops]:
    return lambda: _run(study, recipe, out)


def _run(study: Study, recipe: Recipe, out: Path) -> Crops:
    image, spacing = _read_series(study.folder.path)
    labels = nib.load(study.mask.path).get_fdata().astype(np.uint8)[:, ::-1].transpose(2, 1, 0)
    overview = ndimage.zoom(image, np.array(spacing) / recipe.overview.spacing_mm, order=1)
    np.save(out / "overview.npy", overview)
    factors = np.array(spacing) / recipe.crop.spacing_mm
    image = ndimage.zoom(image, factors, order=1)
    labels = ndimage.zoom(labels, factors, order=0)
    crops = {}
    for level, label in recipe.levels.items():
        start = block_start(labels == label, recipe.crop.shape)
        crops[level] = padded_block(image, start, recipe.crop.shape, AIR_HU)
        np.save(out / f"{level}.npy", crops[level])
        np.save(out / f"{level}_mask.npy", padded_block(labels, start, recipe.crop.shape, 0))
    return lambda: crops


def _read_series(folder: Path) -> tuple[npt.NDArray[np.int16], tuple[float, float, float]]:
    """HU from foot to head, and the spacing (z, y, x) in mm."""
    slices = sorted(
        (pydicom.dcmread(path) for path in folder.glob("*.dcm")), key=lambda s: s.ImagePositionPatient[2]
    )
    first, second = slices[:2]
    image = np.stack([s.pixel_array * s.RescaleSlope + s.RescaleIntercept for s in slices])
    step = second.ImagePositionPatient[2] - first.ImagePositionPatient[2]
    return np.maximum(image, AIR_HU).astype(np.int16), (float(step), *map(float, first.PixelSpacing))
