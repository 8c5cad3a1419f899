"""Pictures: read back from their files, what was drawn lies where it should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from spine_etl.errors import HeaderInvalid, StudyNotInStore
from spine_etl.geometry import Grid
from spine_etl.recipe import Block, Recipe
from spine_etl.report.drawing import BONE, Style, Window, _Layout, color_of, draw, header_window
from spine_etl.report.panels import Panel, PanelBox
from spine_etl.report.pictures import draw_stored, draw_study
from spine_etl.source.layout import Study
from spine_etl.store import Store
from spine_etl.store.record import BoxRecord, LevelRecord, Record
from spine_etl.store.schema import row_arrays
from spine_etl.store.writer import StoreWriter
from spine_etl.volume import FractureBox, LabelMap, Volume

Picture = npt.NDArray[np.float32]
BOX_COLOR = to_rgb("#FF3EA5")


def panel(image_hu: int = -1000, **more: object) -> Panel:
    image = np.full((40, 60), image_hu, np.int16)
    return Panel(**{"title": "p", "image": image, "mask": None, "pixel_mm": (1, 1), "edges": "APRL"} | more)  # type: ignore[arg-type]


def cell(picture: Picture, cells: list[Panel | str], columns: int, place: int) -> Picture:
    """The part of a picture that a cell takes up."""
    left, bottom, width, height = _Layout(cells, columns, 9.0).rectangle(place)
    high, wide = picture.shape[:2]
    rows = slice(round((1 - bottom - height) * high), round((1 - bottom) * high))
    return picture[rows, round(left * wide) : round((left + width) * wide), :3]


def near(picture: Picture, color: tuple[float, float, float]) -> npt.NDArray[np.bool_]:
    return np.abs(picture[..., :3] - color).max(axis=-1) < 0.12


def test_a_box_is_drawn_on_its_panel_at_its_pixels(tmp_path: Path) -> None:
    cells: list[Panel | str] = [panel(), panel(boxes=(PanelBox(10, 20, 30, 12),)), "nothing here", panel()]
    draw(tmp_path / "x.png", cells, 2, Style("t"), inches_wide=9.0)
    picture = imread(tmp_path / "x.png")
    drawn = [near(cell(picture, cells, 2, place), BOX_COLOR) for place in range(4)]
    assert [bool(pixels.any()) for pixels in drawn] == [False, True, False, False]
    rows, columns = np.nonzero(drawn[1])
    down, across = drawn[1].shape[0] / 40, drawn[1].shape[1] / 60
    ends = [rows.min() / down, rows.max() / down, columns.min() / across, columns.max() / across]
    np.testing.assert_allclose(np.array(ends) - 0.5, [20, 32, 10, 40], atol=0.6)


def test_panels_share_one_scale() -> None:
    wide, tall = panel(), panel(image=np.zeros((90, 30), np.int16), pixel_mm=(2, 1))
    layout = _Layout([wide, tall], 2, 9.0)
    inches = [np.multiply(layout.rectangle(place)[2:], layout.inches) for place in (0, 1)]
    assert inches[0][0] / inches[1][0] == pytest.approx(60 / 30)  # mm across
    assert inches[1][1] / inches[1][0] == pytest.approx(180 / 30)  # the row is as high as its tallest


def test_windows_map_hu_to_grey(tmp_path: Path) -> None:
    levels = [-200, 100, 850, 3000]
    cells: list[Panel | str] = [panel(hu) for hu in levels]
    draw(tmp_path / "x.png", cells, 2, Style("t", BONE), inches_wide=9.0)
    picture = imread(tmp_path / "x.png")
    grey = [float(np.median(cell(picture, cells, 2, place))) for place in range(4)]
    # DICOM PS3.3 C.11.2.1.2.1 for level 400 and width 1800
    expected = [np.clip((hu - 399.5) / 1799 + 0.5, 0, 1) for hu in levels]
    np.testing.assert_allclose(grey, expected, atol=0.01)


def test_labels_lie_over_their_pixels_in_their_colours(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[5:35, 5:25], mask[5:35, 35:55] = 3, 4
    cells: list[Panel | str] = [panel(mask=mask)]
    draw(tmp_path / "x.png", cells, 1, Style("t", names={3: "C3"}, mask="filled"), inches_wide=9.0)
    picture = cell(imread(tmp_path / "x.png"), cells, 1, 0)
    high, wide = picture.shape[:2]
    for label, column in ((3, 15), (4, 45)):
        # 45 % of the label's colour over black
        shown = picture[round(high * 20.5 / 40), round(wide * (column + 0.5) / 60)]
        np.testing.assert_allclose(shown, 0.45 * np.array(to_rgb(color_of(label))), atol=0.02)


# Linear RGB as those see it who lack the red or the green cones: Viénot, Brettel and Mollon (1999).
PROTAN = [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]
DEUTAN = [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]


@pytest.mark.parametrize("sight", [np.eye(3), PROTAN, DEUTAN], ids=["all", "protan", "deutan"])
def test_neighbouring_levels_differ_for_every_eye(sight: npt.ArrayLike) -> None:
    linear = np.array([to_rgb(color_of(label)) for label in range(1, 20)]) ** 2.2
    seen = np.clip(linear @ np.transpose(sight), 0, 1) ** (1 / 2.2)
    assert np.linalg.norm(np.diff(seen, axis=0), axis=1).min() > 0.4


def small_study(with_mask: bool) -> tuple[Study, Volume, LabelMap | None]:
    where = Grid.canonical((0, 0, 0), (6, 32, 32), 1.0)
    volume = Volume(
        np.zeros(where.shape, np.int16), where, file_numbers=np.arange(9, 15),
        facts={"window_center": [40.0, 450.0], "window_width": [350.0, 1500.0]},
    )  # fmt: skip
    labels = np.zeros(where.shape, np.uint8)
    labels[2:4, 10:20, 10:20] = 2
    study = Study("1.2.3", Path("none"), boxes=(FractureBox(4, 4, 8, 8, 12),))
    return study, volume, LabelMap(labels, where) if with_mask else None


def test_a_study_gets_its_montage_mask_and_reslices(tmp_path: Path) -> None:
    pictures = draw_study(tmp_path, *small_study(with_mask=True), names={2: "C2"})
    assert [path.name for path in pictures] == ["1.2.3_slices.png", "1.2.3_mask.png", "1.2.3_reslices.png"]
    montage = imread(pictures[0])
    assert near(montage, BOX_COLOR).any()
    assert not near(montage, to_rgb(color_of(2))).any()
    assert near(imread(pictures[1]), to_rgb(color_of(2))).any()


def test_a_study_without_a_mask_gets_no_picture_of_it(tmp_path: Path) -> None:
    pictures = draw_study(tmp_path, *small_study(with_mask=False), names={})
    assert [path.name for path in pictures] == ["1.2.3_slices.png", "1.2.3_reslices.png"]


def test_the_window_of_the_header_is_its_first() -> None:
    _, volume, _ = small_study(with_mask=False)
    assert header_window(volume) == Window("header's", 40, 350)
    with pytest.raises(HeaderInvalid, match="WindowCenter"):
        header_window(Volume(volume.voxels, volume.grid))


RECIPE = Recipe(
    name="tiny",
    levels={"C1": 1, "C2": 2, "C3": 3},
    crop=Block(spacing_mm=1.0, shape=(16, 24, 32)),
    overview=Block(spacing_mm=4.0, shape=(16, 16, 16)),
)


@pytest.fixture
def stored(tmp_path: Path) -> Store:
    """A study whose C1 has a crop with a box and whose C2 its mask does not show, and one without a mask."""
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
    none = LevelRecord(status="absent" if masked else "unlocated")
    box = BoxRecord(
        x=1, y=1, width=2, height=2, slice_number=3, level="C1", in_crops={"C1": (7, 9, 12, 8, 14, 20)}
    )
    return Record(
        uid=uid, fingerprint=RECIPE.fingerprint, source_digest="0" * 64, row=row, digests=digests,
        mask_source="given" if masked else "none",
        levels={"C1": located if masked else none, "C2": none, "C3": none},
        fracture={"C1": 1, "patient_overall": 1}, boxes=(box,) if masked else (),
    )  # fmt: skip


def test_a_stored_study_shows_its_crops_with_mask_and_box(
    stored: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _record_draw(monkeypatch)
    crops, overview = draw_stored(tmp_path, stored, "1.2.3")
    assert (crops.name, overview.name) == ("1.2.3_crops.png", "1.2.3_overview.png")
    cells = seen[0]
    sagittal, absent = cells[0], cells[1]
    assert isinstance(sagittal, Panel)
    assert sagittal.title == "C1: fractured, 75.0% covered\nsagittal"
    assert isinstance(absent, str)
    assert absent.startswith("C2\nabsent")
    axial = cells[6]
    assert isinstance(axial, Panel)
    assert [(b.x, b.y, b.width, b.height) for b in axial.boxes] == [(12, 9, 8, 5)]
    assert near(imread(crops), to_rgb(color_of(1))).any()


def test_a_level_that_is_not_located_is_said_to_be_so(
    stored: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _record_draw(monkeypatch)
    draw_stored(tmp_path, stored, "1.2.4")
    assert seen[0] == [f"{level}\nnot located:\nno segmentation" for level in ("C1", "C2", "C3")]


def test_a_study_that_is_not_stored_is_refused(stored: Store, tmp_path: Path) -> None:
    with pytest.raises(StudyNotInStore):
        draw_stored(tmp_path, stored, "9.9")


def _record_draw(monkeypatch: pytest.MonkeyPatch) -> list[list[Panel | str]]:
    seen: list[list[Panel | str]] = []

    def recording(path: Path, cells: list[Panel | str], *rest: object, **more: object) -> None:
        seen.append(cells)
        real(path, cells, *rest, **more)

    real: Callable[..., None] = draw
    monkeypatch.setattr("spine_etl.report.pictures.draw", recording)
    return seen
