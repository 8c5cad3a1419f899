"""Panels have the same orientation for every axis order and direction in which a series can be stored."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import numpy.typing as npt
import pytest

from spine_etl.errors import SourceNotFound
from spine_etl.geometry import Grid
from spine_etl.report.panels import (
    MONTAGE,
    Panel,
    block_panels,
    choose_slices,
    reslice_panels,
    slice_panels,
)
from spine_etl.volume import FractureBox, LabelMap, Volume

SHAPE = (20, 24, 28)
BLOB = (5, 17, 9)  # z, y, x of the bright voxel
TO_LPS = {
    "L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1),
}  # fmt: skip
ALL_CODES = [
    "".join(pair[side] for pair, side in zip(order, sides, strict=True))
    for order in permutations(("LR", "PA", "SI"))
    for sides in product((0, 1), repeat=3)
]


def grid(codes: str, spacing: tuple[float, float, float] = (3.0, 1.0, 2.0)) -> Grid:
    """A grid with these axis codes of z, y and x and its centre at LPS (10, -20, 30)."""
    affine = np.eye(4)
    affine[:3, :3] = np.transpose([TO_LPS[code] for code in codes]) * spacing
    affine[:3, 3] = np.array([10, -20, 30]) - affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return Grid(SHAPE, affine)


def volume(of_grid: Grid) -> Volume:
    voxels = np.zeros(SHAPE, np.int16)
    voxels[BLOB] = 1000
    return Volume(voxels, of_grid, file_numbers=np.arange(101, 101 + SHAPE[0]))


def blob_mask(of_grid: Grid) -> LabelMap:
    labels = np.zeros(SHAPE, np.uint8)
    labels[BLOB] = 3
    return LabelMap(labels, of_grid)


def brightest(panel: Panel) -> tuple[int, int]:
    row, column = np.unravel_index(panel.image.argmax(), panel.image.shape)
    return int(row), int(column)


def mm_from_center(panel: Panel) -> npt.NDArray[np.float64]:
    """Millimetres down and to the right from the panel's centre to its brightest pixel."""
    return (np.array(brightest(panel)) - (np.array(panel.image.shape) - 1) / 2) * panel.pixel_mm


@pytest.mark.parametrize("codes", ALL_CODES)
def test_slices_are_upright_in_all_axis_orders(codes: str) -> None:
    left, posterior, superior = grid(codes).to_mm(BLOB) - (10, -20, 30)
    down_right = {  # by the axis perpendicular to the slices
        "S": ("APRL", (posterior, left)),
        "P": ("SIRL", (-superior, left)),
        "L": ("SIAP", (-superior, posterior)),
    }
    edges, expected = down_right[codes[0].translate(str.maketrans("IAR", "SPL"))]
    (panel,) = slice_panels(volume(grid(codes)), [BLOB[0]], [], None)
    assert panel.edges == edges
    np.testing.assert_allclose(mm_from_center(panel), expected)


@pytest.mark.parametrize("codes", ALL_CODES)
def test_box_encloses_what_it_marks_in_all_axis_orders(codes: str) -> None:
    _, y, x = BLOB
    box = FractureBox(x - 1.5, y - 2.5, width=2, height=4, slice_number=101 + BLOB[0])
    (panel,) = slice_panels(volume(grid(codes)), [BLOB[0]], [box], blob_mask(grid(codes)))
    row, column = brightest(panel)
    (drawn,) = panel.boxes
    assert drawn.x < column < drawn.x + drawn.width
    assert drawn.y < row < drawn.y + drawn.height
    # The blob is 1.5 of 2 pixels and 2.5 of 4 pixels from one corner of the box, in any orientation.
    fractions = {abs(column - drawn.x) / drawn.width, abs(row - drawn.y) / drawn.height}
    assert fractions <= {0.75, 0.25, 0.625, 0.375}
    assert panel.mask is not None
    assert panel.mask[row, column] == 3


def test_box_is_on_its_own_slice_only() -> None:
    boxes = [FractureBox(1, 2, 3, 4, slice_number=104), FractureBox(5, 6, 7, 8, slice_number=999)]
    panels = slice_panels(volume(grid("IPL")), range(SHAPE[0]), boxes, None)
    assert [panel.title for panel in panels if panel.boxes] == ["slice 104"]


def test_both_file_orders_give_the_same_montage() -> None:
    head_first = volume(grid("IPL"))
    reversed_affine = head_first.grid.affine.copy()
    reversed_affine[:3, 3] = head_first.grid.to_mm((SHAPE[0] - 1, 0, 0))
    reversed_affine[:3, 0] *= -1
    assert head_first.file_numbers is not None
    foot_first = Volume(
        head_first.voxels[::-1], Grid(SHAPE, reversed_affine), file_numbers=head_first.file_numbers[::-1]
    )
    first, second = (slice_panels(v, choose_slices(v, [], None), [], None) for v in (head_first, foot_first))
    assert [a.title for a in first] == [b.title for b in second]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, second, strict=True))
    heights = [float(head_first.grid.to_mm((int(p.title.split()[1]) - 101, 0, 0))[2]) for p in first]
    assert heights == sorted(heights, reverse=True)


def neck(slices: int = 100) -> Volume:
    canonical = Grid.canonical((0, 0, 0), (slices, 4, 4), 1.0)
    return Volume(np.zeros(canonical.shape, np.int16), canonical, file_numbers=np.arange(slices))


def test_montage_begins_at_the_start_slice() -> None:
    assert choose_slices(neck(), [], None, start=60) == list(range(60, 60 - MONTAGE, -1))
    with pytest.raises(SourceNotFound, match="from 0 to 99"):
        choose_slices(neck(), [], None, start=100)


def test_montage_shows_as_many_slices_with_boxes_as_possible() -> None:
    boxes = [FractureBox(0, 0, 1, 1, number) for number in (10, 50, 52, 55, 60, 80)]
    chosen = choose_slices(neck(), boxes, None)
    assert {50, 52, 55, 60} <= set(chosen)
    assert abs((chosen[0] - 60) - (50 - chosen[-1])) <= 1  # centred on them


@pytest.mark.parametrize(
    ("lower", "upper", "expected"), [(50, 67, range(67, 49, -1)), (50, 68, range(77, 59, -1))]
)
def test_montage_has_room_for_18_slices(lower: int, upper: int, expected: range) -> None:
    """Boxes 17 slices apart are its first and last slice; of two that are 18 apart one is in its middle."""
    boxes = [FractureBox(0, 0, 1, 1, number) for number in (lower, upper)]
    assert choose_slices(neck(), boxes, None) == list(expected)


@pytest.mark.parametrize(("start", "first"), [(99, 99), (18, 18), (17, 17), (16, 17), (0, 17)])
def test_montage_at_the_foot_begins_earlier_to_show_18_slices(start: int, first: int) -> None:
    chosen = choose_slices(neck(), [], None, start=start)
    assert chosen == list(range(first, first - 18, -1))


def test_montage_without_boxes_is_centred_on_the_mask() -> None:
    labels = np.zeros((100, 4, 4), np.uint8)
    labels[20:31] = 1
    chosen = choose_slices(neck(), [], LabelMap(labels, neck().grid))
    assert abs(np.mean(chosen) - 25) <= 0.5
    assert abs(np.mean(choose_slices(neck(), [], None)) - 49.5) <= 1


def test_montage_of_a_short_series_shows_all_slices() -> None:
    assert choose_slices(neck(5), [], None) == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("codes", ["IPL", "SPL", "SAR", "PSL", "LIA"])
def test_reslices_are_oriented_as_radiologists_read_them(codes: str) -> None:
    left, posterior, superior = grid(codes).to_mm(BLOB) - (10, -20, 30)
    sagittal, coronal = reslice_panels(volume(grid(codes)), blob_mask(grid(codes)))
    assert (sagittal.edges, coronal.edges) == ("SIAP", "SIRL")
    np.testing.assert_allclose(mm_from_center(sagittal), (-superior, posterior), atol=1.01)
    np.testing.assert_allclose(mm_from_center(coronal), (-superior, left), atol=1.01)
    for panel in (sagittal, coronal):
        assert panel.mask is not None
        assert panel.mask[brightest(panel)] == 3


def test_reslices_of_a_tilted_series_are_not_sheared() -> None:
    """A rod along the patient's superior axis is vertical in the reslice, although stored slices shift it."""
    tilted = np.diag([2.0, 1.0, 1.0, 1.0])
    angle = np.radians(20)
    tilted[:3, :3] = np.transpose([(0, 0, 2), (0, np.cos(angle), -np.sin(angle)), (1, 0, 0)])
    tilted_grid = Grid((40, 61, 21), tilted)
    points = tilted_grid.to_mm(
        np.stack(np.meshgrid(*map(np.arange, tilted_grid.shape), indexing="ij"), axis=-1)
    )
    rod = np.linalg.norm(points[..., :2] - (10, 28), axis=-1) < 3
    sagittal, _ = reslice_panels(
        Volume((rod * 1000).astype(np.int16), tilted_grid), LabelMap(rod.astype(np.uint8), tilted_grid)
    )
    bright = sagittal.image > 500
    columns = [np.flatnonzero(row).mean() for row in bright if row.sum() >= 4]
    assert len(columns) > 50
    assert np.ptp(columns) <= 1


def test_uneven_slices_get_the_labels_at_their_own_heights() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[8] = 1  # the label map is evenly spaced: its slice 8 is at the height of slice 5 of the CT
    coordinates = np.array([0, 1, 2, 3, 4, 8, *range(9, 18), 18.2, 18.4, 18.6, 18.8, 19], np.float64)
    uneven = replace(volume(grid("SPL")), slice_coordinates=coordinates)
    panels = slice_panels(uneven, [4, 5, 6], [], LabelMap(labels, grid("SPL")))
    assert [panel.mask is not None and bool(panel.mask.all()) for panel in panels] == [False, True, False]


@pytest.mark.parametrize(
    ("z0", "z1", "crossed"), [(2.0, 5.0, True), (2.001, 5.0, False), (0.0, 2.0, True), (0.0, 1.999, False)]
)
def test_plane_shows_a_box_up_to_its_faces(z0: float, z1: float, crossed: bool) -> None:
    image = np.zeros((10, 20, 30), np.int16)
    boxes = np.array([[z0, 3, 4, z1, 7, 9]])
    *_, axial = block_panels(image, image.astype(np.uint8), 0.5, (2, 5, 25), [boxes])
    assert [(b.x, b.y, b.width, b.height) for b in axial.boxes] == ([(4, 3, 5, 4)] if crossed else [])


def test_block_planes_show_the_boxes_they_cross() -> None:
    image = np.zeros((10, 20, 30), np.int16)
    image[2, 5, 25] = 1000  # low, anterior, left
    boxes = np.array([[1.5, 3, 24, 2.5, 7, 27], [2.5, 3, 23, 3.5, 8, 26], [6, 0, 0, 7, 2, 2]])
    sagittal, coronal, axial = block_panels(image, image.astype(np.uint8), 0.5, (2, 5, 25), [boxes])
    assert [brightest(p) for p in (sagittal, coronal, axial)] == [(7, 5), (7, 25), (5, 25)]
    # One box encloses the two that the plane crosses; rows count from the top, z from the bottom.
    assert [(b.x, b.y, b.width, b.height) for b in sagittal.boxes] == [(3, 5.5, 5, 2)]
    assert [(b.x, b.y, b.width, b.height) for b in coronal.boxes] == [(23, 5.5, 4, 2)]
    assert [(b.x, b.y, b.width, b.height) for b in axial.boxes] == [(24, 3, 3, 4)]
