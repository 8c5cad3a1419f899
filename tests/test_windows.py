from __future__ import annotations

from spine_etl.windows import BONE, SOFT_TISSUE, Window


def test_limits_are_those_of_the_standard() -> None:
    """PS3.3 C.11.2.1.2.1, Note 3: window center 2048 and width 4096 show 0 to 4095 as a straight ramp."""
    assert Window("all", 2048, 4096).limits == (0, 4095)
    assert BONE.limits == (-500, 1299)
    assert SOFT_TISSUE.limits == (-160, 239)
