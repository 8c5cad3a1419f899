"""Helpers that read drawn pictures back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_rgb

Picture = npt.NDArray[np.float32]
BOX_COLOR = to_rgb("#FF3EA5")


def has_color(picture: Picture, color: tuple[float, float, float]) -> npt.NDArray[np.bool_]:
    """(rows, columns): True for pixels of this colour, within 0.12 per channel."""
    return np.abs(picture[..., :3] - color).max(axis=-1) < 0.12
