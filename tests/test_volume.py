from __future__ import annotations

import numpy as np

from spine_etl.geometry import Grid
from spine_etl.volume import Volume


def volume(slices: int, slice_coordinates: np.ndarray | None = None) -> Volume:
    return Volume(np.zeros((slices, 1, 1), np.int16), Grid((slices, 1, 1), np.eye(4)), slice_coordinates)


def test_even_slices_are_at_whole_indices() -> None:
    even = volume(4)
    assert even.slice_positions.tolist() == [0, 1, 2, 3]
    bounds = [(-0.5, 0.5), (0.5, 1.5), (1.5, 2.5), (2.5, 3.5)]
    assert [even.slice_bounds(index) for index in range(4)] == bounds


def test_uneven_slices_extend_halfway_to_their_neighbours() -> None:
    uneven = volume(4, np.array([0.0, 0.5, 2.0, 3.0]))
    assert uneven.slice_positions.tolist() == [0, 0.5, 2, 3]
    bounds = [(-0.25, 0.25), (0.25, 1.25), (1.25, 2.5), (2.5, 3.5)]
    assert [uneven.slice_bounds(index) for index in range(4)] == bounds


def test_single_slice_is_one_step_thick() -> None:
    assert volume(1).slice_bounds(0) == (-0.5, 0.5)
