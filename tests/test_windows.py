from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing

from spine_etl.errors import HeaderInvalid
from spine_etl.geometry import Grid
from spine_etl.volume import Volume
from spine_etl.windows import BONE, CANCELLOUS_BONE, SOFT_TISSUE, Window, header_window


def test_limits_follow_the_standard() -> None:
    """PS3.3 C.11.2.1.2.1, Note 3: window center 2048 and width 4096 show 0 to 4095 as a straight ramp."""
    assert Window("all", 2048, 4096).limits == (0, 4095)
    assert BONE.limits == (-500, 1299)
    assert SOFT_TISSUE.limits == (-160, 239)


@pytest.mark.parametrize(
    ("window", "black", "middle", "white"),
    [
        (BONE, -500, 399.5, 1299),
        (CANCELLOUS_BONE, -200, 149.5, 499),
        (SOFT_TISSUE, -160, 39.5, 239),
        (Window("odd", 100, 51), 74.5, 99.5, 124.5),
        (Window("binary", 100, 2), 99, 99.5, 100),
    ],
)
def test_black_middle_and_white_are_those_of_pydicom(
    window: Window, black: float, middle: float, white: float
) -> None:
    """pydicom maps the window to 0 to 65535, the range of its 16 bits."""
    header = Dataset()
    header.PhotometricInterpretation, header.BitsStored, header.PixelRepresentation = "MONOCHROME2", 16, 0
    header.WindowCenter, header.WindowWidth = window.center, window.width
    hu = np.array([black - 1, black, middle, white, white + 1])
    np.testing.assert_allclose(apply_windowing(hu, header) / 65535, [0, 0, 0.5, 1, 1], atol=1e-9)
    assert window.limits == (black, white)


def test_window_is_named_with_its_center_and_width() -> None:
    assert str(SOFT_TISSUE) == "soft tissue window, center 40 width 400 HU"
    assert str(Window("header", 40.5, 350.0)) == "header window, center 40.5 width 350 HU"


def series(**facts: object) -> Volume:
    grid = Grid.canonical((0, 0, 0), (2, 2, 2), 1.0)
    return Volume(np.zeros(grid.shape, np.int16), grid, facts=facts)


def test_header_window_is_the_first_in_the_header() -> None:
    volume = series(window_center=[40.0, 450.0], window_width=[350.0, 1500.0])
    assert header_window(volume) == Window("header", 40, 350)
    assert header_window(series(window_center=[40.0], window_width=[1.0])).limits == (39.5, 39.5)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, "no WindowCenter and WindowWidth"),
        ({"window_center": [], "window_width": []}, "no WindowCenter and WindowWidth"),
        ({"window_center": [40.0], "window_width": []}, "no WindowCenter and WindowWidth"),
        ({"window_center": [40.0], "window_width": [0.0]}, "WindowWidth is 0, below 1"),
        ({"window_center": [40.0], "window_width": [0.99]}, r"WindowWidth is 0\.99, below 1"),
    ],
)
def test_header_without_a_usable_window_is_refused(facts: dict[str, object], reason: str) -> None:
    with pytest.raises(HeaderInvalid, match=reason):
        header_window(series(**facts))
