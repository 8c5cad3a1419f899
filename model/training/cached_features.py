"""Cached CNN features: the batches of the sequence stage, whose CNN is fixed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.data.order import Order
from model.data.targets import Indices
from model.distributed import Ranks
from model.inference.predictor import Predictor
from spine_etl.errors import CheckpointInvalid


class CachedFeatures(NamedTuple):
    """Outputs of `CnnLstm.encode` for studies, with their labels; each tensor (study, ...)."""

    features: Tensor
    slices: Tensor
    located: Tensor
    labels: Tensor
    known: Tensor


@torch.no_grad()  # not inference_mode: the sequence stage trains on these tensors
def cache_features(predictor: Predictor, studies: Indices) -> CachedFeatures:
    """`CnnLstm.encode` of each study, in eval mode and not augmented, kept on the device."""
    parts = []
    for _, inputs in predictor.inputs(studies):
        features, slices = predictor.network.encode(inputs.views, inputs.located)
        parts.append(CachedFeatures(features, slices, inputs.located, inputs.labels, inputs.known))
    return CachedFeatures(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


@dataclass(frozen=True, eq=False)
class CachedBatch:
    """A batch of cached features; ``study`` and ``seed`` as in `model.data.loader.Batch`."""

    fields: CachedFeatures
    study: Tensor
    seed: Tensor


class CachedBatches:
    """Batches of cached features, in the order and with the state of `model.data.loader.Batches`."""

    def __init__(
        self, cached: CachedFeatures, studies: Indices, *, batch_size: int, seed: int, ranks: Ranks
    ) -> None:
        self.cached = cached
        self.studies = studies
        self.order = Order(
            np.arange(len(studies), dtype=np.int64),
            batch_size,
            seed=seed,
            shuffle=True,
            drop_last=False,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )
        self.epoch = 0
        self.position = 0

    def __iter__(self) -> Iterator[CachedBatch]:
        epoch = self.epoch
        for batch in self.order.batches_from(self.epoch, self.position):
            if batch.epoch != epoch:
                return
            self.position = batch.position + len(batch.studies)
            if self.position == len(self.order):
                self.epoch, self.position = epoch + 1, 0
            rows = torch.from_numpy(batch.studies).to(self.cached.labels.device)
            fields = CachedFeatures(*(tensor[rows] for tensor in self.cached))
            study = torch.from_numpy(self.studies[batch.studies])
            yield CachedBatch(fields, study, self.order.sample_seeds(batch))

    def wait_share(self) -> float:
        """Always 0: everything is in memory."""
        return 0.0

    def state_dict(self) -> dict[str, int]:
        """Epoch and position of the next batch, to be saved with a checkpoint."""
        return {"epoch": self.epoch, "position": self.position, "studies": len(self.studies)}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from that state. Raises CheckpointInvalid if it counts another number of studies."""
        if state.get("studies") != len(self.studies):
            found = state.get("studies")
            raise CheckpointInvalid(f"its loader had {found} studies, this one has {len(self.studies)}.")
        self.epoch, self.position = state["epoch"], state["position"]

    def close(self) -> None:
        """Nothing to release."""
