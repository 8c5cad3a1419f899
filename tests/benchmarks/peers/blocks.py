"""Blocks of voxels cut from resampled volumes, for the peers that resample an entire volume first."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def block_start(mask: npt.NDArray[np.bool_], shape: tuple[int, ...]) -> list[int]:
    """The first index of a block of this shape that is centred on the bounding box of the mask."""
    middle = [(axis.min() + axis.max() + 1) / 2 for axis in np.nonzero(mask)]
    return [round(m - n / 2) for m, n in zip(middle, shape, strict=True)]


def padded_block(
    volume: npt.NDArray[Any], start: list[int], shape: tuple[int, ...], fill: int
) -> npt.NDArray[Any]:
    """A block of the volume, filled with ``fill`` outside the volume."""
    block = np.full(shape, fill, volume.dtype)
    inside = tuple(
        slice(max(s, 0), max(min(s + n, m), 0)) for s, n, m in zip(start, shape, volume.shape, strict=True)
    )
    target = tuple(slice(i.start - s, i.stop - s) for i, s in zip(inside, start, strict=True))
    block[target] = volume[inside]
    return block
