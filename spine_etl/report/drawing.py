"""Drawing panels: dark ground, HU through a window, labels in colours that colour-blind people tell apart.

Nothing of a header's free text is written into a picture: a study is named by its UID.
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

from spine_etl.errors import HeaderInvalid
from spine_etl.report.panels import Panel, PanelBox
from spine_etl.volume import Volume

# Okabe and Ito, "Color Universal Design" (2008), less black; in the order in which neighbours differ most to
# the eye that sees all colours, and to those that lack the red or the green.
_COLORS = ("#E69F00", "#CC79A7", "#D55E00", "#56B4E9", "#009E73", "#F0E442", "#0072B2")
_BOX_COLOR = "#FF3EA5"
_GROUND, _INK = "#101010", "#F2F2F2"
_DPI = 110
_LEAST_NAMED = 40  # pixels: a sliver of a neighbour needs no name
_GAP, _LINE, _HEAD, _FOOT = 0.06, 0.19, 0.55, 0.4  # inches between columns, of a caption's line, at the ends


@dataclass(frozen=True)
class Window:
    """A window of HU: its name, level (centre) and width, as in DICOM PS3.3 C.11.2."""

    name: str
    level: float
    width: float

    @property
    def limits(self) -> tuple[float, float]:
        """HU shown black and white (C.11.2.1.2.1)."""
        half = (self.width - 1) / 2
        return self.level - 0.5 - half, self.level - 0.5 + half

    def __str__(self) -> str:
        return f"{self.name} window, level {self.level:g} width {self.width:g} HU"


BONE, SOFT = Window("bone", 400, 1800), Window("soft tissue", 40, 400)


def header_window(volume: Volume) -> Window:
    """The first VOI window that the series' header names.

    Raises
    ------
    HeaderInvalid
        If it names none.
    """
    levels, widths = volume.facts.get("window_center"), volume.facts.get("window_width")
    if not isinstance(levels, list) or not isinstance(widths, list) or not levels or not widths:
        raise HeaderInvalid(
            "there is no WindowCenter and WindowWidth in the header.", action="Take --window bone or soft."
        )
    if widths[0] < 1:
        raise HeaderInvalid(f"WindowWidth is {widths[0]:g}, below 1.", action="Take --window bone or soft.")
    return Window("header's", float(levels[0]), float(widths[0]))


@dataclass(frozen=True)
class Style:
    """How a picture is drawn: its title, window, label names, and what is shown of the masks."""

    title: str
    window: Window = BONE
    names: Mapping[int, str] | None = None
    mask: Literal["none", "filled", "outlined"] = "none"


def draw(
    path: str | Path, cells: Sequence[Panel | str], columns: int, style: Style, inches_wide: float = 18.0
) -> None:
    """Write a PNG of cells in rows of ``columns``, a millimetre alike in all of them.

    A text in place of a panel is written where the panel would be.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    layout = _Layout(cells, columns, inches_wide)
    figure = Figure(figsize=layout.inches, facecolor=_GROUND)
    FigureCanvasAgg(figure)
    for place, cell in enumerate(cells):
        ax = figure.add_axes(layout.rectangle(place))
        ax.set_axis_off()
        _draw_cell(ax, cell, style)
    figure.text(0.5, 1 - 0.12 / layout.inches[1], f"{style.title}\n{style.window}",
                color=_INK, fontsize=13, ha="center", va="top")  # fmt: skip
    _draw_legend(figure, [cell for cell in cells if isinstance(cell, Panel)], style)
    figure.savefig(path, dpi=_DPI)


class _Layout:
    """Where each cell lies in a figure: columns as wide and rows as high as their largest panel."""

    def __init__(self, cells: Sequence[Panel | str], columns: int, inches_wide: float) -> None:
        rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
        sizes = np.array([cell.size_mm if isinstance(cell, Panel) else (0.0, 0.0) for cell in cells])
        heights = np.array([sizes[i : i + columns, 0].max() for i in range(0, len(cells), columns)])
        widths = np.array([sizes[i::columns, 1].max() for i in range(min(columns, len(cells)))])
        widths[widths == 0] = widths.max() or 1.0  # where nothing but text stands it gets a panel's room
        heights[heights == 0] = heights.max() or 0.3
        scale = (inches_wide - _GAP * (len(widths) + 1)) / widths.sum()
        self._heights, self._widths = heights * scale, widths * scale
        self._captions = np.array([_LINE * (0.5 + max(map(_caption_lines, row))) for row in rows])
        self.inches = (inches_wide, float(_HEAD + _FOOT + (self._heights + self._captions).sum()))

    def rectangle(self, place: int) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of a cell, as shares of the figure."""
        row, column = divmod(place, len(self._widths))
        left = _GAP * (column + 1) + self._widths[:column].sum()
        bottom = _HEAD + (self._heights + self._captions)[: row + 1].sum()
        wide, high = self.inches
        return left / wide, 1 - bottom / high, self._widths[column] / wide, self._heights[row] / high


def _caption_lines(cell: Panel | str) -> int:
    return cell.title.count("\n") + 1 if isinstance(cell, Panel) else 0


def _draw_cell(ax: Any, cell: Panel | str, style: Style) -> None:
    if isinstance(cell, str):
        ax.text(0.5, 0.5, cell, color=_INK, ha="center", va="center", fontsize=11, transform=ax.transAxes)
        return
    low, high = style.window.limits
    aspect = cell.pixel_mm[0] / cell.pixel_mm[1]
    ax.imshow(cell.image, cmap="gray", vmin=low, vmax=high, aspect=aspect, interpolation="bilinear")
    ax.set_title(cell.title, color=_INK, fontsize=10, pad=3)
    if cell.mask is not None and style.mask == "filled":
        ax.imshow(_tinted(cell.mask), aspect=aspect, interpolation="nearest")
    if cell.mask is not None and style.mask != "none":
        _outline(ax, cell.mask, style)
    for box in cell.boxes:
        ax.add_patch(_rectangle(box))
    _letter_edges(ax, cell.edges)


def color_of(label: int) -> str:
    """A label's colour; every seventh label has the same one, so names stand beside the colours."""
    return _COLORS[(label - 1) % len(_COLORS)]


def _tinted(mask: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(rows, columns, 4): each label's colour, half transparent; background wholly."""
    table = np.zeros((256, 4), np.float32)
    for label in _labels(mask):
        table[label] = (*to_rgb(color_of(label)), 0.45)
    tinted: npt.NDArray[np.float32] = table[mask]
    return tinted


def _outline(ax: Any, mask: npt.NDArray[Any], style: Style) -> None:
    rim = np.pad(mask, 1)  # so that a label at the edge of the panel is closed
    across, down = np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1)
    for label in _labels(mask):
        ax.contour(across, down, rim == label, levels=[0.5], colors=[color_of(label)], linewidths=1.1)
        if style.mask == "outlined":
            _write_name(ax, mask, label, style)
    ax.set_xlim(-0.5, mask.shape[1] - 0.5)
    ax.set_ylim(mask.shape[0] - 0.5, -0.5)


def _write_name(ax: Any, mask: npt.NDArray[Any], label: int, style: Style) -> None:
    places = np.argwhere(mask == label)
    if len(places) < _LEAST_NAMED:
        return
    row, column = places.mean(axis=0)
    text = ax.text(column, row, _name(label, style), color=color_of(label), fontsize=9, weight="bold")
    text.set(
        ha="center", va="center", clip_on=True, path_effects=[withStroke(linewidth=2, foreground="black")]
    )


def _rectangle(box: PanelBox) -> Rectangle:
    return Rectangle((box.x, box.y), box.width, box.height, fill=False, edgecolor=_BOX_COLOR, linewidth=1.4)


def _letter_edges(ax: Any, edges: str) -> None:
    places = ((0.5, 0.98, "center", "top"), (0.5, 0.02, "center", "bottom"))
    sides = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"))
    for letter, (x, y, ha, va) in zip(edges, (*places, *sides), strict=True):
        text = ax.text(x, y, letter, color=_INK, fontsize=9, ha=ha, va=va, transform=ax.transAxes)
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
            handles=handles, loc="lower center", ncols=12, frameon=False, labelcolor=_INK, fontsize=11
        )


def _labels(mask: npt.NDArray[Any]) -> list[int]:
    return [label for label in np.unique(mask).tolist() if label]


def _name(label: int, style: Style) -> str:
    return (style.names or {}).get(label, f"label {label}")
