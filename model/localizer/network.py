"""The localizer's network: a 3D fully convolutional network over a study's coarse overview.

Long skip connections join encoder and decoder (Ronneberger et al. 2015, "U-Net"), short ones bridge each
unit of convolutions (He et al. 2016, "Deep Residual Learning"): MONAI's residual U-Net (Kerfoot et al. 2019).
Its classes are the background, each level, and below: T1 and lower, so that it learns the end of the neck.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad

from spine_etl.recipe import Recipe
from spine_etl.settings import StrictModel
from spine_etl.volume import AIR_HU

CENTRE_HU, SCALE_HU = 300.0, 500.0
"""The network reads (HU - centre) / scale."""
MIN_HU, MAX_HU = -200.0, 1800.0
"""Input range. Below fat there is nothing of use for finding bone; above cortical bone there is metal."""
AIR_LIMIT_HU = AIR_HU + 100
"""Voxels up to this value are air."""


class FcnSettings(StrictModel):
    """The architecture of a network; stored with its weights.

    Parameters
    ----------
    channels
        Features at each resolution, the finest first; each next one halves the size.
    units
        Convolutions that a short skip connection bridges.
    """

    channels: tuple[int, ...] = Field(default=(8, 16, 32, 64), min_length=2, max_length=6)
    units: int = Field(default=2, ge=1, le=4)

    @property
    def multiple(self) -> int:
        """Every axis of the input must be a multiple of this number of voxels."""
        return 1 << (len(self.channels) - 1)


def build_fcn(settings: FcnSettings, level_count: int) -> nn.Module:
    """Build a network from (n, 1, z, y, x) of `network_input` to logits (n, ``level_count`` + 2, z, y, x)."""
    from monai.networks.nets.unet import UNet

    return UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=level_count + 2,
        channels=settings.channels,
        strides=(2,) * (len(settings.channels) - 1),
        num_res_units=settings.units,
        norm="batch",
    )


def network_input(image: Tensor) -> Tensor:
    """Clamp and scale HU of any shape, int16 or float, to float32 from -1 to 3."""
    return ((image.float().clamp(MIN_HU, MAX_HU)) - CENTRE_HU) / SCALE_HU


def class_of_label(recipe: Recipe) -> npt.NDArray[np.uint8]:
    """uint8 (256,): the class of each label value of a segmentation; 0 for values not in the recipe.

    Classes are 0 background, 1 to K the recipe's levels in their order, K + 1 all its other labels.
    """
    classes = np.zeros(256, np.uint8)
    for index, label in enumerate(recipe.levels.values()):
        classes[label] = index + 1
    for label in recipe.other_labels.values():
        classes[label] = len(recipe.levels) + 1
    return classes


def label_of_class(recipe: Recipe) -> npt.NDArray[np.uint8]:
    """uint8 (K + 2,): the label value of each class; 0 for the class below, which is several labels."""
    return np.array([0, *recipe.levels.values(), 0], np.uint8)


@torch.inference_mode()
def class_probabilities(network: nn.Module, image: Tensor, multiple: int) -> Tensor:
    """Class probabilities, float32 (K + 2, z, y, x), of an image (z, y, x) in HU.

    Puts the network into eval mode. Only `scanned_block` is evaluated, padded with air to a multiple of
    ``multiple`` voxels; everything else is background with probability 1.
    """
    block = scanned_block(image)
    scanned = image[block]
    padding = [width for size in reversed(scanned.shape) for width in (0, -size % multiple)]
    network.eval()
    logits = network(network_input(pad(scanned, padding, value=AIR_HU))[None, None])[0]
    padded = logits.float().softmax(dim=0)
    z, y, x = (slice(0, size) for size in scanned.shape)
    probabilities = torch.zeros((len(padded), *image.shape), device=image.device)
    probabilities[0] = 1.0
    probabilities[(slice(None), *block)] = padded[:, z, y, x]
    return probabilities


def is_air(image: Tensor) -> Tensor:
    """Whether each voxel is air, by its HU."""
    return image <= AIR_LIMIT_HU


def scanned_block(image: Tensor) -> tuple[slice, slice, slice]:
    """The bounding box (z, y, x) of all voxels that are not air; one voxel if there are none."""
    occupied = ~is_air(image)
    block = []
    for axis in range(3):
        other_axes = tuple(other for other in range(3) if other != axis)
        indices = occupied.amax(dim=other_axes).nonzero()[:, 0]
        block.append(slice(int(indices[0]), int(indices[-1]) + 1) if len(indices) else slice(0, 1))
    z, y, x = block
    return z, y, x
