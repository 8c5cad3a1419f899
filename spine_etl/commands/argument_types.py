"""Types of command-line arguments: each turns text into a number within limits."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def integer_between(low: int, high: int) -> Callable[[str], int]:
    """A type for whole numbers from ``low`` to ``high``, both included."""

    def integer(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is not within {low} to {high}")
        return value

    return integer


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not within 0 to 1")
    return value


def voxel_size(text: str) -> float:
    """A voxel size from 0.05 to 20 mm."""
    value = float(text)
    if not 0.05 <= value <= 20:
        raise argparse.ArgumentTypeError(f"{text} mm is not within 0.05 to 20")
    return value
