"""Augmentation in two steps: draw the parameters, a few numbers per sample, then apply them on the device.

A sample's parameters, and its noise, depend only on its seed (`Batch.seed`), so batch size, rank and resuming
do not change how a study is augmented. Only mixup also depends on the neighbouring sample in the batch.

The affine is in-plane: it rotates, scales and shifts each axial slice and leaves z unchanged, so the slices'
labels and positions stay valid. A flip exchanges left and right; labels need no swap, since every level is on
the midline. Flip and intensity are drawn once per study, all other parameters once per crop.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch.nn.functional import grid_sample

from spine_etl.volume import AIR_HU

_Probability = Annotated[float, Field(ge=0, le=1)]
_Below1 = Annotated[float, Field(ge=0, lt=1)]
_Extent = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Settings:
    """Strength of each augmentation; 0 switches it off.

    Parameters
    ----------
    rotation_degrees, scale, shift
        Uniform between minus and plus this: in-plane angle, relative size, share of the crop's width and
        height. Shifts are rounded to whole voxels, so a shift alone does not interpolate.
    flip
        Probability of a left-right flip.
    gain, offset_hu
        Uniform between minus and plus this: relative change of HU above air, HU added.
    noise_hu
        Standard deviation of white noise, uniform from 0 to this.
    cutout, cutout_size
        Probability that a rectangle of a crop is replaced by air in all slices; the rectangle's largest share
        of the crop's width and height.
    slide
        Uniform between minus and plus this: how far a crop's slice positions shift along z, as a share of the
        distance between two positions.
    shuffle, shuffle_places
        Probability that a crop's sequence of slices is shuffled locally; each slice moves by less than this
        many positions.
    mixup_alpha
        Parameter of the Beta distribution that mixes each sample with its neighbour.
    """

    rotation_degrees: _Extent = 15.0
    scale: _Below1 = 0.1
    shift: _Below1 = 0.05
    flip: _Probability = 0.5
    gain: _Below1 = 0.1
    offset_hu: _Extent = 30.0
    noise_hu: _Extent = 20.0
    cutout: _Probability = 0.25
    cutout_size: _Probability = 0.3
    slide: _Extent = 0.5
    shuffle: _Probability = 0.25
    shuffle_places: Annotated[int, Field(ge=0)] = 3
    mixup_alpha: _Extent = 0.0


NONE = Settings(
    rotation_degrees=0, scale=0, shift=0, flip=0, gain=0, offset_hu=0, noise_hu=0, cutout=0, slide=0,
    shuffle=0,
)  # fmt: skip
"""No augmentation."""


@dataclasses.dataclass(frozen=True, eq=False)
class AugmentParameters:
    """How each sample is augmented; tensors on the host, since `apply` branches on their values.

    Attributes
    ----------
    rotation_degrees, scale
        float32 (b, level): the content is rotated from +x towards +y, then enlarged by ``scale``.
    shift
        float32 (b, level, 2): the content is then shifted by this share of the crop's y and x extent,
        rounded to whole voxels.
    flip
        bool (b,): whether left and right are then exchanged.
    gain, offset_hu
        float32 (b,): HU becomes (HU - air) * gain + air + offset.
    noise_hu
        float32 (b,): standard deviation.
    noise_seed
        int64 (b,).
    cutout
        float32 (b, level, 4): y0, x0, y1, x1 as shares of the crop; nothing is cut out if all are 0.
    slide
        float32 (b, level): the ``slide`` of `views.slice_positions`.
    order
        int64 (b, level, position): the index in the sequence of the slice that each position gets.
    mixup
        float32 (b,): each sample's share in the mixture; the rest is the previous sample's in the batch.
    """

    rotation_degrees: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor
    flip: torch.Tensor
    gain: torch.Tensor
    offset_hu: torch.Tensor
    noise_hu: torch.Tensor
    noise_seed: torch.Tensor
    cutout: torch.Tensor
    slide: torch.Tensor
    order: torch.Tensor
    mixup: torch.Tensor


def draw(seeds: torch.Tensor, levels: int, positions: int, settings: Settings) -> AugmentParameters:
    """Draw the parameters of samples with ``seeds``, int64 (b,); ``positions`` is the slices in a sequence.

    A pure function: a seed gives the same parameters in any batch.
    """
    samples = [_draw_sample(int(seed), levels, positions, settings) for seed in seeds.tolist()]
    return AugmentParameters(
        **{name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}
    )


def _draw_sample(
    seed: int, levels: int, positions: int, settings: Settings
) -> dict[str, npt.NDArray[np.generic]]:
    # Draw everything, used or not, so that switching one augmentation off does not change the others.
    random = np.random.default_rng(seed)
    noise_seed = np.int64(random.integers(2**63))
    flip, share = random.random(2)
    gain, offset = random.uniform(-1, 1, 2)
    angle, size = random.uniform(-1, 1, (2, levels))
    shift = random.uniform(-1, 1, (levels, 2))
    cut, shuffle = random.random((2, levels))
    order = np.arange(positions) + np.where(shuffle < settings.shuffle, settings.shuffle_places, 0)[
        :, None
    ] * random.random((levels, positions))
    slide = random.uniform(-1, 1, levels)
    cutout = _rectangles(random.random((levels, 2)), random.random((levels, 2)), settings.cutout_size)
    mixup = random.beta(settings.mixup_alpha, settings.mixup_alpha) if settings.mixup_alpha else 1.0
    values = {
        "rotation_degrees": angle * settings.rotation_degrees,
        "scale": 1 + size * settings.scale,
        "shift": shift * settings.shift,
        "gain": 1 + gain * settings.gain,
        "offset_hu": offset * settings.offset_hu,
        "noise_hu": share * settings.noise_hu,
        "cutout": np.where((cut < settings.cutout)[:, None], cutout, 0),
        "slide": slide * settings.slide,
        "mixup": mixup,
    }
    return {name: np.asarray(value, np.float32) for name, value in values.items()} | {
        "flip": np.asarray(flip < settings.flip),
        "noise_seed": np.asarray(noise_seed),
        "order": np.argsort(order, axis=1, kind="stable"),
    }


def _rectangles(
    position: npt.NDArray[np.float64], size: npt.NDArray[np.float64], max_size: float
) -> npt.NDArray[np.float64]:
    """(level, 4): rectangles y0, x0, y1, x1 inside the unit square, with sides of at most ``max_size``.

    ``position`` and ``size`` (level, 2) are between 0 and 1.
    """
    size = size * max_size
    low = position * (1 - size)
    return np.concatenate([low, low + size], axis=1)


def apply(
    image: torch.Tensor, mask: torch.Tensor, parameters: AugmentParameters
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply affine, flip, intensity, noise and cutout, in that order; only the first two to the mask.

    Parameters
    ----------
    image
        (b, level, z, y, x) HU, int16 or float.
    mask
        (b, level, z, y, x) uint8 labels.
    parameters
        From `draw`, for b samples.

    Returns
    -------
    image, mask
        float32 HU (linear interpolation, air beyond the crop) and uint8 (nearest neighbour, 0 beyond). The
        inputs are not modified, but an unchanged output may share their memory.
    """
    values = image.float() - AIR_HU  # so that the zeros beyond the crop are air
    if _has_affine(parameters):
        grid = _grid(parameters, image.shape, image.device)
        values = _sample(values, grid, "bilinear")
        mask = _sample(mask.float(), grid, "nearest").to(torch.uint8)
    if parameters.flip.any():
        flip = _per_sample(parameters.flip, image)
        values = torch.where(flip, values.flip(-1), values)
        mask = torch.where(flip, mask.flip(-1), mask)
    gain, offset_hu = _per_sample(parameters.gain, image), _per_sample(parameters.offset_hu, image)
    values = values.mul_(gain).add_(offset_hu + AIR_HU)
    _add_noise(values, parameters)
    return _cut_out(values, parameters.cutout), mask


def shuffle_slices(sequence: torch.Tensor, parameters: AugmentParameters) -> torch.Tensor:
    """Reorder a sequence (b, level, position, ...); also to be called for the slices' labels."""
    order = parameters.order.to(sequence.device)
    b, level = (torch.arange(n, device=sequence.device) for n in sequence.shape[:2])
    return sequence[b[:, None, None], level[:, None], order]


def mix(values: torch.Tensor, parameters: AugmentParameters) -> torch.Tensor:
    """Mixup (Zhang et al. 2018) of each sample with the previous one; float (b, ...), images or labels."""
    share = parameters.mixup.to(values.device, values.dtype).view(-1, *[1] * (values.ndim - 1))
    return share * values + (1 - share) * values.roll(1, 0)


def _per_sample(values: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Reshape (b,) to (b, 1, 1, 1, 1) and move it to the image's device."""
    return values.to(image.device).view(-1, 1, 1, 1, 1)


def _has_affine(parameters: AugmentParameters) -> bool:
    rotation, scale, shift = parameters.rotation_degrees, parameters.scale, parameters.shift
    return bool(rotation.any() or (scale != 1).any() or shift.any())


def _grid(parameters: AugmentParameters, shape: torch.Size, device: torch.device) -> torch.Tensor:
    """(b * level, y, x, 2): where each output pixel samples the input: x, y, -1 to 1 between faces."""
    height, width = shape[-2:]
    angle = torch.deg2rad(parameters.rotation_degrees.double()).flatten()
    cosine, sine = torch.cos(angle), torch.sin(angle)
    scale = parameters.scale.double().flatten()
    extent = torch.tensor([height, width], dtype=torch.float64)
    shift_y, shift_x = ((parameters.shift.double() * extent).round() / extent).flatten(0, 1).unbind(-1)
    # Angles are in pixels, which are square; the grid is in shares of the crop, which is not.
    to_x = torch.stack([cosine, sine * height / width], -1) / scale[:, None]
    to_y = torch.stack([-sine * width / height, cosine], -1) / scale[:, None]
    inverse = torch.stack([to_x, to_y], 1)
    offset = -inverse @ (2 * torch.stack([shift_x, shift_y], -1))[..., None]
    theta = torch.cat([inverse, offset], -1).to(device, torch.float32)
    return torch.nn.functional.affine_grid(theta, [len(theta), 1, height, width], align_corners=False)


def _sample(values: torch.Tensor, grid: torch.Tensor, mode: str) -> torch.Tensor:
    """Sample the crops at the grid; a crop's slices are its channels, so all share one grid."""
    sampled = grid_sample(values.flatten(0, 1), grid, mode=mode, padding_mode="zeros", align_corners=False)
    return sampled.view(values.shape)


def _add_noise(values: torch.Tensor, parameters: AugmentParameters) -> None:
    generator = torch.Generator(values.device)
    noisy = zip(values, parameters.noise_hu.tolist(), parameters.noise_seed.tolist(), strict=True)
    for sample, sigma, seed in noisy:
        if sigma > 0:
            generator.manual_seed(seed)
            sample.add_(torch.empty_like(sample).normal_(0, sigma, generator=generator))


def _cut_out(values: torch.Tensor, cutout: torch.Tensor) -> torch.Tensor:
    if not cutout.any():
        return values
    height, width = values.shape[-2:]
    low_y, low_x, high_y, high_x = cutout.to(values.device)[:, :, None, :].unbind(-1)
    y = (torch.arange(height, device=values.device) + 0.5) / height
    x = (torch.arange(width, device=values.device) + 0.5) / width
    rows, columns = (y >= low_y) & (y < high_y), (x >= low_x) & (x < high_x)
    return values.masked_fill_((rows[..., :, None] & columns[..., None, :])[:, :, None], AIR_HU)
