"""VOI windows: which HU are shown from black to white (DICOM PS3.3 C.11.2)."""

from __future__ import annotations

from dataclasses import dataclass

from spine_etl.errors import HeaderInvalid
from spine_etl.volume import Volume


@dataclass(frozen=True)
class Window:
    """A window of HU: its name, WindowCenter and WindowWidth."""

    name: str
    center: float
    width: float

    @property
    def limits(self) -> tuple[float, float]:
        """HU shown black and white by the LINEAR function (C.11.2.1.2.1) when HU are whole numbers."""
        half = (self.width - 1) / 2
        return self.center - 0.5 - half, self.center - 0.5 + half

    def __str__(self) -> str:
        return f"{self.name} window, center {self.center:g} width {self.width:g} HU"


BONE = Window("bone", 400, 1800)
CANCELLOUS_BONE = Window("cancellous bone", 150, 700)
SOFT_TISSUE = Window("soft tissue", 40, 400)


def header_window(volume: Volume) -> Window:
    """The first VOI window in the header of a series.

    Raises
    ------
    HeaderInvalid
        If the header has no window, or its width is below 1.
    """
    action = "Use --window bone or soft."
    centers, widths = volume.facts.get("window_center"), volume.facts.get("window_width")
    if not isinstance(centers, list) or not isinstance(widths, list) or not centers or not widths:
        raise HeaderInvalid("the header has no WindowCenter and WindowWidth.", action=action)
    if widths[0] < 1:
        raise HeaderInvalid(f"WindowWidth is {widths[0]:g}, below 1.", action=action)
    return Window("header", float(centers[0]), float(widths[0]))
