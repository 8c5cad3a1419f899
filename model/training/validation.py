"""Validation studies: set aside from the training folds, they choose the weights and the temperature."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from model.data.targets import Indices, study_labels
from model.inference.calibration import probabilities
from model.inference.metrics import FloatArray, weighted_log_loss
from model.inference.predictor import Predictor
from model.networks.cnn_lstm import CnnLstm
from model.training.cached_features import CachedFeatures
from model.training.losses import column_term, slice_term
from spine_etl.errors import FoldInvalid
from spine_etl.store import Store


def validation_split(store: Store, studies: Indices, share: float) -> tuple[Indices, Indices]:
    """Split the studies of the training folds into those to learn from and those to validate with.

    The held-out fold then chooses nothing: neither the epoch nor the temperature. The same share of
    fractured and of unfractured patients is set aside, evenly over the order of UIDs.

    Raises
    ------
    FoldInvalid
        If either part would lack a fractured or an unfractured patient.
    """
    overall = store.table["patient_overall"][studies]
    validating = np.zeros(len(studies), dtype=np.bool_)
    for label, name in ((0, "unfractured"), (1, "fractured")):
        candidates = np.flatnonzero(overall == label)
        if len(candidates) < 2:
            raise FoldInvalid(
                f"the training folds have {len(candidates)} {name} studies; at least two are needed."
            )
        count = max(1, round(share * len(candidates)))
        validating[candidates[((np.arange(count) + 0.5) * len(candidates) / count).astype(int)]] = True
    return studies[~validating], studies[validating]


class Validation:
    """Losses of a network on the validation studies, as it predicts."""

    def __init__(self, predictor: Predictor, studies: Indices) -> None:
        self.predictor = predictor
        self.studies = studies

    def labels_and_logits(self) -> tuple[FloatArray, FloatArray]:
        """(studies, levels + 1) each; the label is -1 and the logit 0 where nothing is located."""
        logits = self.predictor.column_logits(self.studies)
        labels = np.where(np.isnan(logits), -1, study_labels(self.predictor.store, self.studies))
        return labels, np.nan_to_num(logits)

    def column_loss(self) -> float:
        """The competition's weighted log loss, without a temperature."""
        labels, logits = self.labels_and_logits()
        return weighted_log_loss(labels, probabilities(logits))

    def slice_loss(self) -> float:
        """Binary cross-entropy of the slices whose label is known."""
        terms: list[Tensor] = []
        for _, inputs, logits in self.predictor.logits(self.studies):
            labels = inputs.slices.masked_fill(~inputs.located[..., None], -1.0)
            terms.append(torch.stack(slice_term(logits.slices, labels)[:2]))
        total, weight = torch.stack(terms).sum(dim=0).tolist()
        return float(total / max(weight, 1.0))


@torch.inference_mode()
def cached_loss(network: CnnLstm, cached: CachedFeatures) -> float:
    """The competition's weighted log loss of the sequence head on cached CNN features. Sets eval mode."""
    network.eval()
    columns = network.sequence(cached.features, cached.slices, cached.located)
    total, weight, _ = column_term(columns, cached.labels, cached.known)
    return float(total / weight)
