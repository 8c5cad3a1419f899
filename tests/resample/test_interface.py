from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from spine_etl.errors import StudyWarning
from spine_etl.geometry import FloatArray, Grid
from spine_etl.resample import coverage, kernels, resample_isotropic, sample_image, sample_labels, warm_up
from spine_etl.volume import AIR_HU, LabelMap, Volume

ROUNDING = 0.5 + 2e-3  # to whole HU, and float32 sums of values up to 3000


def rotation(degrees: float, about: int) -> FloatArray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    i, j = [axis for axis in range(3) if axis != about]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


AXES = {
    "plain": np.array([[0, 0, 0.4], [0, 0.5, 0], [0.8, 0, 0]]),
    "flipped": np.array([[0, 0, -0.4], [0, 0.5, 0], [-0.8, 0, 0]]),
    "sagittal": np.array([[0.8, 0, 0], [0, 0, 0.5], [0, -0.4, 0]]),
    "coronal": np.array([[0, 0, 0.5], [0.9, 0, 0], [0, 0.4, 0]]),
    "tilted": np.array([[0, 0, 0.4], [0.27, 0.5, 0], [0.75, 0, 0]]),
    "oblique": rotation(20, 0)
    @ rotation(-15, 1)
    @ rotation(9, 2)
    @ np.array([[0, 0, 0.4], [0, 0.5, 0], [0.8, 0, 0]]),
}


def grid(axes: str, shape: tuple[int, int, int] = (9, 11, 13)) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = AXES[axes]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2) + (3.1, -2.2, 7.3)
    return Grid(shape, affine)


def noise(on: Grid, dtype: npt.DTypeLike = np.int16) -> Volume:
    rng = np.random.default_rng(5)
    return Volume(rng.integers(-1024, 3000, on.shape).astype(dtype), on)


def larger_canonical(source: Grid, mm: float, extra: int = 3) -> Grid:
    """A canonical grid that extends beyond the source on all sides."""
    inner = source.enclosing_canonical(mm)
    return Grid.canonical(inner.center_mm + 0.07, [n + extra for n in inner.shape], mm)


def source_indices(source: Grid, target: Grid) -> FloatArray:
    """(z, y, x, 3): the source index of each target voxel."""
    return source.to_index(target.to_mm(np.moveaxis(np.indices(target.shape), 0, -1)))


def triangle(positions: FloatArray, ratio: float, samples: int) -> tuple[FloatArray, FloatArray]:
    """Weights (position, sample) of the widened triangle, normalised including the air, and their sums."""
    pad = int(2 * ratio) + 40
    padded = np.arange(-pad, samples + pad)
    weights = np.clip(1 - np.abs(positions[:, None] - padded) / max(ratio, 1.0), 0, None)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-30)
    weights = weights[:, pad:-pad]
    return weights, weights.sum(axis=1)


def reference_image(volume: Volume, target: Grid) -> FloatArray:
    """The definition of the filter in float64, voxel by voxel."""
    indices = source_indices(volume.grid, target).reshape(-1, 3)
    steps = target.index_map_to(volume.grid)[:3, :3]
    ratios = np.linalg.norm(steps, axis=1)
    (z, in_z), (y, in_y), (x, in_x) = (
        triangle(indices[:, axis], ratios[axis], volume.voxels.shape[axis]) for axis in range(3)
    )
    inside = np.einsum("na,nb,nc,abc->n", z, y, x, volume.voxels.astype(np.float64), optimize=True)
    return (inside + AIR_HU * (1 - in_z * in_y * in_x)).reshape(target.shape)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_without_downsampling_interpolation_is_linear(axes: str, dtype: npt.DTypeLike) -> None:
    volume, target = noise(grid(axes), dtype), larger_canonical(grid(axes), 0.33)
    expected = ndimage.map_coordinates(
        volume.voxels.astype(np.float64), np.moveaxis(source_indices(volume.grid, target), -1, 0),
        order=1, mode="grid-constant", cval=AIR_HU,
    )  # fmt: skip
    sampled = sample_image(volume, target)
    assert sampled.dtype == np.int16
    assert sampled.flags.c_contiguous
    assert np.abs(sampled - expected).max() <= ROUNDING
    assert (sampled == AIR_HU).any()  # the target extends beyond the source


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("mm", [0.45, 0.7, 1.3])
def test_only_downsampled_axes_use_the_widened_triangle(axes: str, mm: float) -> None:
    volume, target = noise(grid(axes)), larger_canonical(grid(axes), mm)
    assert np.abs(sample_image(volume, target) - reference_image(volume, target)).max() <= ROUNDING


def test_separable_and_general_paths_agree() -> None:
    source, target = grid("plain"), larger_canonical(grid("plain"), 0.6)
    affine = source.affine.copy()
    affine[:3, 0] += 1e-5 * affine[:3, 1]  # z follows two axes now, 0.0001 voxels off
    separable = sample_image(noise(source), target).astype(int)
    general = sample_image(noise(Grid(source.shape, affine)), target)
    assert np.abs(separable - general).max() <= 1


@pytest.mark.parametrize("axes", ["flipped", "sagittal", "oblique"])
@pytest.mark.parametrize("threads", [2, 3, 64])
def test_thread_count_does_not_change_the_result(axes: str, threads: int) -> None:
    volume, target = noise(grid(axes)), larger_canonical(grid(axes), 0.6)
    np.testing.assert_array_equal(sample_image(volume, target, threads=threads), sample_image(volume, target))
    labels = LabelMap(volume.voxels.astype(np.uint8), volume.grid)
    np.testing.assert_array_equal(
        sample_labels(labels, target, threads=threads), sample_labels(labels, target)
    )


@pytest.mark.parametrize("axes", AXES)
def test_linear_ramp_in_millimetres_is_reproduced(axes: str) -> None:
    source = grid(axes)
    slope = np.array([40.0, -25.0, 60.0])
    ramp = source.to_mm(np.moveaxis(np.indices(source.shape), 0, -1)) @ slope
    target = Grid.canonical(source.center_mm, (5, 5, 5), 0.2)
    expected = target.to_mm(np.moveaxis(np.indices(target.shape), 0, -1)) @ slope
    sampled = sample_image(Volume(ramp.astype(np.float32), source), target)
    assert np.abs(sampled - expected).max() <= ROUNDING


def test_sampling_on_the_own_grid_returns_the_voxels() -> None:
    volume = noise(grid("flipped"))
    np.testing.assert_array_equal(sample_image(volume, volume.grid), volume.voxels)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(AXES)), st.integers(AIR_HU, 4000), st.floats(0.2, 1.2), st.floats(-0.3, 0.3))
def test_constant_image_stays_constant_inside(axes: str, hu: int, mm: float, shift: float) -> None:
    source = grid(axes, (15, 17, 19))
    target = Grid.canonical(source.center_mm + shift, (3, 3, 3), mm)
    assert (sample_image(Volume(np.full(source.shape, hu, np.int16), source), target) == hu).all()


def test_target_far_outside_is_air() -> None:
    for axes in ("plain", "oblique"):
        volume = noise(grid(axes))
        far = Grid.canonical(volume.grid.center_mm + 500, (3, 4, 5), 1.0)
        assert (sample_image(volume, far) == AIR_HU).all()
        assert (sample_labels(LabelMap(np.ones(volume.grid.shape, np.uint8), volume.grid), far) == 0).all()
        assert coverage(volume.grid, far) == 0.0


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 2), (3, 1, 1)])
@pytest.mark.parametrize("axes", ["plain", "oblique"])
def test_axes_with_one_voxel(axes: str, shape: tuple[int, int, int]) -> None:
    volume = noise(grid(axes, shape))
    target = larger_canonical(volume.grid, 0.7)
    assert np.abs(sample_image(volume, target) - reference_image(volume, target)).max() <= ROUNDING


def test_values_outside_int16_are_clipped() -> None:
    source = Grid((2, 2, 2), np.eye(4))
    for hu, expected in ((1e6, 32767), (-1e6, -32768), (32767.4, 32767)):
        assert (sample_image(Volume(np.full(source.shape, hu, np.float32), source), source) == expected).all()


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_memory_layout_does_not_change_the_result(dtype: npt.DTypeLike) -> None:
    volume, target = noise(grid("plain"), dtype), larger_canonical(grid("plain"), 0.5)
    fortran = Volume(np.asfortranarray(volume.voxels), volume.grid)
    frozen = Volume(volume.voxels.copy(), volume.grid)
    frozen.voxels.flags.writeable = False
    reversed_view = Volume(volume.voxels[::-1].copy()[::-1], volume.grid)
    for other in (fortran, frozen, reversed_view):
        np.testing.assert_array_equal(sample_image(other, target), sample_image(volume, target))


COORDINATES = np.array([0.0, 0.7, 1.9, 2.8, 4.4, 5.1, 6.2, 6.9, 8.0])


def test_uneven_slices_interpolate_between_real_neighbours() -> None:
    affine = np.diag([0.8, 0.5, 0.5, 1.0])
    source = Grid((9, 3, 4), affine)
    volume = Volume(noise(source).voxels, source, slice_coordinates=COORDINATES)
    finer = affine @ np.diag([0.4, 1.0, 1.0, 1.0])
    finer[0, 3] = -1.3
    target = Grid((30, 3, 4), finer)
    z = target.index_map_to(source)[0, 0] * np.arange(30) + target.index_map_to(source)[0, 3]
    coordinates = [-1.0, *COORDINATES, 9.0]
    expected = np.empty(target.shape)
    for y, x in np.ndindex(3, 4):
        column = [AIR_HU, *volume.voxels[:, y, x], AIR_HU]
        expected[:, y, x] = np.interp(z, coordinates, column, left=AIR_HU, right=AIR_HU)
    assert np.abs(sample_image(volume, target) - expected).max() <= ROUNDING


def test_uneven_slices_of_a_tilted_series() -> None:
    affine = np.diag([0.8, 0.5, 0.5, 1.0])
    source = Grid((9, 3, 4), affine)
    volume = Volume(noise(source).voxels, source, slice_coordinates=COORDINATES)
    sheared = affine @ np.diag([0.4, 0.9, 0.9, 1.0])
    sheared[1, 0] = 0.05
    target = Grid((20, 2, 4), sheared)
    indices = source_indices(source, target)
    array_z = np.interp(indices[..., 0], COORDINATES, np.arange(9.0))
    expected = ndimage.map_coordinates(
        volume.voxels.astype(np.float64), [array_z, indices[..., 1], indices[..., 2]],
        order=1, mode="grid-constant", cval=AIR_HU,
    )  # fmt: skip
    assert indices[..., 0].max() < 8
    assert np.abs(sample_image(volume, target) - expected).max() <= ROUNDING


def reference_hu(z: float, ratio: float, column: FloatArray) -> float:
    """HU at z index ``z`` of a column of uneven slices."""
    coordinates = np.concatenate([np.arange(-30.0, 0.0), COORDINATES, np.arange(9.0, 39.0)])
    values = np.concatenate([np.full(30, AIR_HU), column, np.full(30, AIR_HU)])
    after = np.searchsorted(coordinates, z, "right")
    step = coordinates[after] - coordinates[after - 1]
    if ratio <= step:
        return float(np.interp(z, coordinates, values))
    weights = np.clip(1 - np.abs(coordinates - z) / ratio, 0, None) * np.gradient(coordinates)
    return float((weights * values).sum() / weights.sum())


@pytest.mark.parametrize("ratio", [1.2, 1.9, 3.4])
@pytest.mark.parametrize("drift", [0.0, 1e-4])
def test_uneven_slices_downsampled(ratio: float, drift: float) -> None:
    source = Grid((9, 3, 4), np.eye(4))
    volume = Volume(noise(source).voxels, source, slice_coordinates=COORDINATES)
    affine = np.diag([ratio, 1.0, 1.0, 1.0])
    affine[0, 3], affine[1, 0] = -2.35, drift  # the drift selects the general path
    target = Grid((11, 1, 4), affine)
    z = ratio * np.arange(11) - 2.35
    expected = np.array([[reference_hu(at, ratio, volume.voxels[:, 0, x]) for x in range(4)] for at in z])
    assert np.abs(sample_image(volume, target)[:, 0] - expected).max() <= ROUNDING + 4100 * 11 * drift


@pytest.mark.parametrize("axes", AXES)
def test_labels_come_from_the_containing_voxel(axes: str) -> None:
    source = grid(axes)
    labels = np.random.default_rng(1).integers(0, 256, source.shape, dtype=np.uint8)
    target = larger_canonical(source, 0.37)
    voxels = np.floor(source_indices(source, target) + 0.5).astype(int)
    inside = ((voxels >= 0) & (voxels < source.shape)).all(axis=-1)
    nearest = np.clip(voxels, 0, np.array(source.shape) - 1)
    expected = np.where(inside, labels[tuple(np.moveaxis(nearest, -1, 0))], 0)
    sampled = sample_labels(LabelMap(labels, source), target)
    assert sampled.dtype == np.uint8
    np.testing.assert_array_equal(sampled, expected)
    assert coverage(source, target) == pytest.approx(inside.mean(), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(AXES)), st.sets(st.integers(1, 255), min_size=1, max_size=4), st.floats(0.2, 2.0)
)
def test_sampled_labels_all_occur_in_the_source(axes: str, values: set[int], mm: float) -> None:
    source = grid(axes, (6, 7, 8))
    labels = np.random.default_rng(2).choice([0, *values], source.shape).astype(np.uint8)
    assert set(np.unique(sample_labels(LabelMap(labels, source), larger_canonical(source, mm)))) <= {
        0,
        *values,
    }


def test_tie_takes_the_voxel_further_to_the_left_despite_round_off() -> None:
    labels = np.arange(1, 5, dtype=np.uint8).reshape(4, 1, 1)
    for shift in (-1e-9, 0.0, 1e-9):
        affine = np.eye(4)
        affine[0, 3] = 0.5 + shift
        sampled = sample_labels(LabelMap(labels, Grid((4, 1, 1), np.eye(4))), Grid((4, 1, 1), affine))
        assert sampled.ravel().tolist() == [2, 3, 4, 0]


def test_coverage_in_closed_form() -> None:
    source = Grid.canonical((0, 0, 0), (10, 10, 10), 1.0)
    assert coverage(source, source) == 1.0
    assert coverage(source, Grid.canonical((5, 0, 0), (10, 10, 10), 1.0)) == 0.5
    assert coverage(source, Grid.canonical((5, 5, 5), (20, 20, 20), 0.5)) == 0.125
    assert coverage(source, Grid.canonical((0, 0, 0), (20, 20, 20), 1.0)) == 0.125


def test_resample_isotropic_covers_the_whole_volume() -> None:
    source = grid("tilted")
    warning = StudyWarning("SLICES_UNEVEN", "w")
    volume = Volume(
        noise(source).voxels, source, slice_coordinates=COORDINATES, warnings=(warning,), source_digest="d",
        file_numbers=np.arange(9),
    )  # fmt: skip
    isotropic = resample_isotropic(volume, 0.6, threads=2)
    assert isotropic.grid.matches(source.enclosing_canonical(0.6))
    assert isotropic.voxels.shape == isotropic.grid.shape
    np.testing.assert_array_equal(isotropic.voxels, sample_image(volume, isotropic.grid))
    assert isotropic.slice_coordinates is None
    assert isotropic.file_numbers is None
    assert (isotropic.warnings, isotropic.source_digest) == ((warning,), "d")


def test_warm_up_leaves_nothing_to_compile() -> None:
    warm_up()
    entry_points = (
        kernels.sample_separable, kernels.sample_general, kernels.nearest_separable, kernels.nearest_general,
    )  # fmt: skip
    before = [len(kernel.signatures) for kernel in entry_points]
    for axes in AXES:
        for dtype in (np.int16, np.float32):
            volume = noise(grid(axes), dtype)
            volume.voxels.flags.writeable = False
            sample_image(volume, larger_canonical(volume.grid, 0.5), threads=2)
            sample_labels(
                LabelMap(np.zeros(volume.grid.shape, np.uint8), volume.grid),
                larger_canonical(volume.grid, 0.5),
            )
    assert [len(kernel.signatures) for kernel in entry_points] == before
