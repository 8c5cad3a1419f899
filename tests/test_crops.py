from __future__ import annotations

import numpy as np
import pytest

from spine_etl.crops import crop_grids, overview_grid
from spine_etl.geometry import Grid
from tests.labelled_ct import AXES, RECIPE, grid


def test_crops_are_centred_on_their_levels() -> None:
    centers = {"C1": np.array([1.0, -2.0, 3.5]), "C3": np.array([4.0, 5.0, -60.0])}
    grids = crop_grids(centers, RECIPE)
    assert list(grids) == ["C1", "C3"]
    for level, center in centers.items():
        assert grids[level].matches(Grid.canonical(center, (8, 10, 12), 0.5), 1e-9)
    assert crop_grids({}, RECIPE) == {}


def test_overview_is_centred_on_a_short_ct() -> None:
    ct = grid()
    assert overview_grid(ct, RECIPE).matches(Grid.canonical(ct.center_mm, (16, 20, 24), 4.0), 1e-9)


@pytest.mark.parametrize("flip", [1, -1])
def test_overview_of_a_long_ct_keeps_its_head_end(flip: int) -> None:
    affine = np.eye(4)
    affine[:3, :3] = AXES * [[1], [1], [flip]]
    ct = Grid((200, 30, 40), affine)  # 160 mm; the overview is 64 mm high
    overview = overview_grid(ct, RECIPE)
    assert overview.corners_mm()[:, 2].max() == pytest.approx(ct.corners_mm()[:, 2].max())
    np.testing.assert_allclose(overview.center_mm[:2], ct.center_mm[:2])
