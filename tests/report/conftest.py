"""Helpers that read drawn pictures back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_rgb

from spine_etl.report.drawing import Layout
from spine_etl.report.panels import Panel

Picture = npt.NDArray[np.float32]
BOX_COLOR = to_rgb("#FF3EA5")


def has_color(picture: Picture, color: tuple[float, float, float]) -> npt.NDArray[np.bool_]:
    """(rows, columns): True for pixels of this colour, within 0.12 per channel."""
    return np.abs(picture[..., :3] - color).max(axis=-1) < 0.12


def cell_pixels(
    picture: Picture, cells: list[Panel | str], columns: int, index: int, inches_wide: float = 9.0
) -> Picture:
    """The part of a picture that shows one cell."""
    left, bottom, width, height = Layout(cells, columns, inches_wide).rectangle(index)
    picture_height, picture_width = picture.shape[:2]
    rows = slice(round((1 - bottom - height) * picture_height), round((1 - bottom) * picture_height))
    return picture[rows, round(left * picture_width) : round((left + width) * picture_width), :3]
