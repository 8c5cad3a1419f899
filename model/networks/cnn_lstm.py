"""The network: slices -> CNN -> BiLSTM -> a logit for each vertebra and one for the patient.

    slices (n, channels, y, x)  --slice encoder-->  32 features and a logit each
    a vertebra's slices         --BiLSTM, pooled-->  a logit for the vertebra, by the head of its level
    the vertebrae, in order     --BiLSTM, pooled-->  a logit for the patient

The CNN sees only located vertebrae: the crop of a vertebra that is not located affects neither the logits nor
the batch norms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from model.networks.encoders import FEATURES, EvidenceEncoder, SliceEncoder
from spine_etl.settings import StrictModel


class NetworkSettings(StrictModel):
    """Architecture of a network; saved with its weights.

    Parameters
    ----------
    encoder
        ``resnet18``, ``resnet34`` or ``resnet50``: a ResNet with torchvision's number of parameters and the
        baseline's head. ``narrow``: the first two stages of a small ResNet, with `EvidenceEncoder`'s head. It
        learns local signs, such as a line through bone, from few studies, but does not see the whole slice.
    lstm_input
        What the BiLSTM reads of each slice: only its ``probability``, as in the baseline, or its 32
        ``features`` and the probability.
    hidden
        Units of each direction of the BiLSTM.
    dropout
        Probability that a training step drops a pooled feature of a vertebra.
    """

    encoder: Literal["resnet18", "resnet34", "resnet50", "narrow"] = "resnet34"
    lstm_input: Literal["probability", "features"] = "features"
    hidden: int = Field(default=256, ge=1, le=4096)
    dropout: float = Field(default=0.0, ge=0, lt=1)


@dataclass(frozen=True)
class Logits:
    """Output of the network.

    Attributes
    ----------
    columns
        float32 (study, level + 1): the columns of `model.data.targets`; 0 for a level that is not located.
    slices
        float32 (study, level, slice); 0 for a level that is not located.
    """

    columns: Tensor
    slices: Tensor


class CnnLstm(nn.Module):
    """The complete network for ``levels`` vertebrae and views of ``channels`` channels."""

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
        """Logits of ``views`` (study, level, slice, channel, y, x); ``located`` is bool (study, level)."""
        features, slices = self.encode(views, located)
        return Logits(self.sequence(features, slices, located), slices)

    def encode(self, views: Tensor, located: Tensor) -> tuple[Tensor, Tensor]:
        """Features (study, level, slice, 32) and logits (study, level, slice), 0 where not located."""
        slice_count = views.shape[2]
        features, logits, _ = self.encoder(views[located].flatten(0, 1))
        features, logits = features.unflatten(0, (-1, slice_count)), logits.unflatten(0, (-1, slice_count))
        return _scatter(features.float(), located), _scatter(logits.float(), located)


class SequenceHead(nn.Module):
    """The BiLSTM over a vertebra's slices, a head for each level, and a head for the patient.

    Each head starts from a fixed estimate and learns a correction, which is initially zero. The estimate of a
    vertebra's logit is the mean of its highest third of slice logits. Its correction is a linear layer that
    all levels share plus one of its level, so that rare levels benefit from what the others learn. The
    estimate of the patient's logit is that of "any vertebra is fractured", one minus the product of the
    vertebrae's negatives. Its correction comes from a second BiLSTM, which reads the vertebrae from head to
    foot.
    """

    def __init__(self, settings: NetworkSettings, levels: int) -> None:
        super().__init__()
        inputs = FEATURES + 1 if settings.lstm_input == "features" else 1
        pooled = 4 * settings.hidden
        self.lstm_input = settings.lstm_input
        self.slice_lstm = nn.LSTM(inputs, settings.hidden, batch_first=True, bidirectional=True)
        self.drop = nn.Dropout(settings.dropout)
        self.shared = nn.Linear(pooled, 1)
        self.own = nn.Linear(pooled, levels)  # one output for each level; the name is in saved weights
        self.slices_weight = nn.Parameter(torch.ones(()))
        self.level_lstm = nn.LSTM(pooled, settings.hidden, batch_first=True, bidirectional=True)
        self.patient = nn.Linear(pooled, 1)
        self.any_weight = nn.Parameter(torch.ones(()))
        for layer in (self.shared, self.own, self.patient):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, slices: Tensor, located: Tensor) -> Tensor:
        """Logits (study, level + 1) from the outputs of `CnnLstm.encode` and ``located`` (study, level).

        Always computed in float32: autocast would round what a recurrence accumulates, and save next to
        nothing.
        """
        with torch.autocast(features.device.type, enabled=False):
            return self._columns(features, slices, located)

    def _columns(self, features: Tensor, slices: Tensor, located: Tensor) -> Tensor:
        vertebrae = self._pooled_vertebrae(features, slices, located)
        level_index = located.nonzero()[:, 1]
        dropped = self.drop(vertebrae)
        logits = self.shared(dropped)[:, 0] + self.own(dropped).gather(1, level_index[:, None])[:, 0]
        logits = logits + self.slices_weight * _mean_of_highest_third(slices[located])
        levels = _scatter(logits, located)
        return torch.cat([levels, self._patient(_scatter(vertebrae, located), levels, located)], dim=1)

    def _pooled_vertebrae(self, features: Tensor, slices: Tensor, located: Tensor) -> Tensor:
        """(located vertebra, 4 * hidden): mean and maximum of the BiLSTM's outputs over the slices."""
        probability = slices[located].sigmoid()[..., None]
        inputs = probability if self.lstm_input == "probability" else torch.cat(
            [features[located], probability], dim=-1
        )  # fmt: skip
        outputs, _ = self.slice_lstm(inputs)
        return torch.cat([outputs.mean(dim=1), outputs.amax(dim=1)], dim=-1)

    def _patient(self, vertebrae: Tensor, levels: Tensor, located: Tensor) -> Tensor:
        """The patient's logit (study, 1) from ``vertebrae`` (study, level, 4 * hidden) and their logits.

        A vertebra that is not located is read as zeros and left out of the pooling.
        """
        outputs, _ = self.level_lstm(vertebrae)
        absent = ~located[..., None]
        count = located.sum(dim=1, keepdim=True).clamp(min=1)
        mean = outputs.masked_fill(absent, 0.0).sum(dim=1) / count
        maximum = outputs.masked_fill(absent, -1.0).amax(dim=1)  # an LSTM's outputs are between -1 and 1
        # log(1 - none) - log(none), none = product of (1 - p): the sum of softplus, -log(none), is stable.
        minus_log_none = nn.functional.softplus(levels).masked_fill(~located, 0.0).sum(dim=1, keepdim=True)
        any_level = minus_log_none + torch.log(-torch.expm1(-minus_log_none.clamp(min=1e-6)))
        correction: Tensor = self.patient(self.drop(torch.cat([mean, maximum], dim=-1)))
        return self.any_weight * any_level + correction


def _mean_of_highest_third(slices: Tensor) -> Tensor:
    """(n, slice) to (n,): the mean of each row's highest third, at least one."""
    return slices.topk(-(-slices.shape[1] // 3), dim=1).values.mean(dim=1)


def _scatter(values: Tensor, located: Tensor) -> Tensor:
    """(located vertebra, ...) to (study, level, ...), with zeros where not located."""
    scattered = values.new_zeros((*located.shape, *values.shape[1:]))
    scattered[located] = values
    return scattered
