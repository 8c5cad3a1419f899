"""The parts of a label that are its vertebra, on masks whose truth is known by construction."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from spine_etl.crops import crop_grids
from spine_etl.errors import MaskImplausible
from spine_etl.geometry import Grid
from spine_etl.recipe import Recipe
from spine_etl.segmentation import Vertebrae, find_vertebrae, label_regions, label_share
from spine_etl.segmentation.regions import label_runs
from spine_etl.volume import LabelMap

RECIPE = Recipe.model_validate(
    {
        "name": "test",
        "levels": {"C1": 1, "C2": 2, "C3": 3},
        "other_labels": {"T1": 8},
        "crop": {"spacing_mm": 1, "shape": [64, 80, 96]},
        "overview": {"spacing_mm": 4, "shape": [16, 20, 24]},
    }
)
Labels = npt.NDArray[np.uint8]


def label_map(labels: Labels, steps_mm: tuple[float, float, float] = (1, 1, 1)) -> LabelMap:
    """Along S, P and L."""
    affine = np.diag([*steps_mm, 1.0])[[2, 1, 0, 3]]
    return LabelMap(labels, Grid(labels.shape, affine))


def blocks(shape: tuple[int, int, int], *parts: tuple[int, slice, slice, slice]) -> Labels:
    labels = np.zeros(shape, np.uint8)
    for label, *part in parts:
        labels[tuple(part)] = label
    return labels


def cube(z: int, y: int, x: int, size: int = 10) -> tuple[slice, slice, slice]:
    return slice(z, z + size), slice(y, y + size), slice(x, x + size)


def two_blocks(
    axis: int, sign: int, gap: int, second: int, step_mm: float = 1.0, size: int = 10
) -> tuple[Labels, LabelMap]:
    """A cube of C1 and, ``gap`` voxels from it, a second part of ``second`` voxels in rows of up to 10."""
    labels = np.zeros((70, size, size), np.uint8)
    labels[:size] = 1
    other = np.zeros(size**3, np.uint8)
    other[:second] = 1
    labels[size + gap : 2 * size + gap] = other.reshape(size, size, size)
    labels = np.moveaxis(labels[::sign], 0, axis)
    steps = [1.0, 1.0, 1.0]
    steps[axis] = step_mm
    return labels, label_map(labels, tuple(steps))


def test_vertebra_in_one_part_is_its_label() -> None:
    whole = label_map(blocks((20, 30, 40), (1, *cube(2, 3, 4)), (2, *cube(8, 15, 20)), (8, *cube(2, 20, 4))))
    found = find_vertebrae(whole, RECIPE)
    assert found.label_map is whole
    assert list(found.levels) == ["C1", "C2", "T1"]
    assert (found.ambiguous, found.islands, found.warnings) == ({}, {}, ())
    c1 = found.levels["C1"]
    assert (c1.label, c1.voxel_count, c1.low, c1.high, c1.volume_mm3) == (
        1,
        1000,
        (2, 3, 4),
        (11, 12, 13),
        1000,
    )
    for center in (c1.center_mm, c1.crop_center_mm, c1.centroid_mm):
        np.testing.assert_allclose(center, (8.5, 7.5, 6.5), atol=1e-9)


@pytest.mark.parametrize("position", [(0, 0, 0), (119, 5, 3), (60, 99, 50), (3, 50, 109)])
def test_stray_voxel_moves_nothing(position: tuple[int, int, int]) -> None:
    clean = label_map(blocks((120, 100, 110), (2, *cube(50, 40, 45, 20)), (3, *cube(71, 40, 45))))
    stray = clean.labels.copy()
    stray[position] = 2
    found, expected = find_vertebrae(label_map(stray), RECIPE), find_vertebrae(clean, RECIPE)
    np.testing.assert_array_equal(found.label_map.labels, clean.labels)
    np.testing.assert_array_equal(found.levels["C2"].crop_center_mm, expected.levels["C2"].crop_center_mm)
    assert found.levels["C2"].high == (69, 59, 64)
    islands = found.islands["C2"]
    # From the face of the voxel to that of the box, along each axis.
    low, high, point = np.array([49.5, 39.5, 44.5]), np.array([69.5, 59.5, 64.5]), np.array(position)
    gaps = np.maximum(0, np.maximum(low - (point + 0.5), point - 0.5 - high))
    assert (islands.voxel_count, islands.distance_mm) == (1, pytest.approx(np.linalg.norm(gaps)))
    (warning,) = found.warnings
    assert warning.code == "LABEL_ISLANDS"
    assert "C2 1 voxels" in warning.text


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("step_mm", "kept"), [(0.9999, True), (1.0, True), (1.0001, False)])
def test_small_part_within_10_mm_is_a_fragment(axis: int, sign: int, step_mm: float, kept: bool) -> None:
    _, mask = two_blocks(axis, sign, 10, 1, step_mm)
    found = find_vertebrae(mask, RECIPE)
    assert found.levels["C1"].voxel_count == 1000 + kept
    assert np.count_nonzero(found.label_map.labels) == 1000 + kept
    assert ("C1" in found.islands) == (not kept)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("step_mm", "second", "kept"),
    [(0.9999, 100, True), (0.9999, 99, False), (1.0, 100, True), (1.0001, 100, False), (1.0001, 499, False)],
)
def test_a_tenth_of_the_vertebra_within_25_mm_is_a_fragment(
    axis: int, sign: int, step_mm: float, second: int, kept: bool
) -> None:
    _, mask = two_blocks(axis, sign, 25, second, step_mm)
    found = find_vertebrae(mask, RECIPE)
    assert found.levels["C1"].voxel_count == 1000 + kept * second
    assert found.levels["C1"].core.voxel_count == 1000
    assert (found.islands["C1"].voxel_count if "C1" in found.islands else 0) == (not kept) * second


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("step_mm", "second", "expected"),
    [(1.0001, 500, "ambiguous"), (1.0001, 499, "island"), (1.0, 500, "core"), (1.0, 499, "fragment")],
)
def test_half_of_the_vertebra_over_25_mm_away_is_ambiguous(
    axis: int, step_mm: float, second: int, expected: str
) -> None:
    _, mask = two_blocks(axis, 1, 25, second, step_mm)
    found = find_vertebrae(mask, RECIPE)
    assert ("C1" in found.ambiguous) == (expected == "ambiguous")
    assert ("C1" in found.islands) == (expected == "island")
    vertebra = (found.ambiguous if expected == "ambiguous" else found.levels)["C1"]
    assert vertebra.core.voxel_count == 1000 + (expected == "core") * second
    assert ("C1" in found.crop_centers_mm(RECIPE)) == (expected != "ambiguous")
    if expected == "ambiguous":
        assert found.label_map is mask  # neither part is cleared
        (warning,) = found.warnings
        assert warning.code == "VERTEBRA_AMBIGUOUS"
        assert "C1" in warning.text


def test_an_ambiguous_level_loses_its_small_islands() -> None:
    labels = blocks((120, 60, 60), (1, *cube(0, 0, 0)), (1, *cube(60, 0, 0)))
    labels[110, 50, 50] = 1
    found = find_vertebrae(label_map(labels), RECIPE)
    assert list(found.ambiguous) == ["C1"]
    assert found.islands["C1"].voxel_count == 1
    assert label_regions(found.label_map)[1].voxel_count == 2000


@pytest.mark.parametrize("label", [2, 8])
@pytest.mark.parametrize(("open_faces", "kept"), [(2, False), (3, True), (4, True)])
def test_part_that_touches_mostly_another_level_is_an_island(label: int, open_faces: int, kept: bool) -> None:
    """A voxel of C1 in a voxel's distance from C1; of its 6 faces some touch another level."""
    labels = blocks((20, 20, 20), (1, *cube(0, 5, 5)))
    labels[12, 9, 9] = 1
    neighbours = [(13, 9, 9), (12, 8, 9), (12, 10, 9), (12, 9, 8), (12, 9, 10), (11, 9, 9)]
    for neighbour in neighbours[: 6 - open_faces]:
        labels[neighbour] = label
    found = find_vertebrae(label_map(labels), RECIPE)
    assert found.levels["C1"].voxel_count == 1000 + kept
    assert found.label_map.labels[12, 9, 9] == kept
    assert ("C1" in found.islands) == (not kept)


@pytest.mark.parametrize(("step_mm", "kept"), [(1.01, True), (0.99, False)])
def test_surfaces_are_compared_in_square_millimetres(step_mm: float, kept: bool) -> None:
    """A voxel with both faces along z and one more on another level: 2 + s of 2 * (2 s + 1) mm2."""
    labels = blocks((20, 20, 20), (1, *cube(0, 5, 5)))
    labels[12, 9, 9] = 1
    labels[11, 9, 9] = labels[13, 9, 9] = labels[12, 9, 10] = 2
    found = find_vertebrae(label_map(labels, (step_mm, 1, 1)), RECIPE)
    assert found.levels["C1"].voxel_count == 1000 + kept


def test_diagonal_neighbours_are_one_part() -> None:
    for corner in product((0, 4), repeat=3):
        labels = np.zeros((5, 5, 5), np.uint8)
        labels[1:4, 1:4, 1:4] = 1
        labels[corner] = 1
        found = find_vertebrae(label_map(labels, (30, 30, 30)), RECIPE)
        assert found.levels["C1"].core.voxel_count == 28
        assert found.islands == {}


def test_ring_of_c1_in_two_halves_is_one_vertebra() -> None:
    """A ring of 76 mm, cut in the middle along the patient; the right half is a little larger."""
    y, x = np.indices((60, 100))
    radius = np.hypot((x - 50) / 38, (y - 30) / 22)
    ring = (radius > 0.7) & (radius <= 1)
    ring[:, 48:51] = False
    labels = np.zeros((60, 60, 100), np.uint8)
    labels[20:32, ring] = 1
    found = find_vertebrae(label_map(labels), RECIPE)
    c1 = found.levels["C1"]
    assert found.islands == {}
    assert c1.voxel_count == np.count_nonzero(labels)
    np.testing.assert_allclose(c1.crop_center_mm, (50, 30, 25.5), atol=0.51)
    assert share_in_crop(found, "C1") == 1


@pytest.mark.parametrize("displacement_mm", [2, 9, 24])
def test_displaced_dens_stays(displacement_mm: int) -> None:
    """A dens of 12 x 12 x 16 mm above a body of 30 x 16 x 22 mm with a spinous process."""
    labels = np.zeros((100, 80, 80), np.uint8)
    labels[20:42, 30:46, 25:55] = 2
    labels[20:30, 46:70, 37:43] = 2
    labels[42 + displacement_mm : 58 + displacement_mm, 26:38, 34:46] = 2
    found = find_vertebrae(label_map(labels), RECIPE)
    assert found.islands == {}
    c2 = found.levels["C2"]
    assert c2.voxel_count == np.count_nonzero(labels)
    assert c2.core.high == (41, 69, 54)
    # The body is from 19.5 to 41.5 mm; a crop of 64 mm about its middle ends at 62.5 mm. A dens that is 9 mm
    # away, up to 66.5 mm, or 24 mm away, up to 81.5, moves it, by at most 4 mm.
    expected = {2: 30.5, 9: 34.5, 24: 34.5}[displacement_mm]
    assert c2.crop_center_mm[2] == pytest.approx(expected)
    # Of the furthest dens, whose 16 layers of 144 voxels are at 66 to 81 mm, only the first is in the crop.
    outside = 15 * 144 / np.count_nonzero(labels) if displacement_mm == 24 else 0
    assert share_in_crop(found, "C2") == pytest.approx(1 - outside)


@pytest.mark.parametrize(("voxels", "moved_mm"), [(82, 0.0), (83, 2.5)])
def test_fragment_below_a_hundredth_does_not_move_the_crop(voxels: int, moved_mm: float) -> None:
    """The vertebra is from 19.5 to 76.5 mm, so its crop is from 16 to 80; the fragment reaches to 82.5."""
    labels = np.zeros((100, 16, 9), np.uint8)
    labels[20:77] = 2
    labels[82].flat[:voxels] = 2  # of 8208
    c2 = find_vertebrae(label_map(labels), RECIPE).levels["C2"]
    assert c2.voxel_count == 8208 + voxels
    np.testing.assert_allclose(c2.crop_center_mm - c2.center_mm, (0, 0, moved_mm), atol=1e-9)


def test_crop_does_not_lose_the_vertebra_for_a_fragment() -> None:
    """The vertebra is from 19.5 to 79.5 mm and its crop from 17.5 to 81.5: 2 mm to spare for 6."""
    labels = np.zeros((100, 10, 10), np.uint8)
    labels[20:80, :5] = 2
    labels[83:88, :5] = 2
    c2 = find_vertebrae(label_map(labels), RECIPE).levels["C2"]
    np.testing.assert_allclose(c2.crop_center_mm - c2.center_mm, (0, 0, 2), atol=1e-9)


def test_crop_stays_between_fragments_on_both_sides() -> None:
    """The vertebra's crop is from 15.5 to 79.5 mm; fragments reach 3 mm above it and 2 mm below."""
    labels = np.zeros((100, 10, 10), np.uint8)
    labels[20:76, :5] = 2
    labels[78:83, :5] = 2
    c2 = find_vertebrae(label_map(labels), RECIPE).levels["C2"]
    np.testing.assert_allclose(c2.crop_center_mm - c2.center_mm, (0, 0, 3), atol=1e-9)
    labels[14:18, :5] = 2
    c2 = find_vertebrae(label_map(labels), RECIPE).levels["C2"]
    np.testing.assert_allclose(c2.crop_center_mm, c2.center_mm, atol=1e-9)


def share_in_crop(found: Vertebrae, level: str) -> float:
    """`label_share`, checked against a count of the voxels whose centre is in the crop."""
    label = RECIPE.levels[level]
    crop = crop_grids(found.crop_centers_mm(RECIPE), RECIPE)[level]
    voxels = np.argwhere(found.label_map.labels == label)
    index = crop.to_index(found.label_map.grid.to_mm(voxels))
    exact = ((index > -0.5) & (index < np.array(crop.shape) - 0.5)).all(axis=1).mean()
    share = label_share(found.label_map, label, crop)
    assert share == pytest.approx(exact, abs=1e-12)
    return share


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*[st.floats(-0.5, 0.5)] * 9),
    st.tuples(*[st.floats(-9, 9)] * 3),
    st.sampled_from([(4, 5, 6), (9, 3, 12), (40, 40, 40)]),
)
def test_label_share_is_an_exact_count(
    seed: int, shear: tuple[float, ...], shift: tuple[float, ...], shape: tuple[int, int, int]
) -> None:
    labels = (np.random.default_rng(seed).random((9, 10, 11)) < 0.2).astype(np.uint8)
    labels[4, 4, 4] = 1
    affine = np.diag([1.1, 0.9, 1.3, 1])[[2, 1, 0, 3]]
    affine[:3, :3] += np.reshape(shear, (3, 3))
    if abs(np.linalg.det(affine)) < 0.1:
        return
    mask = LabelMap(labels, Grid(labels.shape, affine))
    crop = Grid.canonical(mask.grid.center_mm + shift, shape, 1.07)
    index = crop.to_index(mask.grid.to_mm(np.argwhere(labels)))
    inside = ((index > -0.5) & (index < np.array(shape) - 0.5)).all(axis=1)
    assert label_share(mask, 1, crop) == pytest.approx(inside.mean(), abs=1e-12)


def reference(mask: LabelMap, recipe: Recipe) -> dict[str, object]:
    """The rules in a few lines of NumPy and SciPy, a label and a part at a time."""
    found: dict[str, object] = {}
    half_mm = np.abs(mask.grid.affine[:3, :3]).sum(axis=1) / 2
    steps = mask.grid.affine[:3, :3].T
    areas = [np.linalg.norm(np.cross(steps[axis - 2], steps[axis - 1])) for axis in range(3)]
    padded = np.pad(mask.labels, 1)
    cleaned = mask.labels.copy()
    for label in np.unique(mask.labels[mask.labels > 0]).tolist():
        parts, count = ndimage.label(mask.labels == label, np.ones((3, 3, 3)))
        members = [np.argwhere(parts == part + 1) for part in range(count)]
        points = [mask.grid.to_mm(member) for member in members]
        boxes = [(p.min(axis=0) - half_mm, p.max(axis=0) + half_mm) for p in points]
        main = max(
            range(count), key=lambda part: (len(members[part]), *np.round(points[part].mean(axis=0)[::-1], 5))
        )
        kept, islands, rivals = [main], 0, 0
        for part in set(range(count)) - {main}:
            gap = np.maximum(boxes[part][0] - boxes[main][1], boxes[main][0] - boxes[part][1])
            distance, share = np.linalg.norm(np.maximum(gap, 0)), len(members[part]) / len(members[main])
            surface = foreign = 0.0
            for voxel, axis, step in product(members[part], range(3), (-1, 1)):
                neighbour = padded[tuple(voxel + 1 + step * np.eye(3, dtype=int)[axis])]
                surface += areas[axis] * (neighbour != label)
                foreign += areas[axis] * (neighbour not in (0, label))
            is_near = distance <= 10 or (distance <= 25 and share >= 0.1)
            if is_near and foreign <= surface / 2 * (1 + 1e-9):
                kept.append(part)
            elif distance > 25 and share >= 0.5:
                rivals += 1
            else:
                islands += len(members[part])
                cleaned[tuple(members[part].T)] = 0
        found[str(label)] = (
            sum(len(members[part]) for part in kept),
            len(members[main]),
            islands,
            rivals > 0,
        )
    found["cleaned"] = cleaned
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.02, 0.1, 0.3, 0.6]),
    st.tuples(*[st.floats(-0.4, 0.4)] * 9),
    st.floats(0.3, 4),
)
def test_random_masks_on_any_grid_follow_the_rules(
    seed: int, density: float, shear: tuple[float, ...], scale: float
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random((9, 8, 12)) < density, rng.choice([1, 2, 8], (9, 8, 12)), 0).astype(np.uint8)
    labels[1:4, 1:4, 1:5] = 1
    labels[6:8, 4:8, 7:] = 2
    affine = np.diag([1.4, 0.8, 2.0, 1])[[2, 1, 0, 3]]
    affine[:3, :3] = (affine[:3, :3] + np.reshape(shear, (3, 3))) * scale
    if abs(np.linalg.det(affine[:3, :3] / scale)) < 0.3:
        return
    mask = LabelMap(labels, Grid(labels.shape, affine))
    found, expected = find_vertebrae(mask, RECIPE), reference(mask, RECIPE)
    for name, label in {**RECIPE.levels, "T1": 8}.items():
        if str(label) in expected:
            voxels, main, islands, is_ambiguous = expected[str(label)]
            vertebra = {**found.levels, **found.ambiguous}[name]
            assert vertebra.voxel_count == voxels, name
            assert (name in found.ambiguous) == is_ambiguous, name
            assert (found.islands[name].voxel_count if name in found.islands else 0) == islands, name
            assert vertebra.core.voxel_count >= main
    np.testing.assert_array_equal(found.label_map.labels, expected["cleaned"])
    fresh = LabelMap(found.label_map.labels.copy(), mask.grid)  # not in the cache
    np.testing.assert_array_equal(label_runs(found.label_map).table, label_runs(fresh).table)
    np.testing.assert_array_equal(label_runs(found.label_map).row_start, label_runs(fresh).row_start)
    for label, region in label_regions(fresh).items():
        same = label_regions(found.label_map)[label]
        assert (same.voxel_count, same.low, same.high) == (region.voxel_count, region.low, region.high)
        np.testing.assert_allclose(same.centroid_mm, region.centroid_mm, atol=1e-9)


ORDERS = [(order, flips) for order in permutations(range(3)) for flips in product((1, -1), repeat=3)]


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_order_of_the_axes_does_not_matter(order: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Four parts of C1 are equally large: two at the top, of which one is further back, and two below."""
    labels = blocks((30, 60, 40), (1, *cube(0, 0, 0, 4)), (1, *cube(20, 20, 4, 4)), (1, *cube(20, 45, 4, 4)),
                    (1, *cube(20, 45, 30, 4)), (2, *cube(8, 4, 20, 5)), (2, *cube(8, 30, 20, 2)))  # fmt: skip
    axes, flips = order
    affine = np.diag([1.5, 1.0, 1.2, 1.0])[[2, 1, 0, 3]]
    transposed = labels.transpose(axes)
    other = affine[:, [*axes, 3]].copy()
    for axis, flip in enumerate(flips):
        if flip < 0:
            other[:3, 3] += other[:3, axis] * (transposed.shape[axis] - 1)
            other[:3, axis] *= -1
    stored = transposed[:: flips[0], :: flips[1], :: flips[2]]
    found = find_vertebrae(LabelMap(stored, Grid(stored.shape, other)), RECIPE)
    first = find_vertebrae(LabelMap(labels, Grid(labels.shape, affine)), RECIPE)
    restored = found.label_map.labels[:: flips[0], :: flips[1], :: flips[2]].transpose(np.argsort(axes))
    np.testing.assert_array_equal(restored, first.label_map.labels)
    assert set(found.levels) == set(first.levels)
    # The highest, then the furthest back, then the furthest to the left: z 20 to 23, y 45 to 48, x 30 to 33.
    vertebra = {**found.levels, **found.ambiguous}["C1"]
    center = {**first.levels, **first.ambiguous}["C1"].center_mm
    np.testing.assert_allclose(vertebra.center_mm, center, atol=1e-9)
    np.testing.assert_allclose(center, (31.5 * 1.2, 46.5, 21.5 * 1.5), atol=1e-9)


def test_noise_is_refused() -> None:
    labels = np.zeros((2, 2050, 4096), np.uint8)
    labels[:, :, ::2] = 1
    with pytest.raises(MaskImplausible, match="8396800 times"):
        find_vertebrae(label_map(labels), RECIPE)
