"""Tables of predictions: NaN where nothing is located, an error where the network's output is not finite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from model.inference.predictor import Predictor
from model.inference.weights import load_model
from spine_etl.errors import LossNotFinite
from spine_etl.store import Store
from spine_etl.store.record import LevelRecord

LOCATED = LevelRecord(status="located", origin_mm=(0.0, 0.0, 0.0), coverage=1.0, volume_mm3=1.0)
ABSENT = LevelRecord(status="absent")


def predictor(run: Path, store: Store) -> Predictor:
    network, model = load_model(run, store)
    return Predictor(network, model.view, store, torch.device("cpu"))


def test_levels_and_studies_without_crops_are_nan(
    tmp_path: Path, build_store: Callable[..., Store], write_run: Callable[..., Path]
) -> None:
    levels = {2: {"levels": {"C1": ABSENT, "C2": ABSENT}}, 3: {"levels": {"C1": ABSENT, "C2": LOCATED}}}
    store = build_store(tmp_path / "store", 6, levels)
    predict = predictor(write_run(tmp_path / "run", store), store)
    table = predict.probabilities(np.array([4, 3, 2]), temperature=2.0)
    assert np.isnan(table).tolist() == [[False] * 3, [True, False, False], [True] * 3]
    logits = predict.column_logits(np.array([4, 3]))
    assert np.isnan(logits).tolist() == np.isnan(table[:2]).tolist()
    np.testing.assert_allclose(table[:2], 1 / (1 + np.exp(-logits / 2.0)))


def test_predictions_do_not_depend_on_the_other_studies(
    tiny_store: Store, tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    predict = predictor(write_run(tmp_path / "run", tiny_store), tiny_store)
    together = predict.column_logits(np.arange(12))
    alone = [predict.column_logits(np.array([study]))[0] for study in range(12)]
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)


def test_logits_that_are_not_finite_name_the_study(
    tiny_store: Store, tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    predict = predictor(write_run(tmp_path / "run", tiny_store), tiny_store)
    with torch.no_grad():
        predict.network.sequence.own.bias[1] = torch.nan
    with pytest.raises(LossNotFinite, match="logits are not finite") as caught:
        predict.column_logits(np.array([7, 3]))
    assert caught.value.study == tiny_store.study_uids[7]
