"""Draw panels into a PNG: HU through a window on a dark background, labels in colour-blind-safe colours.

Pictures contain no free text from a DICOM header; a study is identified by its UID.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from spine_etl.report.panels import Panel, PanelBox
from spine_etl.windows import BONE, Window

# Okabe and Ito, "Color Universal Design" (2008), without black. The order maximises the contrast between
# neighbouring levels, for normal colour vision and for protanopia and deuteranopia.
_COLORS = ("#E69F00", "#CC79A7", "#D55E00", "#56B4E9", "#009E73", "#F0E442", "#0072B2")
_BOX_COLOR = "#FF3EA5"
_BACKGROUND, _FOREGROUND = "#101010", "#F2F2F2"
_DPI = 110
_MIN_NAMED_PIXELS = 40  # smaller areas are slivers of a neighbouring level and get no name
_COLUMN_GAP, _LINE_HEIGHT, _HEADER_HEIGHT, _FOOTER_HEIGHT = 0.06, 0.19, 0.55, 0.4  # inches


@dataclass(frozen=True)
class Style:
    """How a picture is drawn: title, window, label names, and how the masks are shown."""

    title: str
    window: Window = BONE
    names: Mapping[int, str] | None = None
    mask: Literal["none", "filled", "outlined"] = "none"


def draw(
    path: str | Path, cells: Sequence[Panel | str], columns: int, style: Style, inches_wide: float = 18.0
) -> None:
    """Write cells as a PNG, ``columns`` to a row, all panels at the same scale.

    A cell is a panel, or a text that is shown in place of one.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    layout = Layout(cells, columns, inches_wide)
    figure = Figure(figsize=layout.inches, facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    for index, cell in enumerate(cells):
        ax = figure.add_axes(layout.rectangle(index))
        ax.set_axis_off()
        _draw_cell(ax, cell, style)
    figure.text(0.5, 1 - 0.12 / layout.inches[1], f"{style.title}\n{style.window}",
                color=_FOREGROUND, fontsize=13, ha="center", va="top")  # fmt: skip
    _draw_legend(figure, [cell for cell in cells if isinstance(cell, Panel)], style)
    figure.savefig(path, dpi=_DPI)


class Layout:
    """Position and size of each cell in a figure; columns and rows fit their largest panel."""

    def __init__(self, cells: Sequence[Panel | str], columns: int, inches_wide: float) -> None:
        rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
        sizes = np.array([cell.size_mm if isinstance(cell, Panel) else (0.0, 0.0) for cell in cells])
        heights = np.array([sizes[i : i + columns, 0].max() for i in range(0, len(cells), columns)])
        widths = np.array([sizes[i::columns, 1].max() for i in range(min(columns, len(cells)))])
        widths[widths == 0] = widths.max() or 1.0  # a column of texts only is as wide as a panel
        heights[heights == 0] = heights.max() or 0.3
        scale = (inches_wide - _COLUMN_GAP * (len(widths) + 1)) / widths.sum()
        self._heights, self._widths = heights * scale, widths * scale
        self._captions = np.array([_LINE_HEIGHT * (0.5 + max(map(_caption_lines, row))) for row in rows])
        rows_height = (self._heights + self._captions).sum()
        self.inches = (
            inches_wide,
            float(_HEADER_HEIGHT + _FOOTER_HEIGHT + rows_height),
        )

    def rectangle(self, index: int) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of a cell, as fractions of the figure."""
        row, column = divmod(index, len(self._widths))
        left = _COLUMN_GAP * (column + 1) + self._widths[:column].sum()
        bottom = _HEADER_HEIGHT + (self._heights + self._captions)[: row + 1].sum()
        width, height = self.inches
        return left / width, 1 - bottom / height, self._widths[column] / width, self._heights[row] / height


def _caption_lines(cell: Panel | str) -> int:
    return cell.title.count("\n") + 1 if isinstance(cell, Panel) else 0


def _draw_cell(ax: Any, cell: Panel | str, style: Style) -> None:
    if isinstance(cell, str):
        ax.text(
            0.5, 0.5, cell, color=_FOREGROUND, ha="center", va="center", fontsize=11, transform=ax.transAxes
        )
        return
    low, high = style.window.limits
    high = max(high, low + 1e-3)  # a WindowWidth of 1 is a threshold; Matplotlib shows an empty range black
    aspect = cell.pixel_mm[0] / cell.pixel_mm[1]
    ax.imshow(cell.image, cmap="gray", vmin=low, vmax=high, aspect=aspect, interpolation="bilinear")
    ax.set_title(cell.title, color=_FOREGROUND, fontsize=10, pad=3)
    if cell.mask is not None and style.mask == "filled":
        ax.imshow(_color_overlay(cell.mask), aspect=aspect, interpolation="nearest")
    if cell.mask is not None and style.mask != "none":
        _draw_outlines(ax, cell.mask, style)
    for box in cell.boxes:
        ax.add_patch(_box_patch(box))
    _draw_edge_letters(ax, cell.edges)


def color_of(label: int) -> str:
    """The colour of a label. It repeats every seven labels, so pictures always show the name as well."""
    return _COLORS[(label - 1) % len(_COLORS)]


def _color_overlay(mask: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(rows, columns, 4): RGBA of each label's colour at 45 % opacity; the background is transparent."""
    table = np.zeros((256, 4), np.float32)
    for label in _labels(mask):
        table[label] = (*to_rgb(color_of(label)), 0.45)
    overlay: npt.NDArray[np.float32] = table[mask]
    return overlay


def _draw_outlines(ax: Any, mask: npt.NDArray[Any], style: Style) -> None:
    padded = np.pad(mask, 1)  # closes the outline of a label that touches the edge of the panel
    x, y = np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1)
    for label in _labels(mask):
        ax.contour(x, y, padded == label, levels=[0.5], colors=[color_of(label)], linewidths=1.1)
        if style.mask == "outlined":
            _draw_name(ax, mask, label, style)
    ax.set_xlim(-0.5, mask.shape[1] - 0.5)
    ax.set_ylim(mask.shape[0] - 0.5, -0.5)


def _draw_name(ax: Any, mask: npt.NDArray[Any], label: int, style: Style) -> None:
    pixels = np.argwhere(mask == label)
    if len(pixels) < _MIN_NAMED_PIXELS:
        return
    row, column = pixels.mean(axis=0)
    text = ax.text(column, row, _name(label, style), color=color_of(label), fontsize=9, weight="bold")
    text.set(
        ha="center", va="center", clip_on=True, path_effects=[withStroke(linewidth=2, foreground="black")]
    )


def _box_patch(box: PanelBox) -> Rectangle:
    return Rectangle((box.x, box.y), box.width, box.height, fill=False, edgecolor=_BOX_COLOR, linewidth=1.4)


def _draw_edge_letters(ax: Any, edges: str) -> None:
    top_and_bottom = ((0.5, 0.98, "center", "top"), (0.5, 0.02, "center", "bottom"))
    left_and_right = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"))
    for letter, (x, y, ha, va) in zip(edges, (*top_and_bottom, *left_and_right), strict=True):
        text = ax.text(x, y, letter, color=_FOREGROUND, fontsize=9, ha=ha, va=va, transform=ax.transAxes)
        text.set_path_effects([withStroke(linewidth=2, foreground="black")])


def _draw_legend(figure: Figure, panels: Sequence[Panel], style: Style) -> None:
    handles: list[Patch | Line2D] = []
    if style.mask != "none":
        shown = sorted({label for panel in panels if panel.mask is not None for label in _labels(panel.mask)})
        handles += [Patch(color=color_of(label), label=_name(label, style)) for label in shown]
    if any(panel.boxes for panel in panels):
        handles.append(Line2D([], [], color=_BOX_COLOR, label="fracture box"))
    if handles:
        figure.legend(
            handles=handles, loc="lower center", ncols=12, frameon=False, labelcolor=_FOREGROUND, fontsize=11
        )


def _labels(mask: npt.NDArray[Any]) -> list[int]:
    return [label for label in np.unique(mask).tolist() if label]


def _name(label: int, style: Style) -> str:
    return (style.names or {}).get(label, f"label {label}")
