"""What a stage trains, on what, and towards what: the three objectives behind one face."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.data.inputs import Inputs
from model.distributed import Ranks, summed
from model.networks.cnn_lstm import CnnLstm, Encoding
from model.training.cached_features import CachedFeatures
from model.training.losses import Term, column_term, place_term, slice_term
from model.training.recipe import Stage


class Objective(Protocol):
    """A feed is what one step sees."""

    @property
    def trained(self) -> nn.Module:
        """The part of the network that learns."""
        ...

    def feeds(self, inputs: Any, seed: int) -> Iterator[Any]:
        """One or more steps' worth of a batch."""
        ...

    def terms(self, module: nn.Module, feed: Any) -> list[Term]:
        """The loss of a feed; ``module`` is ``trained``, possibly wrapped for several processes."""
        ...


class Joint:
    """CNN and BiLSTM together towards the competition's loss, the marked slices beside it."""

    def __init__(self, network: CnnLstm, stage: Stage, ranks: Ranks) -> None:
        self.trained = network
        self.factor = stage.slice_factor
        self.ranks = ranks

    def feeds(self, inputs: Inputs, seed: int) -> Iterator[Inputs]:
        if summed(inputs.located.sum(), self.ranks) > 0:  # mixed samples may have no level in common
            yield inputs

    def terms(self, module: nn.Module, feed: Inputs) -> list[Term]:
        logits = module(feed.views, feed.located)
        terms = [column_term(logits.columns, feed.labels, feed.known)]
        if self.factor:
            terms.append(slice_term(logits.slices, feed.slices, self.factor))
        return terms


class SliceFeed(NamedTuple):
    """Slices with known labels: (n, channel, y, x), (n,) and `Inputs.marks` (n, y, x).

    ``kept`` is the share of the unfractured slices that thinning left, a scalar.
    """

    views: Tensor
    labels: Tensor
    marks: Tensor | None
    kept: Tensor


class Slices:
    """The CNN alone: is there a fracture in this slice? And, where it has a map, at which place?

    A study without boxes contributes its unfractured vertebrae, as negatives; its fractured ones say
    nothing about single slices and are left out. Where unfractured slices are thinned, the odds of a
    fracture rise by a known factor; it is added to the logits that the loss sees, so the network's own stay
    those of all slices (Elkan 2001, "The foundations of cost-sensitive learning", theorem 2). The loss of
    places is no likelihood of slices and stays as it is.
    """

    def __init__(self, network: CnnLstm, stage: Stage, ranks: Ranks) -> None:
        self.trained = network.encoder
        self.most = max(2, stage.batch_size // ranks.world)
        self.negatives = stage.negatives
        self.ranks = ranks

    def feeds(self, inputs: Inputs, seed: int) -> Iterator[SliceFeed]:
        known = inputs.located[..., None] & (inputs.slices >= 0)
        views, labels = inputs.views[known], inputs.slices[known]
        marks = None if inputs.marks is None else inputs.marks[known]
        generator = torch.Generator().manual_seed(seed)
        order = self._thinned(torch.randperm(len(labels), generator=generator).to(labels.device), labels)
        # Thinning took from the end alone: mixed again, or the last steps would see nothing but fractures.
        order = order[torch.randperm(len(order), generator=generator).to(labels.device)]
        if summed(torch.tensor(len(order), device=labels.device), self.ranks) < 2:
            return  # batch norm needs two
        kept = _unfractured(labels[order]) / _unfractured(labels)
        for part in order.tensor_split(self._steps(len(order), labels.device)):
            yield SliceFeed(views[part], labels[part], None if marks is None else marks[part], kept)

    def _thinned(self, order: Tensor, labels: Tensor) -> Tensor:
        """The order less the unfractured slices that are too many; never fewer than one step has of them."""
        if self.negatives is None:
            return order
        positive = labels[order] > 0
        fractured = max(float(positive.sum()), self.most / (1 + self.negatives))
        kept = positive | ((~positive).cumsum(0) <= self.negatives * fractured)
        return order[kept]

    def _steps(self, slices: int, device: torch.device) -> int:
        """As many steps as the rank with the most slices needs: all ranks take the same number. That one has
        two slices in each: a batch norm takes no fewer."""
        steps = torch.tensor(max(1, min(-(-slices // self.most), slices // 2)), device=device)
        if self.ranks.world > 1:
            dist.all_reduce(steps, dist.ReduceOp.MAX)
        return int(steps)

    def terms(self, module: nn.Module, feed: SliceFeed) -> list[Term]:
        said: Encoding = module(feed.views)
        if said.places is None or feed.marks is None:
            return [slice_term(said.logits - feed.kept.log(), feed.labels)]
        return [place_term(said.places, feed.labels, feed.marks)]


def _unfractured(labels: Tensor) -> Tensor:
    """How many, at least 1."""
    return (labels == 0).sum().clamp(min=1)


class Sequence:
    """The BiLSTMs and heads alone, on cached CNN features."""

    def __init__(self, network: CnnLstm) -> None:
        self.trained = network.sequence

    def feeds(self, inputs: CachedFeatures, seed: int) -> Iterator[CachedFeatures]:
        yield inputs

    def terms(self, module: nn.Module, feed: CachedFeatures) -> list[Term]:
        columns = module(feed.features, feed.slices, feed.located)
        return [column_term(columns, feed.labels, feed.known)]


def objective_of(stage: Stage, network: CnnLstm, ranks: Ranks) -> Objective:
    if stage.objective == "joint":
        return Joint(network, stage, ranks)
    return Slices(network, stage, ranks) if stage.objective == "slices" else Sequence(network)
