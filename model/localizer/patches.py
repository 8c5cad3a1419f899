"""Random training patches of overviews: cropped, distorted, with noise, and sometimes truncated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from model.localizer.network import is_air, scanned_block
from spine_etl.volume import AIR_HU

PATCH = (64, 48, 48)
"""Voxels (z, y, x) of a patch: at 3 mm the height of a neck, with a margin around the spine."""


@dataclass(frozen=True)
class Distortion:
    """Ranges of the random distortion of a patch.

    Rotation, scale, gain and offset are uniform between minus and plus their maximum; the standard deviation
    of the noise is uniform between 0 and its maximum.
    """

    max_rotation_deg: float = 10.0
    max_scale: float = 0.15
    max_gain: float = 0.1
    max_offset_hu: float = 40.0
    max_noise_hu: float = 40.0
    truncation_probability: float = 0.4
    """Probability that the field of view ends within the patch."""


DISTORTION = Distortion()


def draw_patch(
    image: Tensor, classes: Tensor, random: np.random.Generator, distortion: Distortion = DISTORTION
) -> tuple[Tensor, Tensor]:
    """Draw a distorted patch of an overview's scanned block.

    A left-right flip needs no change of classes, because every level is on the midline.

    Parameters
    ----------
    image
        int16 or float HU (z, y, x).
    classes
        uint8 (z, y, x).

    Returns
    -------
    tuple
        float32 HU and uint8 classes, both (1, z, y, x) of `PATCH`.
    """
    image, classes = _crop(image.float(), classes, random)
    image, classes = _rotate_and_scale(image, classes, random, distortion)
    if random.random() < 0.5:
        image, classes = image.flip(-1), classes.flip(-1)
    air = is_air(image)
    gain, offset = random.uniform(-1, 1, 2)
    image = (image - AIR_HU) * (1 + gain * distortion.max_gain) + AIR_HU + offset * distortion.max_offset_hu
    noise = torch.from_numpy(random.normal(0, 1, image.shape).astype(np.float32))
    image = image + noise * (random.random() * distortion.max_noise_hu)
    image[air] = AIR_HU
    if random.random() < distortion.truncation_probability:
        _truncate(image, classes, random)
    return image, classes


def _crop(image: Tensor, classes: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """(1, z, y, x) at a random position in the scanned block, with air around it where that is smaller."""
    patch = torch.full((1, *PATCH), float(AIR_HU)), torch.zeros((1, *PATCH), dtype=torch.uint8)
    source: list[slice] = []
    target: list[slice] = []
    for block, size in zip(scanned_block(image), PATCH, strict=True):
        length = block.stop - block.start
        shift = int(random.integers(abs(length - size) + 1))
        overlap = min(length, size)
        source_start = block.start + (shift if length > size else 0)
        target_start = 0 if length > size else shift
        source.append(slice(source_start, source_start + overlap))
        target.append(slice(target_start, target_start + overlap))
    z, y, x = target
    for volume, part in zip((image, classes), patch, strict=True):
        part[0, z, y, x] = volume[tuple(source)]
    return patch


def _rotate_and_scale(
    image: Tensor, classes: Tensor, random: np.random.Generator, distortion: Distortion
) -> tuple[Tensor, Tensor]:
    """Rotate about the three axes and scale, about the patch's centre."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(random.uniform(-1, 1, 3) * distortion.max_rotation_deg)):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        rotation = np.eye(3)
        rotation[a, a] = rotation[b, b] = np.cos(angle)
        rotation[a, b], rotation[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ rotation
    matrix /= 1 + random.uniform(-1, 1) * distortion.max_scale
    size = np.array(PATCH[::-1], np.float64)  # affine_grid's axes are x, y, z, each from -1 to 1
    theta = np.zeros((1, 3, 4), np.float32)
    theta[0, :, :3] = matrix * size[None, :] / size[:, None]
    grid = affine_grid(torch.from_numpy(theta), [1, 1, *PATCH], align_corners=False)
    # grid_sample pads with zeros: shift HU so that zero is air.
    values = grid_sample((image - AIR_HU)[None], grid, mode="bilinear", align_corners=False)[0] + AIR_HU
    labels = grid_sample(classes[None].float(), grid, mode="nearest", align_corners=False)[0]
    return values, labels.to(torch.uint8)


def _truncate(image: Tensor, classes: Tensor, random: np.random.Generator) -> None:
    """End the field of view within the patch, at the head, the foot or both, in place."""
    depth = image.shape[1]
    low = int(random.integers(depth // 2)) if random.random() < 0.5 else 0
    high = depth - int(random.integers(depth // 2)) if low == 0 or random.random() < 0.3 else depth
    for outside in (slice(0, low), slice(high, depth)):
        image[:, outside] = AIR_HU
        classes[:, outside] = 0
