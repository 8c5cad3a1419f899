"""Limits of plausibility from both sides, on necks of balls, and the one real pair of a CT and its mask."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from spine_etl.errors import MaskImplausible
from spine_etl.geometry import Grid
from spine_etl.nifti import read_label_map
from spine_etl.recipe import Recipe, load_recipe
from spine_etl.segmentation import check_alignment, check_plausible, check_structure
from spine_etl.volume import LabelMap, Volume

SHAPE = (80, 60, 60)
GRID = Grid.canonical((0, 0, 0), SHAPE, 2.0)
INDEX = np.indices(SHAPE)
RECIPE = load_recipe("rsna2022")
SPACING = 10  # voxels of 2 mm between the centres of two levels


def neck(radius: float = 4.6, levels: int = 7) -> np.ndarray:
    """Balls for C1 to C7 from head to foot, C2 a fifth larger; +z is Superior."""
    labels = np.zeros(SHAPE, np.uint8)
    for label in range(1, levels + 1):
        center = np.array([75 - SPACING * label, 30, 30])
        labels[np.linalg.norm(INDEX - center[:, None, None, None], axis=0) <= radius] = label
    return sized(labels, 2, 1.2) if levels > 1 else labels


def sized(labels: np.ndarray, label: int, times: float) -> np.ndarray:
    """This level with so many times the voxels of C1, around its centre."""
    center = np.array([75 - SPACING * label, 30, 30])[:, None, None, None]
    count = round(times * np.count_nonzero(labels == 1))
    nearest = np.argsort(np.linalg.norm(INDEX - center, axis=0), axis=None, kind="stable")[:count]
    changed = np.where(labels == label, 0, labels).astype(np.uint8)
    changed.flat[nearest] = label
    return changed


def bone_under(labels: np.ndarray) -> np.ndarray:
    return np.where(labels > 0, 700, 40).astype(np.int16)


def codes(labels: np.ndarray, hu: np.ndarray | None = None, grid: Grid = GRID) -> list[str]:
    volume = Volume(bone_under(labels) if hu is None else hu, grid)
    label_map = LabelMap(labels, GRID)
    warnings = [
        *check_structure(label_map, volume, RECIPE),
        *check_plausible(label_map, volume, RECIPE),
    ]
    return [warning.code for warning in warnings]


def refused(labels: np.ndarray, hu: np.ndarray | None = None) -> str:
    with pytest.raises(MaskImplausible) as error:
        codes(labels, hu)
    return error.value.reason


def renumbered(labels: np.ndarray, *numbers: int) -> np.ndarray:
    return np.array([0, *numbers], np.uint8)[labels]


def test_a_neck_passes() -> None:
    assert codes(neck()) == []


def test_empty_labels_are_refused() -> None:
    assert "empty" in refused(np.zeros(SHAPE, np.uint8), bone_under(neck()))


def test_a_few_voxels_are_refused() -> None:
    """Voxels of 8 mm3: at least 4 in one label and 100 mm3 in all."""
    for voxels, passes in ((3, False), (12, False), (13, True)):
        labels = np.zeros(SHAPE, np.uint8)
        labels[40, 30, 20 : 20 + voxels] = 3
        hu = bone_under(labels)
        if passes:
            assert set(codes(labels, hu)) == {"MASK_UNCHECKED", "LEVEL_SIZE", "LEVEL_MISSING"}
        else:
            assert "mm3 of labels" in refused(labels, hu)


def test_a_small_ct_is_not_compared() -> None:
    labels = neck()[30:50, 20:40, 20:40]
    volume = Volume(np.zeros(labels.shape, np.int16), Grid(labels.shape, GRID.affine))
    assert volume.grid.shape == (20, 20, 20)  # 64 cm3
    label_map = LabelMap(labels, volume.grid)
    assert check_structure(label_map, volume, RECIPE) == ()
    assert [w.code for w in check_plausible(label_map, volume, RECIPE)] == ["MASK_UNCHECKED"]


@pytest.mark.parametrize("numbers", [(2, 1, 3, 4, 5, 6, 7), (1, 2, 4, 3, 5, 6, 7), (1, 6, 3, 4, 5, 2, 7)])
def test_exchanged_levels_are_named_in_their_right_order(numbers: tuple[int, ...]) -> None:
    reason = refused(renumbered(neck(), *numbers))
    right = ", ".join(f"C{number}" for number in numbers)
    assert "out of order" in reason
    assert right in reason or ", ".join(f"C{n}" for n in reversed(numbers)) in reason


def ball(label: int, z: float, y: float, x: float = 30, radius: float = 4.6) -> np.ndarray:
    center = np.array([z, y, x])[:, None, None, None]
    return np.where(np.linalg.norm(INDEX - center, axis=0) <= radius, label, 0).astype(np.uint8)


@pytest.mark.parametrize(("millimetres", "passes"), [(5, True), (7, False)])
def test_a_detour_of_6_mm_is_allowed(millimetres: int, passes: bool) -> None:
    """C2 is 20 mm above C3, and C1 so much further away from it: exchanged, that is the detour."""
    distance = (20 + millimetres) / 2
    upper = (40 + np.sqrt(distance**2 - 10**2), 40)
    for exchanged in (False, True):
        c1, c2 = ((50, 30), upper) if exchanged else (upper, (50, 30))
        labels = np.maximum(ball(3, 40, 30), np.maximum(ball(1, *c1), ball(2, *c2, radius=4.9)))
        if passes or not exchanged:
            assert codes(labels) == []
        else:
            assert "C2, C1, C3" in refused(labels)


def test_reversed_levels_are_upside_down() -> None:
    assert "C1 is 120 mm below C7" in refused(renumbered(neck(), 7, 6, 5, 4, 3, 2, 1))


@pytest.mark.parametrize(("step", "passes"), [(1, True), (2, False)])
def test_two_levels_may_ascend_by_3_mm(step: int, passes: bool) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    for label, (z, y) in {1: (40, 22), 2: (40 + step, 38)}.items():
        labels[np.linalg.norm(INDEX - np.array([z, y, 30])[:, None, None, None], axis=0) <= 4.2] = label
    if passes:
        codes(labels)
    else:
        assert "C1 is 4 mm below C2" in refused(labels)


@pytest.mark.parametrize(("radius", "passes"), [(10.3, True), (10.9, False)])
def test_a_cervical_level_has_at_most_40_cm3(radius: float, passes: bool) -> None:
    """Balls of 20.6 and 21.8 mm: 36.6 and 43.4 cm3."""
    labels = neck(radius, levels=1)
    labels = np.roll(labels, -26, 0)
    if passes:
        assert "LEVEL_SIZE" in codes(labels)
    else:
        assert "cm3" in refused(labels)


@pytest.mark.parametrize(("length", "passes"), [(59, True), (61, False)])
def test_a_cervical_level_is_at_most_120_mm_long(length: int, passes: bool) -> None:
    shape = (40, 70, 70)
    grid = Grid.canonical((0, 0, 0), shape, 2.0)
    labels = np.zeros(shape, np.uint8)
    labels[18:22, 32:36, 4 : 4 + length] = 4
    volume = Volume(bone_under(labels), grid)
    if passes:
        check_plausible(LabelMap(labels, grid), volume, RECIPE)
    else:
        with pytest.raises(MaskImplausible, match="122 mm long"):
            check_plausible(LabelMap(labels, grid), volume, RECIPE)


def test_labels_beside_the_bone_are_refused() -> None:
    labels = neck()
    assert "mm away" in refused(np.roll(labels, 9, 2), bone_under(labels))


def test_labels_far_from_any_bone_are_refused() -> None:
    """No shift of 30 mm reaches the bone."""
    assert "no bone" in refused(np.roll(neck(), 19, 2), bone_under(np.roll(neck(), -19, 2))).lower()


@pytest.mark.parametrize(("share", "expected"), [(0.52, "refused"), (0.65, "BONE_FAINT"), (0.8, "")])
def test_bone_may_be_faint(share: float, expected: str) -> None:
    """Bone in a share of the voxels under labels: brighter than tissue in that share of comparisons."""
    labels = neck()
    bright = np.random.default_rng(1).random(SHAPE) < share
    hu = np.where(labels > 0, np.where(bright, 700, 5), 40).astype(np.int16)
    if expected == "refused":
        refused(labels, hu)
    else:
        found = codes(labels, hu)
        assert expected in found if expected else found == []


def test_one_level_without_bone_is_a_warning_and_three_are_refused() -> None:
    labels = neck()
    one = np.where(labels == 4, 40, bone_under(labels)).astype(np.int16)
    assert codes(labels, one) == ["BONE_FAINT"]
    three = np.where(np.isin(labels, (3, 4, 5)), 40, bone_under(labels)).astype(np.int16)
    assert "C3, C4, C5" in refused(labels, three)


def test_missing_distant_and_fused_levels_are_warnings() -> None:
    assert codes(renumbered(neck(), 1, 2, 3, 0, 5, 6, 7)) == ["LEVEL_MISSING"]
    assert codes(renumbered(neck(), 1, 2, 3, 4, 6, 7, 8)) == ["LEVEL_MISSING"]  # C5
    apart = np.maximum(np.where(neck() == 1, 0, neck()), ball(1, 65, 47))  # 20 mm above C2, 34 mm behind it
    assert codes(apart) == ["LEVEL_DISTANCE"]


def test_levels_that_touch_over_150_mm2_are_fused() -> None:
    for half, fused in ((3, False), (4, True)):  # bridges of 144 and 256 mm2
        labels = neck()
        bridge = (np.abs(INDEX[1] - 30 + 0.5) < half) & (np.abs(INDEX[2] - 30 + 0.5) < half)
        between = bridge & (INDEX[0] >= 75 - 4 * SPACING) & (INDEX[0] <= 75 - 3 * SPACING) & (labels == 0)
        labels[between] = np.where(INDEX[0] < 75 - 3.5 * SPACING, 4, 3)[between]
        labels = sized(labels, 2, 1.5)
        assert codes(labels) == (["LEVELS_FUSED"] if fused else [])


def test_upper_levels_that_are_miscounted_are_a_warning() -> None:
    """C2 with its dens is the highest; numbered from another, C1 or C3 is."""
    labels = neck()
    labels[(np.abs(INDEX[1] - 22) < 2) & (np.abs(INDEX[2] - 30) < 2) & (INDEX[0] > 55) & (INDEX[0] < 70)] = 2
    assert codes(labels) == []
    assert "C3 is" in texts(renumbered(labels, 2, 3, 4, 5, 6, 7, 8))
    assert "NUMBERING_UNUSUAL" in codes(renumbered(labels, 0, 1, 2, 3, 4, 5, 6))


@pytest.mark.parametrize(
    ("label", "times", "warned"),
    [
        (label, times, warned)
        for label, limit in {2: 2.25, 3: 1.3, 4: 1.3, 5: 1.3, 6: 1.3, 7: 1.6}.items()
        for times, warned in ((limit - 0.02, False), (limit + 0.02, True))
    ],
)
def test_a_level_is_at_most_1_3_times_its_larger_neighbour(label: int, times: float, warned: bool) -> None:
    """C2 2.25 times C3, and C7 1.6 times C6."""
    labels = sized(neck(3.9), label, times)
    assert ("more than" in texts(labels)) == warned


def test_the_larger_neighbour_counts() -> None:
    labels = sized(sized(neck(3.9), 4, 1.32), 5, 1.25)
    assert "more than" not in texts(labels)


def texts(labels: np.ndarray) -> str:
    warnings = check_plausible(LabelMap(labels, GRID), Volume(bone_under(labels), GRID), RECIPE)
    return " ".join(warning.text for warning in warnings)


@pytest.mark.parametrize(("times", "warned"), [(1.12, False), (1.08, True)])
def test_c2_is_at_least_1_1_times_as_large_as_c3(times: float, warned: bool) -> None:
    assert codes(sized(neck(), 2, times)) == (["NUMBERING_UNUSUAL"] if warned else [])


@pytest.mark.parametrize(("voxels", "warned"), [(14, False), (16, True)])
def test_levels_are_at_most_1_5_times_as_far_apart_as_the_next_ones(voxels: int, warned: bool) -> None:
    """C4 and C5 28 and 32 mm, the others 20 mm."""
    labels = neck(levels=6)
    lower = np.where(labels > 4, labels, 0)
    labels = np.where(labels > 4, 0, labels) + np.roll(lower, SPACING - voxels, 0)
    assert codes(labels) == (["LEVEL_DISTANCE"] if warned else [])


@pytest.mark.parametrize(("voxels", "warned"), [(14, False), (15, True)])
def test_c2_and_c3_are_at_most_2_1_times_as_far_apart(voxels: int, warned: bool) -> None:
    """28 and 30 mm, those below 14 mm."""
    heights = [70, 60, *(60 - voxels - 7 * k for k in range(5))]
    parts = [ball(label, z, 30, radius=3.3) for label, z in enumerate(heights, 1)]
    assert ("LEVEL_DISTANCE" in codes(np.max(parts, axis=0))) == warned


@pytest.mark.parametrize(
    ("numbers", "slices", "warned"),
    [
        ((0, 0, 3, 4, 5, 6, 7), 60, False),  # 29 and 31 mm above C3; levels are 20 mm apart
        ((0, 0, 3, 4, 5, 6, 7), 61, True),
        ((0, 0, 3, 0, 0, 0, 0), 62, False),  # 33 and 37 mm
        ((0, 0, 3, 0, 0, 0, 0), 64, True),
    ],
)
def test_a_ct_shows_the_levels_above(numbers: tuple[int, ...], slices: int, warned: bool) -> None:
    """1.5 distances above the first level, 35 mm above a single one; also where slices run to the foot."""
    labels = renumbered(neck(), *numbers)[:slices]
    affine = GRID.affine.copy()
    for _ in range(2):
        grid = Grid(labels.shape, affine)
        found = check_plausible(LabelMap(labels, grid), Volume(bone_under(labels), grid), RECIPE)
        assert ("LEVEL_MISSING" in [warning.code for warning in found]) == warned
        affine[:3, 3] += affine[:3, 0] * (slices - 1)
        affine[:3, 0] *= -1
        labels = np.ascontiguousarray(labels[::-1])


@pytest.mark.parametrize(("voxels", "warned"), [(12, False), (13, True)])
def test_the_first_level_is_at_most_1_4_times_as_high_as_those_below(voxels: int, warned: bool) -> None:
    """C3 24 and 26 mm, the others 18 mm."""
    labels = renumbered(neck(), 0, 0, 3, 4, 5, 6, 7)
    labels[41 : 41 + voxels, 29:32, 29:32] = 3
    assert ("those below" in texts(labels)) == warned


def test_metal_is_a_warning() -> None:
    labels = neck()
    hu = bone_under(labels)
    hu[40:44, 24:28, 24:36] = 3000
    assert codes(labels, hu) == ["METAL"]


LUMBAR = Recipe.model_validate(
    {
        "name": "lumbar",
        "levels": {"L2": 21, "L3": 22, "L4": 23},
        "crop": {"spacing_mm": 2.0, "shape": [32, 64, 64]},
        "overview": {"spacing_mm": 4.0, "shape": [64, 64, 64]},
    }
)


@pytest.fixture(scope="module")
def lumbar(real_data: Path) -> tuple[Volume, LabelMap]:
    """A real CT, read as a label map's neighbour, and its mask."""
    folder = real_data / "ct_mask_pair_lumbar"
    mask = read_label_map(folder / "sub-ct_seg-vert_label-22_msk.nii.gz")
    voxels = np.asarray(nib.load(folder / "sub-ct_label-22_ct.nii.gz").dataobj).T
    return Volume(np.ascontiguousarray(np.maximum(voxels, -1024)), mask.grid), mask


def check_lumbar(volume: Volume, labels: np.ndarray, grid: Grid) -> tuple[str, ...]:
    label_map = LabelMap(np.ascontiguousarray(labels), grid)
    warnings = check_alignment(label_map, volume)
    warnings += check_structure(label_map, volume, LUMBAR)
    warnings += check_plausible(label_map, volume, LUMBAR)
    return tuple(warning.code for warning in warnings)


@pytest.mark.real_data
def test_real_pair_passes(lumbar: tuple[Volume, LabelMap]) -> None:
    volume, mask = lumbar
    assert check_lumbar(volume, mask.labels, mask.grid) == ()


@pytest.mark.real_data
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("voxels", [-15, -8, -4, 4, 8, 15])
def test_real_pair_is_refused_if_shifted_by_6_mm_or_more(
    lumbar: tuple[Volume, LabelMap], axis: int, voxels: int
) -> None:
    volume, mask = lumbar
    with pytest.raises(MaskImplausible):
        check_lumbar(volume, np.roll(mask.labels, voxels, axis), mask.grid)


@pytest.mark.real_data
def test_real_pair_is_refused_if_turned_but_not_if_mirrored(lumbar: tuple[Volume, LabelMap]) -> None:
    """Its axes run to Right, Inferior and Posterior."""
    volume, mask = lumbar
    for axes in ((1,), (2,), (1, 2), (0, 1), (0, 2)):
        with pytest.raises(MaskImplausible):
            check_lumbar(volume, np.flip(mask.labels, axes), mask.grid)
    check_lumbar(volume, np.flip(mask.labels, 0), mask.grid)
    with pytest.raises(MaskImplausible, match=r"upside down|out of order"):
        check_lumbar(volume, np.where(mask.labels > 0, 44 - mask.labels, 0).astype(np.uint8), mask.grid)
