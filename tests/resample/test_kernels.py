from __future__ import annotations

import numpy as np
import pytest

from spine_etl.geometry import FloatArray, Grid
from spine_etl.resample import kernels, sample_image
from spine_etl.resample.kernels import AxisTaps, HuRange, SourceAxis
from spine_etl.volume import AIR_HU, Volume

SAMPLES = 4
VOXELS = np.full((SAMPLES, SAMPLES, SAMPLES), 500, np.int16)
VOXELS.flags.writeable = False


def padded_axis() -> SourceAxis:
    """An even axis that is not downsampled."""
    padding = 6
    positions = np.arange(-padding, SAMPLES + padding, dtype=np.float64)
    return SourceAxis(positions, np.ones(positions.size), padding, 1.0, 2, even=True)


def image(hu_range: HuRange, shift: FloatArray) -> np.ndarray:
    """The constant image through both kernels, shifted by whole voxels."""
    index_map = np.eye(4)
    index_map[:3, 3] = shift
    general = np.zeros(VOXELS.shape, np.int16)
    axes = [padded_axis()] * 3
    kernels.sample_general(VOXELS, index_map, *axes, hu_range, general, 0, SAMPLES)
    taps = [AxisTaps(*kernels.axis_taps(np.arange(4.0) + shift[k], axes[k])) for k in range(3)]
    z, y, x = taps
    x = x._replace(weights=np.ascontiguousarray(x.weights.T))
    separable = np.zeros(VOXELS.shape, np.int16)
    kernels.sample_separable(VOXELS, z, y, x, hu_range, separable, 0, SAMPLES)
    np.testing.assert_array_equal(separable, general)
    return general


def hu_range(air: int = AIR_HU, lowest: int = -32768, highest: int = 32767) -> HuRange:
    return HuRange(np.float32(air), np.float32(lowest), np.float32(highest))


def test_image_kernels_use_the_hu_range_they_are_given() -> None:
    """A changed constant takes effect although the compiled kernels are already in memory and on disk."""
    sample_image(Volume(VOXELS, Grid(VOXELS.shape, np.eye(4))), Grid((2, 2, 2), np.eye(4)))
    shift = np.array([0.0, 0.0, 2.0])  # columns 2 and 3 are outside
    before = len(kernels.sample_general.signatures), len(kernels.sample_separable.signatures)
    for air in (AIR_HU, -2000, 7):
        row = image(hu_range(air), shift)[0, 0]
        assert row.tolist() == [500, 500, air, air]
    assert (image(hu_range(highest=300), np.zeros(3)) == 300).all()
    assert (image(hu_range(lowest=700), np.zeros(3)) == 700).all()
    after = len(kernels.sample_general.signatures), len(kernels.sample_separable.signatures)
    assert after[1] == before[1]
    assert after[0] - before[0] <= 1  # the first call of this kernel with this type


@pytest.mark.parametrize(("tie", "expected"), [(1e-6, [2, 3, 4, 0]), (-1e-6, [1, 2, 3, 4])])
def test_label_kernel_uses_the_tie_tolerance_it_is_given(tie: float, expected: list[int]) -> None:
    labels = np.arange(1, 5, dtype=np.uint8).reshape(4, 1, 1)
    labels.flags.writeable = False
    index_map = np.eye(4)
    index_map[0, 3] = 0.5
    sampled = np.zeros((4, 1, 1), np.uint8)
    kernels.nearest_general(labels, index_map, np.full(3, tie), sampled, 0, 4)
    assert sampled.ravel().tolist() == expected
