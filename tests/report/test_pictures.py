"""The pictures of a study: the files written and their contents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from spine_etl.errors import StudyNotInStore
from spine_etl.geometry import Grid
from spine_etl.recipe import Block, Recipe
from spine_etl.report.drawing import color_of
from spine_etl.report.panels import Panel
from spine_etl.report.pictures import draw_stored, draw_study, level_cells, overview_panels
from spine_etl.source.layout import Study
from spine_etl.store import Store
from spine_etl.store.arrays import row_arrays
from spine_etl.store.record import BoxRecord, LevelRecord, Record
from spine_etl.store.writer import StoreWriter
from spine_etl.volume import FractureBox, LabelMap, Volume
from tests.report.conftest import BOX_COLOR, Picture, cell_pixels, has_color


def small_study(with_mask: bool) -> tuple[Study, Volume, LabelMap | None]:
    grid = Grid.canonical((0, 0, 0), (6, 32, 32), 1.0)
    volume = Volume(np.zeros(grid.shape, np.int16), grid, file_numbers=np.arange(9, 15))
    labels = np.zeros(grid.shape, np.uint8)
    labels[2:4, 10:20, 10:20] = 2
    study = Study("1.2.3", Path("none"), boxes=(FractureBox(4, 4, 8, 8, 12),))
    return study, volume, LabelMap(labels, grid) if with_mask else None


def test_study_with_mask_gets_slices_mask_and_reslices(tmp_path: Path) -> None:
    pictures = draw_study(tmp_path, *small_study(with_mask=True), names={2: "C2"})
    assert [path.name for path in pictures] == ["1.2.3_slices.png", "1.2.3_mask.png", "1.2.3_reslices.png"]
    slices = imread(pictures[0])
    assert has_color(slices, BOX_COLOR).any()
    assert not has_color(slices, to_rgb(color_of(2))).any()
    assert has_color(imread(pictures[1]), to_rgb(color_of(2))).any()


def test_study_without_mask_gets_slices_and_reslices(tmp_path: Path) -> None:
    pictures = draw_study(tmp_path, *small_study(with_mask=False), names={})
    assert [path.name for path in pictures] == ["1.2.3_slices.png", "1.2.3_reslices.png"]


MARKERS = {
    "SPL": (slice(4, 6), slice(0, 3), slice(5, 8)),
    "IAR": (slice(0, 2), slice(5, 8), slice(0, 3)),
}
"""By axis codes: the voxels (z, y, x) at the patient's upper, anterior, left corner of 6 x 8 x 8."""


@pytest.mark.parametrize("codes", MARKERS)
def test_corner_of_the_patient_is_at_its_corner_of_the_pictures(codes: str, tmp_path: Path) -> None:
    """Anterior and head are up, the patient's left is on the right; in sagittal planes anterior is left."""
    grid = Grid.canonical((0, 0, 0), (6, 8, 8), 1.0)
    if codes == "IAR":
        affine = grid.affine * [-1, -1, -1, 1]
        affine[:3, 3] = grid.to_mm((5, 7, 7))
        grid = Grid(grid.shape, affine)
    assert grid.axis_codes == codes
    voxels, labels = np.full(grid.shape, -1000, np.int16), np.zeros(grid.shape, np.uint8)
    voxels[MARKERS[codes]], labels[MARKERS[codes]] = 2000, 2
    numbers = np.arange(1, 7) if codes == "IAR" else np.arange(6, 0, -1)  # file 1 is at the head
    volume = Volume(voxels, grid, file_numbers=numbers)
    study = Study("1.2.3", Path("none"))
    draw_study(tmp_path, study, volume, LabelMap(labels, grid), names={2: "C2"}, start=1)
    cells: list[Panel | str] = [Panel("slice", np.zeros((8, 8)), None, (1, 1), "")] * 6
    first, *_, last = (
        cell_pixels(imread(tmp_path / "1.2.3_slices.png"), cells, 6, index, 18.0) for index in range(6)
    )
    assert brightest_quadrant(first) == ("top", "right")
    assert last.mean() < 0.1  # the marker ends at the second slice
    cells = [Panel("plane", np.zeros((6, 8)), None, (1, 1), "")] * 2
    sagittal, coronal = (
        cell_pixels(imread(tmp_path / "1.2.3_reslices.png"), cells, 2, index, 14.0) for index in range(2)
    )
    assert brightest_quadrant(sagittal) == ("top", "left")
    assert brightest_quadrant(coronal) == ("top", "right")


def brightest_quadrant(pixels: Picture) -> tuple[str, str]:
    """The quadrant of a panel that contains its white pixels; the others have letters at most."""
    white = pixels.min(axis=2) > 0.9
    height, width = (n // 2 for n in white.shape)
    shares = {
        (down, right): white[rows, columns].mean()
        for down, rows in (("top", slice(height)), ("bottom", slice(height, None)))
        for right, columns in (("left", slice(width)), ("right", slice(width, None)))
    }
    *others, largest = sorted(shares.values())
    assert max(others) < 0.02 < 0.1 < largest
    return max(shares, key=lambda quadrant: shares[quadrant])


RECIPE = Recipe(
    name="tiny",
    levels={"C1": 1, "C2": 2, "C3": 3},
    crop=Block(spacing_mm=1.0, shape=(16, 24, 32)),
    overview=Block(spacing_mm=4.0, shape=(16, 16, 16)),
)


@pytest.fixture
def stored(tmp_path: Path) -> Store:
    """Two studies: one with a crop and a box of C1 and without C2 and C3 in its mask; one without a mask."""
    writer = StoreWriter(tmp_path / "store", RECIPE)
    records = [_stored_record(writer, "1.2.3", True), _stored_record(writer, "1.2.4", False)]
    return writer.commit(records)


def _stored_record(writer: StoreWriter, uid: str, masked: bool) -> Record:
    voxels = {
        name: np.full(array.row_shape, array.fill, array.dtype) for name, array in row_arrays(RECIPE).items()
    }
    voxels["mask"][0, 6:10, 8:16, 10:22] = 1 if masked else 0
    row, objects = writer.write_row(0, voxels)
    located = LevelRecord(status="located", origin_mm=(0, 0, 0), coverage=0.75, volume_mm3=1.0)
    missing = LevelRecord(status="absent" if masked else "unlocated")
    box = BoxRecord(
        x=1, y=1, width=2, height=2, slice_number=3, level="C1", in_crops={"C1": (7, 9, 12, 8, 14, 20)}
    )
    return Record(
        uid=uid, fingerprint=RECIPE.fingerprint, source_digest="0" * 64, row=row, objects=objects,
        mask_source="given" if masked else "none",
        levels={"C1": located if masked else missing, "C2": missing, "C3": missing},
        fracture={"C1": 1, "patient_overall": 1}, boxes=(box,) if masked else (),
    )  # fmt: skip


def test_stored_study_shows_its_crops_with_mask_and_box(stored: Store, tmp_path: Path) -> None:
    crops, overview = draw_stored(tmp_path, stored, "1.2.3")
    assert (crops.name, overview.name) == ("1.2.3_crops.png", "1.2.3_overview.png")
    (sagittal, _, axial), *absent = level_cells(stored, 0)
    assert isinstance(sagittal, Panel)
    assert sagittal.title == "C1: fractured, 75.0% covered\nsagittal"
    assert absent == [[f"{level}\nabsent from\nthe segmentation"] for level in ("C2", "C3")]
    assert isinstance(axial, Panel)
    assert [(b.x, b.y, b.width, b.height) for b in axial.boxes] == [(12, 9, 8, 5)]
    assert has_color(imread(crops), to_rgb(color_of(1))).any()


def test_unlocated_levels_are_shown_as_text(stored: Store) -> None:
    expected = [[f"{level}\nnot located:\nno segmentation"] for level in ("C1", "C2", "C3")]
    assert level_cells(stored, 1) == expected


def test_planes_of_a_crop_are_those_of_its_median_box(tmp_path: Path) -> None:
    """HU are 100 z + y: the axial plane shows z, the coronal plane y. The boxes are at z = 5, 6 and 12."""
    store = one_study(tmp_path, coverage=1.0, boxes=[(z - 1, 2, 2, z + 1, 9, 9) for z in (12, 5, 6)])
    _, coronal, axial = cells = level_cells(store, 0)[0]
    assert [isinstance(cell, Panel) for cell in cells] == [True] * 3
    assert isinstance(axial, Panel)
    assert isinstance(coronal, Panel)
    np.testing.assert_array_equal(axial.image[:, 0], 600 + np.arange(24))
    np.testing.assert_array_equal(coronal.image[:, 0], 100 * np.arange(15, -1, -1) + 12)  # head at the top
    middle = level_cells(one_study(tmp_path / "middle", coverage=1.0, boxes=[]), 0)[0][2]
    assert isinstance(middle, Panel)
    assert middle.image[0, 0] == 800  # of 16 planes


def test_coverage_below_99_95_percent_is_in_the_title(tmp_path: Path) -> None:
    titles = []
    for coverage in (0.9994, 0.9996):
        store = one_study(tmp_path / str(coverage), coverage=coverage, boxes=[])
        cell = level_cells(store, 0)[0][0]
        assert isinstance(cell, Panel)
        titles.append(cell.title)
    assert titles == ["C1: label unknown, 99.9% covered\nsagittal", "C1: label unknown\nsagittal"]


def test_overview_is_cut_through_the_middle_of_its_mask(tmp_path: Path) -> None:
    """The mask is the voxels 9 to 11 along y and 3 to 6 along x; HU are 100 y + x."""
    sagittal, coronal = overview_panels(one_study(tmp_path, coverage=1.0, boxes=[]), 0)
    np.testing.assert_array_equal(coronal.image[0], 1000 + np.arange(16))
    np.testing.assert_array_equal(sagittal.image[0], 100 * np.arange(16) + 4)  # 4.5 is rounded to even


def one_study(folder: Path, coverage: float, boxes: list[tuple[float, ...]]) -> Store:
    """A store of one study with a crop of C1."""
    writer = StoreWriter(folder / "store", RECIPE)
    z, y, _ = np.indices((16, 24, 32))
    rows, columns = np.indices((16, 16))
    image = np.stack([100 * z + y] * 3).astype(np.int16)
    overview = np.broadcast_to(100 * rows + columns, (16, 16, 16)).astype(np.int16)
    overview_mask = np.zeros((16, 16, 16), np.uint8)
    overview_mask[2:4, 9:12, 3:7] = 1
    mask = np.zeros(image.shape, np.uint8)
    voxels = {"image": image, "mask": mask, "overview/image": overview, "overview/mask": overview_mask}
    row, objects = writer.write_row(0, voxels)
    located = LevelRecord(status="located", origin_mm=(0, 0, 0), coverage=coverage, volume_mm3=1.0)
    absent = LevelRecord(status="absent")
    records = [
        BoxRecord(x=1, y=1, width=2, height=2, slice_number=3, level="C1", in_crops={"C1": box})
        for box in boxes
    ]
    record = Record(
        uid="1.2.3", fingerprint=RECIPE.fingerprint, source_digest="0" * 64, row=row, objects=objects,
        mask_source="given", levels={"C1": located, "C2": absent, "C3": absent}, boxes=tuple(records),
    )  # fmt: skip
    return writer.commit([record])


def test_absent_study_is_refused(stored: Store, tmp_path: Path) -> None:
    with pytest.raises(StudyNotInStore):
        draw_stored(tmp_path, stored, "9.9")
