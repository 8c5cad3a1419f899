"""The pictures of a study: the files written and their contents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from spine_etl.errors import StudyNotInStore
from spine_etl.geometry import Grid
from spine_etl.recipe import Block, Recipe
from spine_etl.report.drawing import color_of, draw
from spine_etl.report.panels import Panel
from spine_etl.report.pictures import draw_stored, draw_study
from spine_etl.source.layout import Study
from spine_etl.store import Store
from spine_etl.store.record import BoxRecord, LevelRecord, Record
from spine_etl.store.schema import row_arrays
from spine_etl.store.writer import StoreWriter
from spine_etl.volume import FractureBox, LabelMap, Volume
from tests.report.conftest import BOX_COLOR, has_color


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
    row, digests = writer.write_row(0, voxels)
    located = LevelRecord(status="located", origin_mm=(0, 0, 0), coverage=0.75, volume_mm3=1.0)
    missing = LevelRecord(status="absent" if masked else "unlocated")
    box = BoxRecord(
        x=1, y=1, width=2, height=2, slice_number=3, level="C1", in_crops={"C1": (7, 9, 12, 8, 14, 20)}
    )
    return Record(
        uid=uid, fingerprint=RECIPE.fingerprint, source_digest="0" * 64, row=row, digests=digests,
        mask_source="given" if masked else "none",
        levels={"C1": located if masked else missing, "C2": missing, "C3": missing},
        fracture={"C1": 1, "patient_overall": 1}, boxes=(box,) if masked else (),
    )  # fmt: skip


@pytest.fixture
def drawn_cells(monkeypatch: pytest.MonkeyPatch) -> list[list[Panel | str]]:
    """The cells of each picture, in the order of drawing."""
    cells_of_pictures: list[list[Panel | str]] = []

    def record_and_draw(path: Path, cells: list[Panel | str], *args: object, **kwargs: object) -> None:
        cells_of_pictures.append(cells)
        original(path, cells, *args, **kwargs)

    original: Callable[..., None] = draw
    monkeypatch.setattr("spine_etl.report.pictures.draw", record_and_draw)
    return cells_of_pictures


def test_stored_study_shows_its_crops_with_mask_and_box(
    stored: Store, tmp_path: Path, drawn_cells: list[list[Panel | str]]
) -> None:
    crops, overview = draw_stored(tmp_path, stored, "1.2.3")
    assert (crops.name, overview.name) == ("1.2.3_crops.png", "1.2.3_overview.png")
    cells = drawn_cells[0]
    sagittal, absent = cells[0], cells[1]
    assert isinstance(sagittal, Panel)
    assert sagittal.title == "C1: fractured, 75.0% covered\nsagittal"
    assert isinstance(absent, str)
    assert absent.startswith("C2\nabsent")
    axial = cells[6]
    assert isinstance(axial, Panel)
    assert [(b.x, b.y, b.width, b.height) for b in axial.boxes] == [(12, 9, 8, 5)]
    assert has_color(imread(crops), to_rgb(color_of(1))).any()


def test_unlocated_levels_are_shown_as_text(
    stored: Store, tmp_path: Path, drawn_cells: list[list[Panel | str]]
) -> None:
    draw_stored(tmp_path, stored, "1.2.4")
    assert drawn_cells[0] == [f"{level}\nnot located:\nno segmentation" for level in ("C1", "C2", "C3")]


def test_absent_study_is_refused(stored: Store, tmp_path: Path) -> None:
    with pytest.raises(StudyNotInStore):
        draw_stored(tmp_path, stored, "9.9")
