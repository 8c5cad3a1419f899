"""PNG files are read back, and their pixels compared with the expected ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing

from spine_etl.report.drawing import Layout, Style, color_of, draw
from spine_etl.report.panels import Panel, PanelBox
from spine_etl.windows import BONE, SOFT_TISSUE, Window
from tests.report.conftest import BOX_COLOR, cell_pixels, has_color


def panel(image_hu: int = -1000, **fields: object) -> Panel:
    image = np.full((40, 60), image_hu, np.int16)
    return Panel(**{"title": "p", "image": image, "mask": None, "pixel_mm": (1, 1), "edges": "APRL"} | fields)  # type: ignore[arg-type]


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


@pytest.mark.parametrize(
    ("window", "values"),
    [
        (BONE, [-501, -500, -493, 399, 400, 1292, 1299, 1300]),
        (SOFT_TISSUE, [-161, -160, -158, 39, 40, 237, 239, 240]),
        (Window("narrow", 100, 51), [74, 75, 76, 99, 100, 123, 124, 125]),
        (Window("threshold", 40, 1), [-1000, 38, 39, 40, 41, 1000]),
    ],
)
def test_grey_is_that_of_pydicom_at_both_ends_and_in_the_middle(
    window: Window, values: list[int], tmp_path: Path
) -> None:
    """DICOM PS3.3 C.11.2.1.2.1, as pydicom implements it, to within one of 255 grey levels."""
    cells: list[Panel | str] = [panel(hu) for hu in values]
    draw(tmp_path / "x.png", cells, 4, Style("t", window), inches_wide=9.0)
    picture = imread(tmp_path / "x.png")
    grey = [float(np.median(cell_pixels(picture, cells, 4, index))) for index in range(len(values))]
    header = Dataset()
    header.PhotometricInterpretation, header.BitsStored, header.PixelRepresentation = "MONOCHROME2", 8, 0
    header.WindowCenter, header.WindowWidth = window.center, window.width
    expected = apply_windowing(np.array(values, np.float64), header)
    np.testing.assert_allclose(np.multiply(grey, 255), expected, atol=1.01)
    assert (grey[0], grey[-1]) == (0, 1)


@pytest.mark.parametrize(("position", "down", "right"), [(0, 0, 0.5), (1, 1, 0.5), (2, 0.5, 0), (3, 0.5, 1)])
def test_edge_letters_are_at_top_bottom_left_and_right(
    position: int, down: float, right: float, tmp_path: Path
) -> None:
    cells: list[Panel | str] = [panel(edges="    ")]
    draw(tmp_path / "blank.png", cells, 1, Style("t"), inches_wide=9.0)
    letters = [" "] * 4
    letters[position] = "H"
    draw(tmp_path / "letter.png", [panel(edges="".join(letters))], 1, Style("t"), inches_wide=9.0)
    blank, letter = (
        cell_pixels(imread(tmp_path / name), cells, 1, 0) for name in ("blank.png", "letter.png")
    )
    changed = np.argwhere(np.abs(blank - letter).max(axis=2) > 0.5)
    middle = changed.mean(axis=0) / blank.shape[:2]
    np.testing.assert_allclose(middle, (down, right), atol=0.05)


def test_sliver_of_a_label_gets_no_name(tmp_path: Path) -> None:
    """From 40 pixels on a label has its name at its centroid."""
    drawn = []
    for pixels in (39, 40):
        mask = np.zeros((40, 60), np.uint8)
        mask[18:22, 25:35] = 3
        mask[18, 25 : 25 + 40 - pixels] = 0
        style = {name: Style("t", names={3: name}, mask="outlined") for name in ("i", "MMMMM")}
        for name in style:
            draw(tmp_path / f"{name}.png", [panel(mask=mask)], 1, style[name], inches_wide=9.0)
        cells: list[Panel | str] = [panel()]
        short, long = (cell_pixels(imread(tmp_path / f"{name}.png"), cells, 1, 0) for name in style)
        drawn.append(np.argwhere(np.abs(short - long).max(axis=2) > 0.5) / short.shape[:2])
    assert len(drawn[0]) == 0
    # The middle of rows 18 to 21 and columns 25 to 34, half a pixel from the picture's edge.
    np.testing.assert_allclose(
        (drawn[1].min(axis=0) + drawn[1].max(axis=0)) / 2, (20 / 40, 30 / 60), atol=0.02
    )


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
