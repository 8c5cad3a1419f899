from __future__ import annotations

import numpy as np
import pytest

from spine_etl.errors import HeaderInvalid
from spine_etl.geometry import Grid
from spine_etl.volume import Volume
from spine_etl.windows import BONE, SOFT_TISSUE, Window, header_window


def test_limits_follow_the_standard() -> None:
    """PS3.3 C.11.2.1.2.1, Note 3: window center 2048 and width 4096 show 0 to 4095 as a straight ramp."""
    assert Window("all", 2048, 4096).limits == (0, 4095)
    assert BONE.limits == (-500, 1299)
    assert SOFT_TISSUE.limits == (-160, 239)


def series(**facts: object) -> Volume:
    grid = Grid.canonical((0, 0, 0), (2, 2, 2), 1.0)
    return Volume(np.zeros(grid.shape, np.int16), grid, facts=facts)


def test_header_window_is_the_first_in_the_header() -> None:
    volume = series(window_center=[40.0, 450.0], window_width=[350.0, 1500.0])
    assert header_window(volume) == Window("header", 40, 350)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, "no WindowCenter and WindowWidth"),
        ({"window_center": [], "window_width": []}, "no WindowCenter and WindowWidth"),
        ({"window_center": [40.0], "window_width": [0.0]}, "WindowWidth is 0, below 1"),
    ],
)
def test_header_without_a_usable_window_is_refused(facts: dict[str, object], reason: str) -> None:
    with pytest.raises(HeaderInvalid, match=reason):
        header_window(series(**facts))
