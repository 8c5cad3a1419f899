"""The grids that a study is sampled on: one for each vertebra, and one for the overview of the neck."""

from __future__ import annotations

from collections.abc import Mapping

from spine_etl.geometry import FloatArray, Grid
from spine_etl.recipe import Recipe


def crop_grids(centers_mm: Mapping[str, FloatArray], recipe: Recipe) -> dict[str, Grid]:
    """One canonical grid of the recipe's crop shape for each level, by name, centred on its LPS position."""
    crop = recipe.crop
    return {
        level: Grid.canonical(center, crop.shape, crop.spacing_mm) for level, center in centers_mm.items()
    }


def overview_grid(ct: Grid, recipe: Recipe) -> Grid:
    """The canonical grid of the recipe's overview shape over a CT, centred on the CT in x and y.

    Along z it is centred if the CT fits into it. A longer CT is cut at its lower end: the top of a neck
    series is the skull, so the excess is chest.
    """
    overview = recipe.overview
    corners = ct.corners_mm()
    center = ct.center_mm
    height = overview.shape[0] * overview.spacing_mm
    superior, inferior = corners[:, 2].max(), corners[:, 2].min()
    if superior - inferior > height:
        center[2] = superior - height / 2
    return Grid.canonical(center, overview.shape, overview.spacing_mm)
