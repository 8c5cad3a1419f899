"""Laws of resampling for any grids: what the definition of the filter implies, whatever the kernels do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from spine_etl.boxes import boxes_in_crop
from spine_etl.geometry import FloatArray, Grid
from spine_etl.resample import coverage, sample_image, sample_labels
from spine_etl.volume import FractureBox, LabelMap, Volume

AIR = -1024
ROUNDING = 0.51
"""HU: half for the rounding to whole numbers, and float32 sums."""
FEW, MANY = settings(max_examples=40, deadline=None), settings(max_examples=2000, deadline=None)

VECTORS = st.tuples(*[st.floats(-3, 3)] * 3)
ANGLES = st.one_of(
    st.just((0.0, 0.0, 0.0)),  # separable
    st.just((90.0, 0.0, -90.0)),  # separable, the axes in another order
    st.tuples(*[st.floats(-180, 180)] * 3),
    st.tuples(*[st.floats(-1e-3, 1e-3)] * 3),  # hardly turned: the general kernel, nearly aligned
)


def turned_grid(
    shape: tuple[int, int, int],
    angles: tuple[float, ...],
    spacing: tuple[float, ...],
    tilt: float = 0.0,
    flip: int = 1,
) -> Grid:
    affine = np.eye(4)
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine[:3, :3] = rotation[:, ::-1] * np.array(spacing) * (flip, 1, 1)
    affine[:3, 0] += tilt * affine[:3, 1]
    affine[:3, 3] = (2.0, -5.0, 11.0)
    return Grid(shape, affine)


def points_of(grid: Grid) -> FloatArray:
    """(z, y, x, 3): LPS of each voxel, from the affine alone."""
    index = np.moveaxis(np.indices(grid.shape), 0, -1)
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def linear_field_is_exact(
    angles: tuple[float, ...],
    spacing: tuple[float, ...],
    tilt: float,
    flip: int,
    slopes: tuple[float, ...],
    uneven: list[float] | None,
) -> None:
    """Linear interpolation reproduces a linear function between the centres of the first and last voxels."""
    shape = (7, 8, 9)
    source = turned_grid(shape, angles, spacing, tilt, flip)
    z = np.cumsum([0.0, *uneven]) if uneven else np.arange(7.0)
    z *= 6 / z[-1]
    index = np.moveaxis(np.indices(shape), 0, -1).astype(float)
    index[..., 0] = z[:, None, None]
    at = index @ source.affine[:3, :3].T + source.affine[:3, 3]
    volume = Volume((at @ slopes).astype(np.float32), source, slice_coordinates=z if uneven else None)
    # No axis is downsampled if the target's step is below the smallest step between planes of the source.
    planes = 1 / np.linalg.norm(np.linalg.inv(source.affine[:3, :3]), axis=1)
    mm = 0.95 * float(min(planes[0] * np.diff(z).min(), *planes[1:]))
    target = Grid.canonical(source.center_mm + 0.01, (9, 10, 11), mm)
    expected = points_of(target) @ slopes
    where = source.to_index(points_of(target))
    inside = ((where >= 0) & (where <= np.array(shape) - 1)).all(axis=-1)
    assert inside.any()
    assert np.abs(sample_image(volume, target) - expected)[inside].max() <= ROUNDING


LINEAR = {
    "angles": ANGLES,
    "spacing": st.tuples(*[st.floats(0.4, 3)] * 3),
    "tilt": st.sampled_from([0.0, 0.0, 0.3, -0.6]),
    "flip": st.sampled_from([1, -1]),
    "slopes": st.tuples(*[st.floats(-40, 40)] * 3),
    "uneven": st.one_of(st.none(), st.lists(st.floats(0.6, 1.8), min_size=6, max_size=6)),
}


@FEW
@given(**LINEAR)
def test_linear_field_is_exact(**drawn: object) -> None:
    linear_field_is_exact(**drawn)  # type: ignore[arg-type]


@pytest.mark.soak
@MANY
@given(**LINEAR)
def test_linear_field_is_exact_at_length(**drawn: object) -> None:
    linear_field_is_exact(**drawn)  # type: ignore[arg-type]


def noise(grid: Grid) -> Volume:
    return Volume(np.random.default_rng(4).integers(-1024, 3000, grid.shape).astype(np.int16), grid)


@FEW
@given(ANGLES, st.floats(0.05, 0.95), VECTORS, st.sampled_from([0.0, 0.2]))
def test_without_downsampling_it_is_scipys_interpolation(
    angles: tuple[float, ...], ratio: float, shift: tuple[float, ...], tilt: float
) -> None:
    source = turned_grid((6, 7, 8), angles, (1.5, 1.5, 1.5), tilt)
    planes = 1 / np.linalg.norm(np.linalg.inv(source.affine[:3, :3]), axis=1)
    target = Grid.canonical(source.center_mm + shift, (5, 6, 7), ratio * planes.min())
    expected = ndimage.map_coordinates(
        noise(source).voxels.astype(float), np.moveaxis(source.to_index(points_of(target)), -1, 0),
        order=1, mode="grid-constant", cval=AIR,
    )  # fmt: skip
    assert np.abs(sample_image(noise(source), target) - expected).max() <= ROUNDING


@FEW
@given(st.tuples(*[st.floats(-1e-4, 1e-4)] * 3), st.floats(0.4, 3.5), VECTORS)
def test_tiny_rotation_changes_little_though_it_selects_the_other_kernel(
    angles: tuple[float, ...], mm: float, shift: tuple[float, ...]
) -> None:
    """1e-4 degrees move no sample by 3e-5 voxels: 0.4 HU for steps of 4000 HU on three axes."""
    straight = turned_grid((6, 7, 8), (0, 0, 0), (1.4, 0.9, 0.7))
    turned = turned_grid((6, 7, 8), angles, (1.4, 0.9, 0.7))
    target = Grid.canonical(straight.center_mm + shift, (6, 5, 7), mm)
    separable = sample_image(noise(straight), target).astype(int)
    assert np.abs(sample_image(noise(turned), target) - separable).max() <= 1


@FEW
@given(
    ANGLES,
    st.floats(0.3, 3),
    st.tuples(*[st.tuples(st.integers(0, 3), st.integers(1, 4))] * 3),
    st.sampled_from([0.0, 0.3]),
)
def test_crop_of_a_crop_is_the_crop(
    angles: tuple[float, ...], mm: float, part: tuple[tuple[int, int], ...], tilt: float
) -> None:
    """A part of the target grid has the same voxels as that part of the whole."""
    source = turned_grid((6, 7, 8), angles, (1.3, 0.8, 1.1), tilt)
    volume = noise(source)
    labels = LabelMap(volume.voxels.astype(np.uint8), source)
    whole = Grid.canonical(source.center_mm, (7, 7, 7), mm)
    first = [start for start, _ in part]
    cut = Grid.from_origin(whole.to_mm(first), [n for _, n in part], mm)
    slices = tuple(slice(start, start + n) for start, n in part)
    difference = sample_image(volume, cut).astype(int) - sample_image(volume, whole)[slices]
    assert np.abs(difference).max() <= 1  # the round-off of the origin can turn a rounding over
    np.testing.assert_array_equal(sample_labels(labels, cut), sample_labels(labels, whole)[slices])


@FEW
@given(ANGLES, st.floats(0.2, 3), VECTORS, st.sampled_from([0.0, 0.3]))
def test_coverage_is_the_share_of_voxels_that_labels_fill(
    angles: tuple[float, ...], mm: float, shift: tuple[float, ...], tilt: float
) -> None:
    source = turned_grid((6, 5, 4), angles, (1.3, 0.8, 1.1), tilt)
    target = Grid.canonical(source.center_mm + shift, (6, 7, 8), mm)
    filled = sample_labels(LabelMap(np.ones(source.shape, np.uint8), source), target)
    assert coverage(source, target) == pytest.approx(filled.mean(), abs=1e-12)


@FEW
@given(
    ANGLES,
    st.tuples(*[st.floats(0.4, 3)] * 3),
    st.sampled_from([0.0, 0.3]),
    st.floats(0, 6), st.floats(0, 6), st.floats(0.5, 5), st.floats(0.5, 5), st.integers(0, 5),
)  # fmt: skip
def test_boxes_in_crops_enclose_the_corners(
    angles: tuple[float, ...], spacing: tuple[float, ...], tilt: float,
    x: float, y: float, width: float, height: float, number: int,
) -> None:  # fmt: skip
    """Each corner of the box, through LPS by the affine: the bounds are the extreme indices in the crop."""
    source = turned_grid((6, 7, 8), angles, spacing, tilt)
    volume = Volume(np.zeros(source.shape, np.int16), source, file_numbers=np.arange(10, 16))
    crop = Grid.canonical(source.center_mm, (60, 60, 60), 1.0)  # as large as any box
    (row,) = boxes_in_crop([FractureBox(x, y, width, height, 10 + number)], volume, crop)
    indices = []
    for z in (number - 0.5, number + 0.5):
        for row_index in (y, y + height):
            for column in (x, x + width):
                left, posterior, superior = (source.affine @ [z, row_index, column, 1])[:3]
                origin = crop.affine[:3, 3]
                indices.append((superior - origin[2], posterior - origin[1], left - origin[0]))
    low, high = np.min(indices, axis=0), np.max(indices, axis=0)
    np.testing.assert_allclose(row, [*low, *high], rtol=1e-5, atol=1e-4)
