"""VOI windows: which HU are shown from black to white (DICOM PS3.3 C.11.2)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """A window of HU: its name, WindowCenter and WindowWidth."""

    name: str
    center: float
    width: float

    @property
    def limits(self) -> tuple[float, float]:
        """HU shown black and white under the function LINEAR (C.11.2.1.2.1), for whole HU on a screen."""
        half = (self.width - 1) / 2
        return self.center - 0.5 - half, self.center - 0.5 + half

    def __str__(self) -> str:
        return f"{self.name} window, center {self.center:g} width {self.width:g} HU"


BONE = Window("bone", 400, 1800)
CANCELLOUS_BONE = Window("cancellous bone", 150, 700)
SOFT_TISSUE = Window("soft tissue", 40, 400)
