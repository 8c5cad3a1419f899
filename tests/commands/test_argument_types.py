from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from spine_etl.commands.argument_types import fraction, integer_between, voxel_size


@pytest.mark.parametrize(
    ("kind", "accepted", "refused"),
    [
        (integer_between(2, 5), {"2": 2, "5": 5}, ("1", "6")),
        (fraction, {"0": 0.0, "0.5": 0.5, "1": 1.0}, ("-0.001", "1.001", "nan")),
        (voxel_size, {"0.05": 0.05, "20": 20.0}, ("0.0499", "20.01", "nan", "inf")),
    ],
)
def test_limits_on_both_sides(
    kind: Callable[[str], float], accepted: dict[str, float], refused: tuple[str, ...]
) -> None:
    for text, value in accepted.items():
        assert kind(text) == value
    for text in refused:
        with pytest.raises(argparse.ArgumentTypeError, match="is not within"):
            kind(text)


@pytest.mark.parametrize("kind", [integer_between(2, 5), fraction, voxel_size])
def test_text_that_is_not_a_number_is_refused(kind: Callable[[str], float]) -> None:
    for text in ("", "three", "2,5"):
        with pytest.raises(ValueError, match=r"invalid literal|could not convert"):
            kind(text)


def test_whole_numbers_have_no_fraction() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        integer_between(2, 5)("3.0")
