"""The three objectives of a stage: which part of the network it trains, on what, and with which loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.data.inputs import Inputs
from model.distributed import Ranks, all_reduce_sum
from model.networks.cnn_lstm import CnnLstm
from model.networks.encoders import Encoding
from model.training.cached_features import CachedFeatures
from model.training.losses import Term, column_term, evidence_term, slice_term
from model.training.recipe import Stage


class Objective(Protocol):
    """What a stage needs of an objective."""

    @property
    def trained(self) -> nn.Module:
        """The part of the network that is trained."""
        ...

    def steps(self, inputs: Any, seed: int) -> Iterator[Any]:
        """Split a batch's inputs into those of single optimizer steps; all ranks take the same number."""
        ...

    def terms(self, module: nn.Module, inputs: Any) -> list[Term]:
        """The loss of one step's inputs; ``module`` is ``trained``, possibly wrapped for several ranks."""
        ...


def build_objective(stage: Stage, network: CnnLstm, ranks: Ranks) -> Objective:
    if stage.objective == "joint":
        return JointObjective(network, stage, ranks)
    if stage.objective == "slices":
        return SliceObjective(network, stage, ranks)
    return SequenceObjective(network)


class JointObjective:
    """CNN and BiLSTMs together on the competition's loss, plus the slices' cross-entropy."""

    def __init__(self, network: CnnLstm, stage: Stage, ranks: Ranks) -> None:
        self.trained = network
        self.slice_factor = stage.slice_factor
        self.ranks = ranks

    def steps(self, inputs: Inputs, seed: int) -> Iterator[Inputs]:
        if all_reduce_sum(inputs.located.sum(), self.ranks) > 0:  # mixed samples may have no level in common
            yield inputs

    def terms(self, module: nn.Module, inputs: Inputs) -> list[Term]:
        logits = module(inputs.views, inputs.located)
        terms = [column_term(logits.columns, inputs.labels, inputs.known)]
        if self.slice_factor:
            terms.append(slice_term(logits.slices, inputs.slices, self.slice_factor))
        return terms


class SliceInputs(NamedTuple):
    """Slices with known labels: views (n, channel, y, x), labels (n,) and `Inputs.box_masks` (n, y, x).

    ``kept_negatives`` is the share of the unfractured slices that were not thinned out, a scalar.
    """

    views: Tensor
    labels: Tensor
    box_masks: Tensor | None
    kept_negatives: Tensor


class SliceObjective:
    """The CNN alone: is there a fracture in this slice and, if the CNN has an evidence map, where in it?

    A study without boxes contributes its unfractured vertebrae as negatives; its fractured vertebrae have no
    slice labels and are left out. Where unfractured slices are thinned, the odds of a fracture rise by a
    known factor. It is added to the logits before the loss, so the network's own logits stay those of all
    slices (Elkan 2001, "The foundations of cost-sensitive learning", theorem 2). The loss of the evidence
    map is not a likelihood of slices and is not corrected.
    """

    def __init__(self, network: CnnLstm, stage: Stage, ranks: Ranks) -> None:
        self.trained = network.encoder
        self.max_slices = max(2, stage.batch_size // ranks.world_size)
        self.negatives = stage.negatives
        self.ranks = ranks

    def steps(self, inputs: Inputs, seed: int) -> Iterator[SliceInputs]:
        known = inputs.located[..., None] & (inputs.slices >= 0)
        views, labels = inputs.views[known], inputs.slices[known]
        box_masks = None if inputs.box_masks is None else inputs.box_masks[known]
        generator = torch.Generator().manual_seed(seed)
        order = self._thinned(torch.randperm(len(labels), generator=generator).to(labels.device), labels)
        # Thinning removes from the end only: shuffle again, or the last steps would see only fractures.
        order = order[torch.randperm(len(order), generator=generator).to(labels.device)]
        if all_reduce_sum(torch.tensor(len(order), device=labels.device), self.ranks) < 2:
            return  # batch norm needs two slices
        kept = _count_negatives(labels[order]) / _count_negatives(labels)
        for part in order.tensor_split(self._step_count(len(order), labels.device)):
            yield SliceInputs(views[part], labels[part], None if box_masks is None else box_masks[part], kept)

    def _thinned(self, order: Tensor, labels: Tensor) -> Tensor:
        """The order without the surplus unfractured slices; as many remain as one step has of them."""
        if self.negatives is None:
            return order
        positive = labels[order] > 0
        fractured = max(float(positive.sum()), self.max_slices / (1 + self.negatives))
        kept = positive | ((~positive).cumsum(0) <= self.negatives * fractured)
        return order[kept]

    def _step_count(self, slices: int, device: torch.device) -> int:
        """Number of steps, the same on all ranks: what the rank with the most slices needs.

        That rank has at least two slices in each step, since batch norm needs two.
        """
        steps = torch.tensor(max(1, min(-(-slices // self.max_slices), slices // 2)), device=device)
        if self.ranks.world_size > 1:
            dist.all_reduce(steps, dist.ReduceOp.MAX)
        return int(steps)

    def terms(self, module: nn.Module, inputs: SliceInputs) -> list[Term]:
        encoding: Encoding = module(inputs.views)
        if encoding.evidence is None or inputs.box_masks is None:
            return [slice_term(encoding.logits - inputs.kept_negatives.log(), inputs.labels)]
        return [evidence_term(encoding.evidence, inputs.labels, inputs.box_masks)]


def _count_negatives(labels: Tensor) -> Tensor:
    """Number of unfractured slices, at least 1."""
    return (labels == 0).sum().clamp(min=1)


class SequenceObjective:
    """The BiLSTMs and heads alone, on cached CNN features."""

    def __init__(self, network: CnnLstm) -> None:
        self.trained = network.sequence

    def steps(self, inputs: CachedFeatures, seed: int) -> Iterator[CachedFeatures]:
        yield inputs

    def terms(self, module: nn.Module, inputs: CachedFeatures) -> list[Term]:
        columns = module(inputs.features, inputs.slices, inputs.located)
        return [column_term(columns, inputs.labels, inputs.known)]
