"""The network: slices -> CNN -> BiLSTM -> a logit for each vertebra and one for the patient.

    slices (n, channels, y, x)  --slice encoder-->  32 features and a logit each
    a vertebra's slices         --BiLSTM, pooled-->  a logit for the vertebra, by its level's own head
    the vertebrae, in order     --BiLSTM, pooled-->  a logit for the patient

The CNN sees located vertebrae alone: what lies in the crop of one that is not there reaches neither the
logits nor the batch norms.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

_EMBEDDING = 32
"""Features after the seeds' first linear layer (512 -> 32)."""
_RARE = -2.0
"""The logit at which slices and vertebrae start: few are fractured."""
_PASSED = 2.0
"""Standard deviations of the seeds' scalar between its mean and its ReLU's zero, at the start."""


class NetworkSettings(BaseModel):
    """What a network is built from; travels with its weights.

    Parameters
    ----------
    encoder
        ``resnet18``, ``resnet34`` or ``resnet50``: torchvision's, to the parameter count, under the seeds'
        head. ``narrow``: the first two stages of a small one, under `EvidenceEncoder`'s head. It finds what
        is local, a line through bone, from few studies, and has no eye for the whole picture.
    lstm_input
        What of a slice the BiLSTM sees: its ``probability`` alone, as in the seeds, or its 32 ``features``.
    hidden
        Units of each direction of the BiLSTM.
    dropout
        Share of the pooled vertebra features that a training step leaves out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: Literal["resnet18", "resnet34", "resnet50", "narrow"] = "resnet34"
    lstm_input: Literal["probability", "features"] = "features"
    hidden: int = Field(default=256, ge=1, le=4096)
    dropout: float = Field(default=0.0, ge=0, lt=1)


@dataclass(frozen=True)
class Logits:
    """What the network says. Logits of vertebrae that are not located, and their slices', are 0.

    ``columns`` (study, level + 1): the levels, then the patient. ``slices`` (study, level, slice).
    """

    columns: Tensor
    slices: Tensor


class Encoding(NamedTuple):
    """What a slice encoder says of n slices: (n, 32), (n,), and evidence at each place (n, y, x) or None."""

    features: Tensor
    logits: Tensor
    places: Tensor | None


def resnet_trunk(encoder: str, channels: int) -> tuple[nn.Module, int]:
    """MONAI's 2D ResNet without its fc, weights drawn at random, and the number of its features."""
    from monai.networks.nets import resnet

    whole = getattr(resnet, encoder)(pretrained=False, conv1_t_stride=2, **_plain(channels))
    parts = _parts(whole, "conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool")
    # Its own forward fails where there is no slice, as one process of several may find in a step.
    return nn.Sequential(parts | {"flatten": nn.Flatten()}), 2048 if encoder == "resnet50" else 512


def narrow_trunk(channels: int) -> tuple[nn.Module, int]:
    """The first two stages of a small one: 64 features of 25 pixels each, a map a quarter of the size."""
    from monai.networks.nets import resnet

    whole = resnet.ResNet("basic", [1, 1, 1, 1], [32, 64, 64, 64], conv1_t_size=5, conv1_t_stride=2,
                          no_max_pool=True, **_plain(channels))  # fmt: skip
    return nn.Sequential(_parts(whole, "conv1", "bn1", "act", "layer1", "layer2")), 64


def _parts(whole: nn.Module, *names: str) -> OrderedDict[str, nn.Module]:
    return OrderedDict((name, getattr(whole, name)) for name in names)


def _plain(channels: int) -> dict[str, Any]:
    return {
        "spatial_dims": 2, "n_input_channels": channels, "feed_forward": False, "bias_downsample": False,
        "shortcut_type": "B",
    }  # fmt: skip


class SliceEncoder(nn.Module):
    """A ResNet whose fc is the seeds': features -> 32 -> 1, each with batch norm and ReLU, then a logit."""

    def __init__(self, encoder: str, channels: int) -> None:
        super().__init__()
        self.trunk, features = resnet_trunk(encoder, channels)
        self.embed = nn.Sequential(nn.Linear(features, _EMBEDDING), nn.BatchNorm1d(_EMBEDDING), nn.ReLU())
        self.squeeze = nn.Sequential(nn.Linear(_EMBEDDING, 1), nn.BatchNorm1d(1), nn.ReLU())
        self.logit = nn.Linear(1, 1)
        # A slice below the last ReLU's zero teaches nothing. Few are fractured, so training pushes nearly
        # all of them there: they start well above it, and their mean at the logit of what is rare.
        nn.init.constant_(self.squeeze[1].get_parameter("bias"), _PASSED)
        nn.init.constant_(self.logit.weight, 1.0)
        nn.init.constant_(self.logit.bias, _RARE - _PASSED)

    def forward(self, slices: Tensor) -> Encoding:
        """Slices are (n, channels, y, x)."""
        features = self.embed(self.trunk(slices))
        return Encoding(features, self.logit(self.squeeze(features))[:, 0], None)


class EvidenceEncoder(nn.Module):
    """A narrow trunk; at each place of its map a linear evidence, of which the slice has the greatest.

    A fracture is local: what the rest of a slice looks like says nothing against it. The 32 features are the
    greatest values of as many other linear maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.trunk, features = narrow_trunk(channels)
        self.evidence = nn.Conv2d(features, 1 + _EMBEDDING, 1)
        nn.init.constant_(self.evidence.get_parameter("bias"), _RARE)

    def forward(self, slices: Tensor) -> Encoding:
        """Slices are (n, channels, y, x)."""
        maps = self.evidence(self.trunk(slices))
        greatest = maps.amax(dim=(2, 3))
        return Encoding(greatest[:, 1:], greatest[:, 0], maps[:, 0])


class CnnLstm(nn.Module):
    """The whole network for ``levels`` vertebrae and views of ``channels`` channels."""

    def __init__(self, settings: NetworkSettings, channels: int, levels: int) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = (
            EvidenceEncoder(channels)
            if settings.encoder == "narrow"
            else SliceEncoder(settings.encoder, channels)
        )
        self.sequence = SequenceHead(settings, levels)

    def forward(self, views: Tensor, located: Tensor) -> Logits:
        """``views`` (study, level, slice, channel, y, x) and ``located`` (study, level) to logits."""
        features, slices = self.encode(views, located)
        return Logits(self.sequence(features, slices, located), slices)

    def encode(self, views: Tensor, located: Tensor) -> tuple[Tensor, Tensor]:
        """Features (study, level, slice, 32) and logits (study, level, slice), 0 where not located."""
        count = views.shape[2]
        there = views[located]
        features, logits, _ = self.encoder(there.flatten(0, 1))
        features, logits = features.unflatten(0, (-1, count)), logits.unflatten(0, (-1, count))
        return _placed(features.float(), located), _placed(logits.float(), located)


class SequenceHead(nn.Module):
    """The BiLSTM over a vertebra's slices, a head for each level, and the patient's over all levels.

    Both start from what is known and learn a correction, which starts at zero. A vertebra's logit starts as
    the mean of its slices' highest third; its level's head is a linear layer that all levels share plus one
    of its own, so rare levels lean on what the others learned. The patient's starts as that of "any
    vertebra is fractured" (one minus the product of the levels' negatives); its correction is from a second
    BiLSTM, which reads the vertebrae from head to foot.
    """

    def __init__(self, settings: NetworkSettings, levels: int) -> None:
        super().__init__()
        inputs = _EMBEDDING + 1 if settings.lstm_input == "features" else 1
        pooled = 4 * settings.hidden
        self.lstm_input = settings.lstm_input
        self.slice_lstm = nn.LSTM(inputs, settings.hidden, batch_first=True, bidirectional=True)
        self.drop = nn.Dropout(settings.dropout)
        self.shared = nn.Linear(pooled, 1)
        self.own = nn.Linear(pooled, levels)
        self.slices_weight = nn.Parameter(torch.ones(()))
        self.level_lstm = nn.LSTM(pooled, settings.hidden, batch_first=True, bidirectional=True)
        self.patient = nn.Linear(pooled, 1)
        self.any_weight = nn.Parameter(torch.ones(()))
        for layer in (self.shared, self.own, self.patient):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, slices: Tensor, located: Tensor) -> Tensor:
        """What `CnnLstm.encode` returns, and ``located``, to logits (study, level + 1), always in float32:
        autocast would halve what a recurrence adds up, and spare next to nothing."""
        with torch.autocast(features.device.type, enabled=False):
            return self._columns(features, slices, located)

    def _columns(self, features: Tensor, slices: Tensor, located: Tensor) -> Tensor:
        vertebrae = self._vertebrae(features, slices, located)
        level_of = located.nonzero()[:, 1]
        dropped = self.drop(vertebrae)
        logits = self.shared(dropped)[:, 0] + self.own(dropped).gather(1, level_of[:, None])[:, 0]
        logits = logits + self.slices_weight * _highest_third(slices[located])
        levels = _placed(logits, located)
        return torch.cat([levels, self._patient(_placed(vertebrae, located), levels, located)], dim=1)

    def _vertebrae(self, features: Tensor, slices: Tensor, located: Tensor) -> Tensor:
        """(located vertebra, 4 * hidden): mean and maximum of the BiLSTM's outputs over the slices."""
        probability = slices[located].sigmoid()[..., None]
        seen = probability if self.lstm_input == "probability" else torch.cat(
            [features[located], probability], dim=-1
        )  # fmt: skip
        outputs, _ = self.slice_lstm(seen)
        return torch.cat([outputs.mean(dim=1), outputs.amax(dim=1)], dim=-1)

    def _patient(self, vertebrae: Tensor, levels: Tensor, located: Tensor) -> Tensor:
        """(study, 1), from the vertebrae in order; one that is not located is zeros and is not pooled."""
        outputs, _ = self.level_lstm(vertebrae)
        absent = ~located[..., None]
        count = located.sum(dim=1, keepdim=True).clamp(min=1)
        mean = outputs.masked_fill(absent, 0.0).sum(dim=1) / count
        most = outputs.masked_fill(absent, -1.0).amax(dim=1)  # an LSTM's outputs lie between -1 and 1
        # log(1 - none) - log(none), none = product of (1 - p): stable through the sum of softplus.
        none = nn.functional.softplus(levels).masked_fill(~located, 0.0).sum(dim=1, keepdim=True)
        any_level = none + torch.log(-torch.expm1(-none.clamp(min=1e-6)))
        correction: Tensor = self.patient(self.drop(torch.cat([mean, most], dim=-1)))
        return self.any_weight * any_level + correction


def _highest_third(slices: Tensor) -> Tensor:
    """(n, slice) to (n,): the mean of each row's highest third, at least one."""
    return slices.topk(-(-slices.shape[1] // 3), dim=1).values.mean(dim=1)


def _placed(values: Tensor, located: Tensor) -> Tensor:
    """(located vertebra, ...) back into (study, level, ...), zeros elsewhere."""
    whole = values.new_zeros((*located.shape, *values.shape[1:]))
    whole[located] = values
    return whole
