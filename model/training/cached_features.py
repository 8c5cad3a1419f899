"""What a fixed CNN says of studies, computed once and kept in memory: the sequence stage's batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from model.data.inputs import inputs_of
from model.data.loader import Batches, Order
from model.data.targets import Indices
from model.data.views import own_labels
from model.distributed import Ranks
from model.networks.cnn_lstm import CnnLstm
from model.training.objectives import Encoded
from model.training.recipe import ViewSettings
from spine_etl.errors import CheckpointInvalid
from spine_etl.store import Store


@torch.no_grad()
def encode_studies(
    network: CnnLstm, view: ViewSettings, store: Store, studies: Indices, device: torch.device
) -> Encoded:
    """`CnnLstm.encode` of each study, in eval mode and as it is: nothing is augmented."""
    network.eval()
    own = own_labels(store.recipe, device)
    parts = []
    with Batches(store, studies, batch_size=4, device=device, shuffle=False) as batches:
        for batch in batches:
            inputs = inputs_of(batch, own, view)
            features, slices = network.encode(inputs.views, inputs.located)
            parts.append(Encoded(features, slices, inputs.located, inputs.labels, inputs.known.clone()))
    return Encoded(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


class EncodedBatch:
    """A batch of `Encoded` studies: ``study`` and ``seed`` as in `model.data.loader.Batch`."""

    def __init__(self, fields: Encoded, study: Tensor, seed: Tensor) -> None:
        self.fields = fields
        self.study = study
        self.seed = seed


class EncodedBatches:
    """Batches of what `encode_studies` gave, in the order and with the state of `Batches`."""

    def __init__(
        self, encoded: Encoded, studies: Indices, *, batch_size: int, seed: int, ranks: Ranks
    ) -> None:
        self.encoded = encoded
        self.studies = studies
        self.order = Order(
            np.arange(len(studies), dtype=np.int64), batch_size, seed, True, False, ranks.rank, ranks.world
        )
        self.epoch = 0
        self.position = 0

    def __len__(self) -> int:
        return -(-len(self.order) // self.order.batch_size)

    def __iter__(self) -> Iterator[EncodedBatch]:
        epoch = self.epoch
        for share in self.order.shares(self.epoch, self.position):
            if share.epoch != epoch:
                return
            self.position = share.position + len(share.studies)
            if self.position == len(self.order):
                self.epoch, self.position = epoch + 1, 0
            places = torch.from_numpy(share.studies).to(self.encoded.labels.device)
            fields = Encoded(*(tensor[places] for tensor in self.encoded))
            study = torch.from_numpy(self.studies[share.studies])
            yield EncodedBatch(fields, study, self.order.seeds(share))

    def wait_share(self) -> float:
        """Nothing is waited for: all of it is there."""
        return 0.0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position, "studies": len(self.studies)}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        if state.get("studies") != len(self.studies):
            raise CheckpointInvalid(
                f"its loader had {state.get('studies')} studies, this one has {len(self.studies)}."
            )
        self.epoch, self.position = state["epoch"], state["position"]

    def close(self) -> None: ...
