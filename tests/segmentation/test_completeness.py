"""Limits of the warnings of incomplete levels from both sides, on necks of balls."""

from __future__ import annotations

import numpy as np
import pytest

from spine_etl.errors import MaskImplausible
from spine_etl.geometry import Grid
from spine_etl.recipe import load_recipe
from spine_etl.segmentation import check_complete, check_structure
from spine_etl.segmentation.completeness import label_planes
from spine_etl.volume import LabelMap, Volume

SHAPE = (160, 80, 80)
GRID = Grid.canonical((0, 0, 0), SHAPE, 1.0)
VOLUME = Volume(np.zeros(SHAPE, np.int16), GRID)
INDEX = np.indices(SHAPE)
RECIPE = load_recipe("rsna2022")


def neck(*, radius: dict[int, float] | None = None, back: dict[int, float] | None = None) -> np.ndarray:
    """Balls of 8 mm for C1 to C7 every 20 mm, some of another radius or further back."""
    labels = np.zeros(SHAPE, np.uint8)
    for label in range(1, 8):
        center = np.array([155 - 20 * label, 40 + (back or {}).get(label, 0.0), 40])
        distance = np.linalg.norm(INDEX - center[:, None, None, None], axis=0)
        labels[distance <= (radius or {}).get(label, 8.2)] = label
    return labels


def warnings(labels: np.ndarray, affine: np.ndarray | None = None) -> list[tuple[str, str]]:
    label_map = LabelMap(labels, Grid(labels.shape, GRID.affine if affine is None else affine))
    return [(w.code, w.text) for w in check_complete(label_map, VOLUME, RECIPE)]


def lost(labels: np.ndarray, label: int, part: tuple[slice, ...]) -> np.ndarray:
    """Without this part of a label."""
    changed = labels.copy()
    changed[part][changed[part] == label] = 0
    return changed


def test_a_whole_neck_has_no_warning() -> None:
    assert warnings(neck()) == []


def test_planes_count_sections_and_ends() -> None:
    """A block of 2 x 3 x 4 voxels at the map's corner, with half of its upper face under another label."""
    labels = np.zeros((5, 6, 7), np.uint8)
    labels[:2, :3, :4] = 1
    labels[2, :3, :2] = 2
    z, y, x = label_planes(LabelMap(labels, Grid(labels.shape, np.eye(4))))[1]
    assert z.section.tolist() == [12, 12, 0, 0, 0]
    assert z.ends.tolist() == [[12, 0, 0, 0, 0], [0, 6, 0, 0, 0]]
    assert y.section.tolist() == [8, 8, 8, 0, 0, 0]
    assert y.ends[:, [0, 2]].tolist() == [[8, 0], [0, 8]]
    assert x.section.tolist() == [6, 6, 6, 6, 0, 0, 0]
    assert x.ends[:, [0, 3]].tolist() == [[6, 0], [0, 6]]


@pytest.mark.parametrize(
    ("at", "named"),
    [(64, False), (60, True), (55, True)],  # sections of 0.23, 0.65 and 1 of C5's largest, at 55
)
def test_a_map_that_ends_within_a_level(at: int, named: bool) -> None:
    """The border is too steep a cut from 0.45 of the largest section; the CT goes on."""
    labels = neck()[: at - 1]
    cut = [text for code, text in warnings(labels) if code == "LEVEL_CUT"]
    assert cut == (["C5: cut off by the edge of the segmentation (superior)."] if named else [])


def test_the_edge_of_the_ct_is_named() -> None:
    labels = neck()[:55]
    volume = Volume(np.zeros(labels.shape, np.int16), Grid(labels.shape, GRID.affine))
    found = check_complete(LabelMap(labels, volume.grid), volume, RECIPE)
    assert [w.text for w in found] == ["C5: cut off by the edge of the CT (superior)."]


def test_a_map_cropped_to_its_labels_has_no_warning() -> None:
    index = np.argwhere(neck())
    low, high = index.min(axis=0), index.max(axis=0) + 1
    labels = neck()[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    affine = GRID.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    assert warnings(labels, affine) == []


@pytest.mark.parametrize(
    ("axis", "side"), [(0, "superior"), (1, "posterior"), (2, "left")], ids=["z", "y", "x"]
)
@pytest.mark.parametrize(("beyond", "named"), [(2, True), (4, False)])
def test_a_flat_end_over_nine_tenths_of_the_section(axis: int, side: str, beyond: int, named: bool) -> None:
    """So far beyond the centre of a ball of 8.2 mm, the section is 0.94 and 0.75 of the largest."""
    center = (75, 40, 40)
    part = tuple(slice(center[k] + beyond + 1, None) if k == axis else slice(None) for k in range(3))
    found = [text for code, text in warnings(lost(neck(), 4, part)) if code == "LEVEL_CUT"]
    assert found == ([f"C4: cut off in a plane ({side})."] if named else [])


@pytest.mark.parametrize(("level", "millimetres", "named"), [(4, 4, False), (4, 5, True)])
def test_a_centre_4_5_mm_out_of_line(level: int, millimetres: float, named: bool) -> None:
    found = warnings(neck(back={level: millimetres}))
    text = f"The centre of C{level} is out of line with those of its neighbours."
    assert found == ([("LEVEL_OFF_CURVE", text)] if named else [])


@pytest.mark.parametrize(
    ("level", "millimetres", "named"), [(2, 3, False), (2, 5, True), (1, 7, False), (1, 9, True)]
)
def test_upper_levels_may_be_further_out_of_line(level: int, millimetres: float, named: bool) -> None:
    """The limit is 8 mm for C1, from the line through C2 and C3, which C2 reaches 4 mm out of line."""
    found = [text for _, text in warnings(neck(back={level: millimetres})) if "C1 or C2 is" in text]
    assert bool(found) == named


@pytest.mark.parametrize(("radius", "named"), [(6.2, False), (5.2, True)])
def test_a_level_below_0_65_of_its_neighbours(radius: float, named: bool) -> None:
    """Balls of 13 and 11 voxels beside those of 17, which is 0.76 and 0.647."""
    found = [code for code, _ in warnings(neck(radius={4: radius}))]
    assert found == (["LEVEL_SIZE", "LEVEL_SIZE"] if named else [])


@pytest.mark.parametrize(("length", "named"), [(7, False), (9, True)])
def test_a_leak_8_mm_beyond_the_neighbours(length: int, named: bool) -> None:
    labels = neck()
    labels[75, 40 : 40 + 9 + length, 40] = 4
    found = [text for code, text in warnings(labels) if code == "LEVEL_SIZE"]
    assert found == ([f"C4 is {17 + length} mm deep, its neighbours 17 to 17 mm."] if named else [])


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize(
    ("step", "thick", "refused"), [(2, 1, True), (5, 1, True), (6, 4, True), (7, 5, False)]
)
def test_layers_of_at_most_4_mm_between_empty_slices_are_refused(
    axis: int, step: int, thick: int, refused: bool
) -> None:
    labels = neck()
    drawn = np.arange(SHAPE[axis]) % step < thick
    labels = np.where(np.expand_dims(drawn, [k for k in range(3) if k != axis]), labels, 0).astype(np.uint8)
    label_map = LabelMap(labels, GRID)
    if refused:
        with pytest.raises(MaskImplausible, match="alternate with empty slices"):
            check_structure(label_map, VOLUME, RECIPE)
    else:
        assert check_structure(label_map, VOLUME, RECIPE) == ()
