"""Finished runs whose weights are random: predicting needs no training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model.data.views import ViewSettings
from model.inference.weights import MODEL, WEIGHTS, ModelDescription, save_weights
from model.networks.cnn_lstm import CnnLstm, NetworkSettings
from spine_etl.store import Store

VIEW = ViewSettings(positions=3, neighbours=1)


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """write_run(folder, store, seed=, fold=, temperature=): a finished run with random weights."""

    def write(folder: Path, store: Store, *, seed: int = 0, fold: int = 0, temperature: float = 1.0) -> Path:
        folder.mkdir()
        torch.manual_seed(seed)
        network = CnnLstm(NetworkSettings(encoder="narrow", hidden=4), VIEW.channels, len(store.levels))
        with torch.no_grad():
            for parameter in network.sequence.parameters():
                parameter.normal_(0, 0.5)
        save_weights(folder / WEIGHTS, network)
        model = ModelDescription(
            recipe="quick", network=network.settings, view=VIEW, levels=store.levels, fold=fold, version=1,
            fingerprint=store.fingerprint, root_digest=store.root_digest, temperature=temperature,
            prevalence=[0.1, 0.2, 0.3], weighted_prevalence=[0.15, 0.25, 0.45],
        )  # fmt: skip
        (folder / MODEL).write_text(model.model_dump_json())
        return folder

    return write
