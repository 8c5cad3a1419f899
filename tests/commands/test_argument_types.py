from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from spine_etl.commands.argument_types import fraction, integer_between, voxel_size


@pytest.mark.parametrize(
    ("kind", "accepted", "refused"),
    [
        (integer_between(2, 5), {"2": 2, "5": 5}, ("1", "6")),
        (fraction, {"0": 0.0, "0.5": 0.5, "1": 1.0}, ("-0.1", "1.01", "nan")),
        (voxel_size, {"0.05": 0.05, "20": 20.0}, ("0", "20.1", "nan")),
    ],
)
def test_limits(kind: Callable[[str], float], accepted: dict[str, float], refused: tuple[str, ...]) -> None:
    for text, value in accepted.items():
        assert kind(text) == value
    for text in refused:
        with pytest.raises(argparse.ArgumentTypeError, match="is not within"):
            kind(text)
