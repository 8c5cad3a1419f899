"""SimpleITK used well: the fairest comparison.

GDCM sorts the slices, which are read as int16. One filter with its costly features off finds the label boxes.
The multithreaded resampling filter samples each crop directly from the native grid. The codec is blosc's
fastest. Steps for which SimpleITK has no ready tool are left out, which favours it: anti-aliasing, air before
interpolation, digests, checksums, fsync and the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - the name used in its documentation
from numcodecs import blosc

from spine_etl.recipe import Block, Recipe
from spine_etl.source.layout import Study
from spine_etl.volume import AIR_HU
from tests.benchmarks.peers import THREADS, Crops


def configure() -> None:
    """Set the number of threads and silence warnings."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(THREADS)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    blosc.set_nthreads(THREADS)


def prepare(study: Study, recipe: Recipe, out: Path) -> Callable[[], Crops]:
    configure()
    return lambda: cut(read_series(study), *read_mask(study), recipe, out)


def cut(image: Any, mask: Any, centres: Mapping[int, Sequence[float]], recipe: Recipe, out: Path) -> Crops:
    """Sample every crop and the overview, write them, and return the crops."""
    crops = np.full((len(recipe.levels), *recipe.crop.shape), AIR_HU, np.int16)
    masks = np.zeros(crops.shape, np.uint8)
    for index, label in enumerate(recipe.levels.values()):
        if label in centres:
            crops[index] = _sample(image, recipe.crop, centres[label], sitk.sitkLinear, AIR_HU)
            masks[index] = _sample(mask, recipe.crop, centres[label], sitk.sitkNearestNeighbor, 0)
    middle = _overview_centre(image, recipe.overview)
    overview = _sample(image, recipe.overview, middle, sitk.sitkLinear, AIR_HU)
    overview_mask = _sample(mask, recipe.overview, middle, sitk.sitkNearestNeighbor, 0)
    np.maximum(crops, AIR_HU, out=crops)
    overview = np.maximum(overview, AIR_HU)
    for name, array in {"c": crops, "m": masks, "oc": overview, "om": overview_mask}.items():
        packed = blosc.compress(array, b"lz4", 5, blosc.SHUFFLE, 0, array.itemsize)
        (out / name).write_bytes(packed)
    return lambda: dict(zip(recipe.levels, crops, strict=True))


def read_series(study: Study) -> Any:
    """The CT as an int16 image."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(study.folder.path)))
    reader.SetOutputPixelType(sitk.sitkInt16)
    return reader.Execute()


def read_mask(study: Study) -> tuple[Any, dict[int, Sequence[float]]]:
    """The mask, and the LPS centre of the bounding box of each label."""
    mask = sitk.ReadImage(str(study.mask.path), sitk.sitkUInt8)
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.ComputePerimeterOff()
    shapes.ComputeFeretDiameterOff()
    shapes.ComputeOrientedBoundingBoxOff()
    shapes.Execute(mask)
    boxes = {label: np.array(shapes.GetBoundingBox(label)) for label in shapes.GetLabels()}
    middles = {label: box[:3] + (box[3:] - 1) / 2 for label, box in boxes.items()}
    return mask, {
        label: mask.TransformContinuousIndexToPhysicalPoint(middle.tolist())
        for label, middle in middles.items()
    }


def _overview_centre(image: Any, block: Block) -> list[float]:
    size = np.array(image.GetSize())
    ends = [
        image.TransformContinuousIndexToPhysicalPoint(end.tolist()) for end in (size * 0 - 0.5, size - 0.5)
    ]
    low, high = np.min(ends, axis=0), np.max(ends, axis=0)
    middle, height = (low + high) / 2, block.shape[0] * block.spacing_mm
    if high[2] - low[2] > height:
        middle[2] = high[2] - height / 2
    return middle.tolist()


def _sample(
    image: Any, block: Block, centre: Sequence[float], interpolator: int, outside: float
) -> npt.NDArray[Any]:
    size = block.shape[::-1]
    origin = [c - (n - 1) / 2 * block.spacing_mm for c, n in zip(centre, size, strict=True)]
    sampled = sitk.Resample(
        image,
        size,
        sitk.Transform(),
        interpolator,
        origin,
        [block.spacing_mm] * 3,
        np.eye(3).ravel().tolist(),
        float(outside),
        image.GetPixelID(),
    )
    return sitk.GetArrayViewFromImage(sampled).copy()
