"""The localizer's network: a 3D fully convolutional network over the coarse overview of a study.

Long skip connections join encoder and decoder (Ronneberger et al. 2015, "U-Net"), short ones bridge each
unit of convolutions (He et al. 2016, "Deep Residual Learning"): MONAI's residual U-Net (Kerfoot et al. 2019).
It tells background, each level, and `below`: T1 and lower, so that the end of the neck is learnt.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import pad

from spine_etl.recipe import Recipe
from spine_etl.volume import AIR_HU

_CENTRE_HU, _SPREAD_HU = 300.0, 500.0
_DARKEST_HU, _BRIGHTEST_HU = -200.0, 1800.0
"""Fat is the darkest that tells anything of a neck's bones; what is brighter than cortical bone is metal."""


class FcnSettings(BaseModel):
    """What a network is built from; travels with its weights.

    Parameters
    ----------
    channels
        Features of each resolution, the finest first; each next one halves the size.
    units
        Convolutions that a short skip connection bridges.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: tuple[int, ...] = Field(default=(8, 16, 32, 64), min_length=2, max_length=6)
    units: int = Field(default=2, ge=1, le=4)

    @property
    def multiple(self) -> int:
        """What every axis of the input must be a multiple of."""
        return 1 << (len(self.channels) - 1)


def build_fcn(settings: FcnSettings, levels: int) -> nn.Module:
    """(n, 1, z, y, x) of `network_input` to logits (n, levels + 2, z, y, x)."""
    from monai.networks.nets.unet import UNet

    return UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=levels + 2,
        channels=settings.channels,
        strides=(2,) * (len(settings.channels) - 1),
        num_res_units=settings.units,
        norm="batch",
    )


def network_input(image: Tensor) -> Tensor:
    """HU, int16 or float, of any shape to float32 of about -1 to 3."""
    return ((image.float().clamp(_DARKEST_HU, _BRIGHTEST_HU)) - _CENTRE_HU) / _SPREAD_HU


def class_of_label(recipe: Recipe) -> npt.NDArray[np.uint8]:
    """(256,): the class of each number that a segmentation may hold; any that the recipe does not name is 0.

    0 background, 1 to K the recipe's levels in their order, K + 1 all its other labels.
    """
    classes = np.zeros(256, np.uint8)
    for index, number in enumerate(recipe.levels.values()):
        classes[number] = index + 1
    for number in recipe.other_labels.values():
        classes[number] = len(recipe.levels) + 1
    return classes


def label_of_class(recipe: Recipe) -> npt.NDArray[np.uint8]:
    """(K + 2,): the number of each class in a segmentation; that of `below`, no single label, is 0."""
    return np.array([0, *recipe.levels.values(), 0], np.uint8)


@torch.inference_mode()
def class_probabilities(network: nn.Module, image: Tensor, multiple: int) -> Tensor:
    """(z, y, x) HU to (K + 2, z, y, x) float32 probabilities, in eval mode.

    Only the block that holds anything but air is looked at, with air around it up to whole multiples; the
    rest is background for certain.
    """
    block = scanned_block(image)
    seen = image[block]
    beyond = [room for size in reversed(seen.shape) for room in (0, -size % multiple)]
    network.eval()
    whole = network(network_input(pad(seen, beyond, value=AIR_HU))[None, None])[0].float().softmax(dim=0)
    z, y, x = (slice(0, size) for size in seen.shape)
    classes = torch.zeros((len(whole), *image.shape), device=image.device)
    classes[0] = 1.0
    classes[(slice(None), *block)] = whole[:, z, y, x]
    return classes


def scanned_block(image: Tensor) -> tuple[slice, slice, slice]:
    """The block (z, y, x) that holds all that is not air; one voxel where there is nothing else."""
    there = image > AIR_HU + 100
    block = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        places = there.amax(dim=others).nonzero()[:, 0]
        block.append(slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 1))
    z, y, x = block
    return z, y, x
