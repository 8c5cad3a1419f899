"""Synthetic necks: stacks of box-shaped vertebrae whose levels are given."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]
K = 7


def neck(
    heights: tuple[int, ...] = (4, 8, 5, 5, 4, 5, 6),
    *,
    first: int = 1,
    above: int = 8,
    below: int = 12,
    overlap: int = 1,
) -> Labels:
    """A stack of vertebrae from level ``first`` down, then ``below`` slices of the class below.

    Each vertebra is a body, with one slice of disc under it, and an arch behind it, which extends
    ``overlap`` slices lower: from 1 on, the arch touches the next vertebra's body and shares slices with it.
    """
    blocks = [*zip(range(first, first + len(heights)), heights, strict=True)]
    if below:
        blocks.append((K + 1, below))
    depth = above + sum(height for _, height in blocks)
    labels = np.zeros((depth, 24, 24), dtype=np.int64)
    top = above
    for level, height in blocks:
        labels[top : top + height - 1, 6:13, 8:16] = level
        labels[top + overlap : top + height - 1 + overlap, 13:20, 10:14] = level
        top += height
    return labels[::-1].copy()


def random_neck(seed: int, **options: Any) -> Labels:
    """A neck with random heights."""
    heights = np.random.default_rng(seed).normal((4, 8, 5, 5, 5, 5, 5), 0.7).round().astype(int)
    return neck(tuple(heights.clip(3).tolist()), **options)


def column(states: list[int]) -> Labels:
    """A label map of one voxel a slice, from head to foot."""
    return np.array(states, dtype=np.int64)[::-1, None, None]
