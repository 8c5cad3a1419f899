"""Predictions of a network on studies of a store: logits batch by batch, and tables of probabilities."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from model.data.inputs import Inputs, inputs_of
from model.data.loader import Batch, Batches
from model.data.targets import Indices
from model.data.views import ViewSettings, level_labels
from model.device import within_memory
from model.inference.calibration import probabilities
from model.inference.metrics import FloatArray
from model.networks.cnn_lstm import CnnLstm, Logits
from spine_etl.errors import LossNotFinite
from spine_etl.store import Store

_BATCH_SIZE = 4


class Predictor:
    """A network together with the view, the store and the device that it predicts on.

    Every method takes the indices of studies, keeps their order, and puts the network in eval mode.
    Nothing is augmented.
    """

    def __init__(self, network: CnnLstm, view: ViewSettings, store: Store, device: torch.device) -> None:
        self.network = network
        self.view = view
        self.store = store
        self.device = device

    def inputs(self, studies: Indices) -> Iterator[tuple[Batch, Inputs]]:
        """Batches of the studies, each with what the network sees of it; valid until the next one."""
        self.network.eval()
        labels = level_labels(self.store.recipe, self.device)
        with (
            within_memory(self.device),
            Batches(
                self.store, studies, batch_size=_BATCH_SIZE, device=self.device, shuffle=False
            ) as batches,
        ):
            for batch in batches:
                yield batch, inputs_of(batch, labels, self.view)

    @torch.inference_mode()
    def logits(self, studies: Indices) -> Iterator[tuple[Batch, Inputs, Logits]]:
        """Batches as from `inputs`, each with its logits."""
        for batch, inputs in self.inputs(studies):
            yield batch, inputs, self.network(inputs.views, inputs.located)

    def column_logits(self, studies: Indices) -> FloatArray:
        """(studies, levels + 1) logits; NaN for a level that is not located and a patient without any.

        Every study needs a crop.

        Raises
        ------
        LossNotFinite
            If the network's own output for a study is not finite.
        """
        rows = []
        for batch, inputs, logits in self.logits(studies):
            columns = logits.columns.double()
            for study, row in zip(batch.study.tolist(), columns, strict=True):
                if not row.isfinite().all():
                    uid = self.store.study_uids[study]
                    raise LossNotFinite("the network's logits are not finite.", study=uid)
            columns[:, :-1][~inputs.located] = torch.nan
            columns[:, -1][~inputs.located.any(dim=1)] = torch.nan
            rows.append(columns.cpu().numpy())
        return np.concatenate(rows)

    def probabilities(self, studies: Indices, temperature: float) -> FloatArray:
        """(studies, levels + 1) probabilities; NaN for a level that is not located and a patient without any.

        Studies may lack crops. Raises LossNotFinite as `column_logits` does.
        """
        table = np.full((len(studies), len(self.store.levels) + 1), np.nan)
        has_crops = self.store.located()[studies].any(axis=1)
        if has_crops.any():
            logits = self.column_logits(studies[has_crops])
            values = probabilities(np.nan_to_num(logits), temperature)
            table[has_crops] = np.where(np.isnan(logits), np.nan, values)
        return table
