"""The numbers of a dataset: if any of them changes, `spine_etl.recipe.NUMBERS_VERSION` must be raised.

The input is whole numbers in closed form, so the output depends only on the code under test.
"""

from __future__ import annotations

import numpy as np

from spine_etl.crops import crop_grids, overview_grid
from spine_etl.geometry import Grid
from spine_etl.recipe import NUMBERS_VERSION, SCHEMA_VERSION, Recipe
from spine_etl.resample import sample_image, sample_labels
from spine_etl.segmentation import find_vertebrae
from spine_etl.volume import LabelMap, Volume

RECIPE = Recipe.model_validate(
    {
        "name": "golden",
        "levels": {"C1": 1, "C2": 2},
        "crop": {"spacing_mm": 1.3, "shape": [4, 4, 4]},
        "overview": {"spacing_mm": 6.0, "shape": [4, 4, 4]},
    }
)

GOLDEN: dict[str, list[int]] = {
    "C1 image": [
        409, 256, 7, -103, -49, -34, 436, 436, 502, 408, -8, -109, -38, -54, 417, 458, 515, 289,
        112, -108, 62, -45, 304, 499, 429, 466, 96, -54, 46, -76, 308, 549, 432, 489, 114, 16, 59,
        115, 92, 502, 240, 480, 216, 9, 127, 48, 280, 428, 390, 536, 149, -24, 65, 1, 211, 482, 58,
        498, 344, -46, 220, -9, 75, 312,
    ],
    "C1 mask": [
        1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
        1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
        1, 1,
    ],
    "C1 origin": [
        -2250, 50, 21050,
    ],
    "C2 image": [
        91, 332, 412, 180, 447, 62, -97, 348, -69, 511, 405, 333, 422, 250, -129, 123, -30, 260,
        492, 292, 479, 226, -39, 158, -64, 305, 503, 347, 325, 283, 47, -29, -33, 149, 572, 407,
        492, 308, 1, 56, -91, 95, 539, 341, 287, 286, 139, -112, 73, -20, 535, 553, 420, 343, 61,
        -4, -144, -115, 432, 332, 486, 291, 141, -198,
    ],
    "C2 mask": [
        2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2,
        2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2,
        2, 2,
    ],
    "C2 origin": [
        -1550, 2100, 12050,
    ],
    "overview image": [
        -983, -919, -917, -981, -659, -125, -128, -661, -583, 58, 59, -586, -851, -597, -585, -850,
        -941, -805, -806, -937, -579, 97, 106, -569, -552, 141, 148, -543, -894, -688, -691, -896,
        -896, -690, -689, -885, -544, 151, 147, -552, -567, 104, 96, -569, -941, -806, -807, -938,
        -849, -588, -587, -840, -589, 42, 52, -577, -657, -121, -129, -654, -981, -915, -917, -977,
    ],
    "overview mask": [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 0, 0, 2, 2, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0,
    ],
    "overview origin": [
        -8950, -5700, 10000,
    ],
}  # fmt: skip
GOLDEN_VERSION = (3, 4)
"""(schema, numbers): the versions that `GOLDEN` belongs to."""


def volume_and_mask() -> tuple[Volume, LabelMap]:
    """A tilted head-to-foot series and its mask, whose orientation differs."""
    shape = (12, 20, 24)
    z, y, x = np.indices(shape)
    hu = ((z * 7919 + y * 104729 + x * 1299709) % 2600 - 1100).astype(np.int16)
    affine = np.eye(4)
    affine[:3, :3] = [[0.0, 0.0, 0.7], [0.3, 0.7, 0.0], [-2.0, 0.0, 0.0]]
    affine[:3, 3] = [-8.0, -5.0, 30.0]
    labels = np.zeros(shape, np.uint8)
    labels[2:6, 4:14, 5:18] = 1
    labels[6:11, 5:15, 6:19] = 2
    flipped = affine.copy()
    flipped[:3, 3] = (affine @ [shape[0] - 1, 0, 0, 1])[:3]
    flipped[:3, 0] *= -1
    return Volume(np.maximum(hu, -1024), Grid(shape, affine)), LabelMap(labels[::-1], Grid(shape, flipped))


def sampled_numbers() -> dict[str, list[int]]:
    volume, mask = volume_and_mask()
    grids = {
        **crop_grids(find_vertebrae(mask, RECIPE).crop_centers_mm(RECIPE), RECIPE),
        "overview": overview_grid(volume.grid, RECIPE),
    }
    numbers = {}
    for name, grid in grids.items():
        numbers[f"{name} image"] = sample_image(volume, grid).ravel().tolist()
        numbers[f"{name} mask"] = sample_labels(mask, grid).ravel().tolist()
        numbers[f"{name} origin"] = (np.array(grid.origin_mm) * 1000).round().astype(int).tolist()
    return numbers


def test_numbers_match_this_version() -> None:
    assert (SCHEMA_VERSION, NUMBERS_VERSION) == GOLDEN_VERSION, "update GOLDEN and GOLDEN_VERSION"
    assert sampled_numbers() == GOLDEN, "a stored number changed: raise NUMBERS_VERSION and update GOLDEN"
