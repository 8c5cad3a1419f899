"""A small CT and its segmentation, for the tests of segmentation, crops and boxes."""

from __future__ import annotations

import numpy as np

from spine_etl.geometry import Grid
from spine_etl.recipe import Recipe
from spine_etl.volume import LabelMap, Volume

RECIPE = Recipe.model_validate(
    {
        "name": "test",
        "levels": {"C1": 1, "C2": 2, "C3": 3},
        "other_labels": {"T1": 8},
        "crop": {"spacing_mm": 0.5, "shape": [8, 10, 12]},
        "overview": {"spacing_mm": 4.0, "shape": [16, 20, 24]},
    }
)
SHAPE = (20, 30, 40)
# From head to foot, as many series are stored: z falls with the slice number.
AXES = np.array([[0, 0, 0.4], [0, 0.5, 0], [-0.8, 0, 0]])


def grid(shape: tuple[int, int, int] = SHAPE, origin: tuple[float, float, float] = (-10, -20, 30)) -> Grid:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = AXES, origin
    return Grid(shape, affine)


def two_levels() -> LabelMap:
    """C1 and C3 as blocks."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:5, 10:15, 20:30] = 1
    labels[8:10, 3:4, 0:40] = 3
    return LabelMap(labels, grid())


def ct(slice_coordinates: np.ndarray | None = None) -> Volume:
    """An empty CT whose slices are the files 5, 7, 9, ..."""
    return Volume(np.zeros(SHAPE, np.int16), grid(), slice_coordinates, file_numbers=np.arange(20) * 2 + 5)
