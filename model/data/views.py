"""Views of the crops for a network: windows and the 2.5D stack, computed on the device from whole crops.

Pure functions of tensors. Axes are (b, level, z, y, x): z to Superior, y to Posterior, x to Left; images are
HU, int16 or float; masks are the source's uint8 labels. b is the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, PositiveInt
from torch.nn.functional import interpolate

from spine_etl.recipe import Recipe
from spine_etl.settings import StrictModel
from spine_etl.windows import BONE, CANCELLOUS_BONE, SOFT_TISSUE, Window

THREE_WINDOWS = (BONE, CANCELLOUS_BONE, SOFT_TISSUE)


def _odd(number: int) -> int:
    if number % 2 == 0:
        raise ValueError("the number of neighbouring slices must be odd")
    return number


class ViewSettings(StrictModel):
    """How a vertebra is present to the network.

    Parameters
    ----------
    kind
        ``stack``: neighbouring slices in the bone window, and the vertebra's mask, as channels (2.5D).
        ``windows``: three windows of one slice as channels.
    positions
        Number of slices, evenly spaced over the vertebra's height.
    neighbours
        Number of slices in a stack, odd.
    size
        Rows and columns to keep around the middle of the crop; by default the whole crop.
    """

    kind: Literal["stack", "windows"] = "stack"
    positions: PositiveInt = 15
    neighbours: Annotated[PositiveInt, AfterValidator(_odd)] = 5
    size: tuple[PositiveInt, PositiveInt] | None = None

    @property
    def channels(self) -> int:
        return self.neighbours + 1 if self.kind == "stack" else 3


def window(image: torch.Tensor, setting: Window) -> torch.Tensor:
    """float32 of the image's shape: 0 at and below the window's lower end, 1 at and above its upper end.

    Linear in between, as LINEAR_EXACT of DICOM PS3.3 C.11.2.1.3.2.
    """
    return _window_in_place(image.to(torch.float32, copy=True), setting)


def windows(image: torch.Tensor, settings: Sequence[Window] = THREE_WINDOWS) -> torch.Tensor:
    """(..., y, x) to float32 (..., window, y, x): each window as a channel."""
    return torch.stack([window(image, setting) for setting in settings], dim=-3)


def level_labels(recipe: Recipe, device: torch.device | str = "cpu") -> torch.Tensor:
    """uint8 (level,): the label of each level in the masks."""
    return torch.tensor(list(recipe.levels.values()), dtype=torch.uint8, device=device)


def slice_positions(
    mask: torch.Tensor, level_labels: torch.Tensor, positions: int = 15, slide: torch.Tensor | None = None
) -> torch.Tensor:
    """int64 (b, level, positions): z indices evenly spaced over each vertebra, from foot to head.

    The first and the last are the ends of the level's label along z. The others are rounded to whole slices,
    so a vertebra with fewer slices than ``positions`` repeats some. ``slide`` (b, level) shifts them by that
    many steps, clipped to the ends. -1 where the mask does not contain the label: a level without a crop.
    """
    present = (mask == level_labels[:, None, None, None]).flatten(-2).any(-1)
    depth = present.shape[-1]
    first = present.int().argmax(-1, keepdim=True)
    last = depth - 1 - present.flip(-1).int().argmax(-1, keepdim=True)
    share = torch.linspace(0, 1, positions, device=mask.device)
    if slide is not None:
        share = (share + slide.to(mask.device)[..., None] / max(1, positions - 1)).clamp(0, 1)
    z = (first + (last - first) * share).round().long()
    return z.masked_fill(~present.any(-1, keepdim=True), -1)


def stack_2_5d(
    image: torch.Tensor,
    mask: torch.Tensor,
    level_labels: torch.Tensor,
    z: torch.Tensor,
    *,
    neighbours: int = 5,
    setting: Window = BONE,
    size: tuple[int, int] | None = None,
) -> torch.Tensor:
    """The 2.5D view: at each position a slice with its neighbours, windowed, and the vertebra's mask.

    Parameters
    ----------
    image, mask
        (b, level, z, y, x): HU and source labels.
    level_labels
        As returned by `level_labels`.
    z
        int64 (b, level, position), as returned by `slice_positions`.
    neighbours
        Number of adjacent slices at each position, odd; the middle one is at the position. Beyond the crop
        its end slice is repeated.
    setting
        Window of the image.
    size
        (y, x) to resize each slice to: bilinear with anti-aliasing, the mask by nearest neighbour.

    Returns
    -------
    Tensor
        float32 (b, level, position, neighbours + 1, y, x): the slices from foot to head in [0, 1], then
        the vertebra's mask in the middle slice as 0 or 1. Zeros where z is -1.
    """
    offsets = torch.arange(neighbours, device=z.device) - neighbours // 2
    slices = _take(image, (z[..., None] + offsets).clamp(0, image.shape[2] - 1))
    vertebra = _take(mask, z.clamp(min=0)[..., None]) == level_labels[:, None, None, None, None]
    # Both are written into one tensor: on the CPU allocating memory costs more than the arithmetic.
    stack = torch.empty((*z.shape, neighbours + 1, *image.shape[-2:]), device=image.device)
    _window_in_place(stack[..., :neighbours, :, :].copy_(slices), setting)
    stack[..., neighbours:, :, :] = vertebra
    stack.masked_fill_((z < 0)[..., None, None, None], 0)
    return _resized(stack, size) if size else stack


def at_positions(values: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Values of slices (b, level, z) at positions (b, level, position); -1 where z is -1."""
    return values.gather(-1, z.clamp(min=0)).masked_fill(z < 0, -1)


def rasterize_boxes(boxes: torch.Tensor, z: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """uint8 (b, level, position, y, x): 1 inside the boxes of the slices at positions, else 0.

    ``boxes`` is (b, level, z, 4) as `Targets.slice_box`, ``z`` as `slice_positions` returns it, ``shape`` a
    slice's (y, x). A voxel that a box touches is inside.
    """
    corners = boxes.gather(2, z.clamp(min=0)[..., None].expand(*z.shape, 4))
    y0, x0, y1, x1 = corners[..., None].unbind(-2)
    y, x = (torch.arange(n, device=z.device) for n in shape)
    rows, columns = (y + 0.5 > y0) & (y - 0.5 < y1), (x + 0.5 > x0) & (x - 0.5 < x1)
    rows = rows & (z >= 0)[..., None]
    return (rows[..., :, None] & columns[..., None, :]).to(torch.uint8)


def _window_in_place(values: torch.Tensor, setting: Window) -> torch.Tensor:
    return values.sub_(setting.center).div_(setting.width).add_(0.5).clamp_(0, 1)


def _take(volume: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Axial slices (b, level, ..., y, x) of a volume (b, level, z, y, x) at indices (b, level, ...)."""
    b, level, depth = volume.shape[:3]
    crop = torch.arange(b * level, device=z.device).view(b, level, *[1] * (z.ndim - 2))
    slices = volume.flatten(0, 2).index_select(0, (crop * depth + z).flatten())
    return slices.view(*z.shape, *volume.shape[-2:])


def _resized(stack: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    flat = stack.flatten(0, 2)
    slices = interpolate(flat[:, :-1], size, mode="bilinear", antialias=True)
    vertebra = interpolate(flat[:, -1:], size, mode="nearest-exact")
    return torch.cat([slices, vertebra], dim=1).view(*stack.shape[:-2], *size)
