"""Slice encoders: the CNNs that turn axial slices into 32 features and a fracture logit each.

The baseline in this package is the baseline notebook: the public notebooks of the RSNA 2022 competition that
the project started from. In them a ResNet-34 classifies single slices, then a BiLSTM classifies vertebrae
from the slice probabilities. The recipe ``seed`` follows it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

from torch import Tensor, nn

FEATURES = 32
"""Features of a slice: the width of the baseline's first linear layer (512 -> 32)."""
_INITIAL_LOGIT = -2.0
"""Initial logit of slices: few are fractured."""
_INITIAL_MARGIN = 2.0
"""Standard deviations by which the mean input of the last ReLU initially exceeds zero."""


class Encoding(NamedTuple):
    """Output of a slice encoder for n slices: features (n, 32), logits (n,), evidence (n, y, x) or None."""

    features: Tensor
    logits: Tensor
    evidence: Tensor | None


def resnet_trunk(encoder: str, channels: int) -> tuple[nn.Module, int]:
    """MONAI's 2D ResNet without its fc, randomly initialised, and its number of features."""
    from monai.networks.nets import resnet

    network = getattr(resnet, encoder)(pretrained=False, conv1_t_stride=2, **_monai_options(channels))
    stages = ("layer1", "layer2", "layer3", "layer4")
    layers = _layers(network, "conv1", "bn1", "act", "maxpool", *stages, "avgpool")
    # MONAI's forward fails without slices, which one of several processes may have in a step.
    return nn.Sequential(layers | {"flatten": nn.Flatten()}), 2048 if encoder == "resnet50" else 512


def narrow_trunk(channels: int) -> tuple[nn.Module, int]:
    """The first two stages of a small ResNet, and its number of features.

    The output has 64 features, a quarter of the input's height and width, and a receptive field of 25 pixels.
    """
    from monai.networks.nets import resnet

    network = resnet.ResNet("basic", [1, 1, 1, 1], [32, 64, 64, 64], conv1_t_size=5, conv1_t_stride=2,
                            no_max_pool=True, **_monai_options(channels))  # fmt: skip
    return nn.Sequential(_layers(network, "conv1", "bn1", "act", "layer1", "layer2")), 64


def _layers(network: nn.Module, *names: str) -> OrderedDict[str, nn.Module]:
    return OrderedDict((name, getattr(network, name)) for name in names)


def _monai_options(channels: int) -> dict[str, Any]:
    """Options that make MONAI's ResNet 2D and its layers those of torchvision's."""
    return {
        "spatial_dims": 2, "n_input_channels": channels, "feed_forward": False, "bias_downsample": False,
        "shortcut_type": "B",
    }  # fmt: skip


class SliceEncoder(nn.Module):
    """A ResNet with the baseline's head: features -> 32 -> 1, each with batch norm and ReLU, then a logit."""

    def __init__(self, encoder: str, channels: int) -> None:
        super().__init__()
        self.trunk, features = resnet_trunk(encoder, channels)
        self.embed = nn.Sequential(nn.Linear(features, FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU())
        self.squeeze = nn.Sequential(nn.Linear(FEATURES, 1), nn.BatchNorm1d(1), nn.ReLU())
        self.logit = nn.Linear(1, 1)
        # The last ReLU passes no gradient for inputs below zero, and since few slices are fractured, training
        # pushes nearly all of them there. So its inputs start well above zero, and the mean logit low.
        nn.init.constant_(self.squeeze[1].get_parameter("bias"), _INITIAL_MARGIN)
        nn.init.constant_(self.logit.weight, 1.0)
        nn.init.constant_(self.logit.bias, _INITIAL_LOGIT - _INITIAL_MARGIN)

    def forward(self, slices: Tensor) -> Encoding:
        """Encode slices (n, channels, y, x)."""
        features = self.embed(self.trunk(slices))
        return Encoding(features, self.logit(self.squeeze(features))[:, 0], None)


class EvidenceEncoder(nn.Module):
    """A narrow trunk with a linear layer at each pixel of its map; a slice's logit is the highest evidence.

    A fracture is local: how the rest of a slice looks is no evidence against it. The 32 features are the
    maxima of 32 other linear maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.trunk, features = narrow_trunk(channels)
        self.evidence = nn.Conv2d(features, 1 + FEATURES, 1)
        nn.init.constant_(self.evidence.get_parameter("bias"), _INITIAL_LOGIT)

    def forward(self, slices: Tensor) -> Encoding:
        """Encode slices (n, channels, y, x)."""
        maps = self.evidence(self.trunk(slices))
        maxima = maps.amax(dim=(2, 3))
        return Encoding(maxima[:, 1:], maxima[:, 0], maps[:, 0])
