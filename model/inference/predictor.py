"""Studies that a training sets aside, and what a network says of studies."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from model.data.inputs import Inputs, inputs_of
from model.data.loader import Batch, Batches
from model.data.targets import Indices
from model.data.views import own_labels
from model.distributed import within_memory
from model.inference.metrics import FloatArray
from model.networks.cnn_lstm import CnnLstm, Logits
from model.training.recipe import ViewSettings
from spine_etl.errors import FoldInvalid, LossNotFinite
from spine_etl.store import Store

_TOGETHER = 4
"""Studies that go through the network at once where nothing is trained."""


def inner_split(store: Store, studies: Indices, share: float) -> tuple[Indices, Indices]:
    """Studies to learn from and studies to validate with, of those outside the held-out fold.

    The held-out fold then chooses nothing: neither the epoch nor the temperature. Of fractured and
    unfractured patients the same share is set aside, evenly over the order of UIDs.

    Raises
    ------
    FoldInvalid
        If either part would be without a fractured or an unfractured patient.
    """
    overall = store.table["patient_overall"][studies]
    aside = np.zeros(len(studies), dtype=np.bool_)
    for kind, word in ((0, "unfractured"), (1, "fractured")):
        alike = np.flatnonzero(overall == kind)
        if len(alike) < 2:
            raise FoldInvalid(f"the training folds hold {len(alike)} {word} studies; two are the least.")
        count = max(1, round(share * len(alike)))
        aside[alike[((np.arange(count) + 0.5) * len(alike) / count).astype(int)]] = True
    return studies[~aside], studies[aside]


def labels_of(store: Store, studies: Indices) -> FloatArray:
    """(studies, levels + 1): 0, 1 or -1 (unknown)."""
    table = store.table
    labels = np.concatenate([table["fracture"], table["patient_overall"][:, None]], axis=1)
    chosen: FloatArray = labels[studies].astype(np.float64)
    return chosen


@torch.inference_mode()
def seen(
    network: CnnLstm, view: ViewSettings, store: Store, studies: Indices, device: torch.device
) -> Iterator[tuple[Batch, Inputs, Logits]]:
    """Each batch of the studies in their order, as the network sees it, with its logits. Sets eval mode."""
    network.eval()
    own = own_labels(store.recipe, device)
    with (
        within_memory(device),
        Batches(store, studies, batch_size=_TOGETHER, device=device, shuffle=False) as batches,
    ):
        for batch in batches:
            inputs = inputs_of(batch, own, view)
            yield batch, inputs, network(inputs.views, inputs.located)


def column_logits(
    network: CnnLstm, view: ViewSettings, store: Store, studies: Indices, device: torch.device
) -> FloatArray:
    """(studies, levels + 1) logits; NaN for a level that is not located, and a patient without any.

    Raises
    ------
    LossNotFinite
        If the network's own answer for a study is no number.
    """
    rows = []
    for batch, inputs, logits in seen(network, view, store, studies, device):
        columns = logits.columns.double()
        for study, answer in zip(batch.study.tolist(), columns, strict=True):
            if not answer.isfinite().all():
                raise LossNotFinite("the network's logits are not finite.", study=store.study_uids[study])
        columns[:, :-1][~inputs.located] = torch.nan
        columns[:, -1][~inputs.located.any(dim=1)] = torch.nan
        rows.append(columns.cpu().numpy())
    return np.concatenate(rows)
