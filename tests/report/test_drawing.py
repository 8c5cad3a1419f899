"""PNG files are read back, and their pixels compared with the expected ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from spine_etl.report.drawing import Layout, Style, color_of, draw
from spine_etl.report.panels import Panel, PanelBox
from spine_etl.windows import BONE
from tests.report.conftest import BOX_COLOR, Picture, has_color


def panel(image_hu: int = -1000, **fields: object) -> Panel:
    image = np.full((40, 60), image_hu, np.int16)
    return Panel(**{"title": "p", "image": image, "mask": None, "pixel_mm": (1, 1), "edges": "APRL"} | fields)  # type: ignore[arg-type]


def cell_pixels(picture: Picture, cells: list[Panel | str], columns: int, index: int) -> Picture:
    """The part of a picture that shows one cell."""
    left, bottom, width, height = Layout(cells, columns, 9.0).rectangle(index)
    picture_height, picture_width = picture.shape[:2]
    rows = slice(round((1 - bottom - height) * picture_height), round((1 - bottom) * picture_height))
    return picture[rows, round(left * picture_width) : round((left + width) * picture_width), :3]


def test_box_is_drawn_on_its_panel_at_its_pixels(tmp_path: Path) -> None:
    cells: list[Panel | str] = [panel(), panel(boxes=(PanelBox(10, 20, 30, 12),)), "nothing here", panel()]
    draw(tmp_path / "x.png", cells, 2, Style("t"), inches_wide=9.0)
    picture = imread(tmp_path / "x.png")
    drawn = [has_color(cell_pixels(picture, cells, 2, index), BOX_COLOR) for index in range(4)]
    assert [bool(pixels.any()) for pixels in drawn] == [False, True, False, False]
    rows, columns = np.nonzero(drawn[1])
    row_height, column_width = drawn[1].shape[0] / 40, drawn[1].shape[1] / 60
    edges = [
        rows.min() / row_height,
        rows.max() / row_height,
        columns.min() / column_width,
        columns.max() / column_width,
    ]
    np.testing.assert_allclose(np.array(edges) - 0.5, [20, 32, 10, 40], atol=0.6)


def test_panels_share_one_scale() -> None:
    wide, tall = panel(), panel(image=np.zeros((90, 30), np.int16), pixel_mm=(2, 1))
    layout = Layout([wide, tall], 2, 9.0)
    inches = [np.multiply(layout.rectangle(index)[2:], layout.inches) for index in (0, 1)]
    assert inches[0][0] / inches[1][0] == pytest.approx(60 / 30)  # widths in mm
    assert inches[1][1] / inches[1][0] == pytest.approx(180 / 30)  # the row fits its tallest panel


def test_window_maps_hu_to_grey(tmp_path: Path) -> None:
    values = [-200, 100, 850, 3000]
    cells: list[Panel | str] = [panel(hu) for hu in values]
    draw(tmp_path / "x.png", cells, 2, Style("t", BONE), inches_wide=9.0)
    picture = imread(tmp_path / "x.png")
    grey = [float(np.median(cell_pixels(picture, cells, 2, index))) for index in range(4)]
    # DICOM PS3.3 C.11.2.1.2.1 for center 400 and width 1800
    expected = [np.clip((hu - 399.5) / 1799 + 0.5, 0, 1) for hu in values]
    np.testing.assert_allclose(grey, expected, atol=0.01)


def test_labels_cover_their_pixels_in_their_colors(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[5:35, 5:25], mask[5:35, 35:55] = 3, 4
    cells: list[Panel | str] = [panel(mask=mask)]
    draw(tmp_path / "x.png", cells, 1, Style("t", names={3: "C3"}, mask="filled"), inches_wide=9.0)
    picture = cell_pixels(imread(tmp_path / "x.png"), cells, 1, 0)
    height, width = picture.shape[:2]
    for label, column in ((3, 15), (4, 45)):
        # 45 % of the label's colour over black
        pixel = picture[round(height * 20.5 / 40), round(width * (column + 0.5) / 60)]
        np.testing.assert_allclose(pixel, 0.45 * np.array(to_rgb(color_of(label))), atol=0.02)


# Linear RGB as seen without red cones and without green cones: Viénot, Brettel and Mollon (1999).
PROTANOPIA = [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]
DEUTERANOPIA = [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]


@pytest.mark.parametrize(
    "vision", [np.eye(3), PROTANOPIA, DEUTERANOPIA], ids=["normal", "protanopia", "deuteranopia"]
)
def test_neighbouring_levels_differ_in_color(vision: npt.ArrayLike) -> None:
    linear = np.array([to_rgb(color_of(label)) for label in range(1, 20)]) ** 2.2
    perceived = np.clip(linear @ np.transpose(vision), 0, 1) ** (1 / 2.2)
    assert np.linalg.norm(np.diff(perceived, axis=0), axis=1).min() > 0.4
