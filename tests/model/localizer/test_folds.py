"""The files of a trained localizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.localizer.folds import FoldMetadata, finished_folds, is_finished, load_fold
from model.localizer.localizer import Localizer
from spine_etl.errors import CheckpointInvalid
from spine_etl.store import Store
from tests.model.localizer.untrained import save_untrained_fold

METADATA_V1 = """{
 "fold": 2,
 "levels": ["C1", "C2"],
 "spacing_mm": 3.0,
 "settings": {"channels": [8, 16, 32, 64], "units": 2},
 "order": {"log_initial": [0.0, null, null, null], "log_transition": [], "log_confusion": []},
 "trained_on": 44,
 "root_digest": "ab"
}
"""


def test_metadata_of_earlier_releases_is_read() -> None:
    metadata = FoldMetadata.model_validate_json(METADATA_V1)
    assert (metadata.fold, metadata.levels, metadata.spacing_mm) == (2, ["C1", "C2"], 3.0)
    assert (metadata.settings.channels, metadata.settings.units) == ((8, 16, 32, 64), 2)
    assert metadata.order["log_initial"] == [0.0, None, None, None]
    assert (metadata.trained_on, metadata.root_digest) == (44, "ab")


def test_saved_fold_is_finished_and_loads_in_eval_mode(tiny_store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "fold1"
    assert not is_finished(folder)
    save_untrained_fold(tmp_path, tiny_store.recipe, fold=1)
    assert is_finished(folder)
    assert finished_folds(tmp_path) == [folder]
    loaded = load_fold(folder, torch.device("cpu"))
    assert loaded.metadata.fold == 1
    assert loaded.order.level_count == len(tiny_store.recipe.levels)
    assert not loaded.network.training


def test_damaged_weights_raise(tiny_store: Store, tmp_path: Path) -> None:
    save_untrained_fold(tmp_path, tiny_store.recipe)
    weights = tmp_path / "fold0" / "localizer.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointInvalid, match="fold0 is damaged"):
        Localizer(tmp_path)


def test_digest_depends_on_the_weights(tiny_store: Store, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save_untrained_fold(tmp_path / name, tiny_store.recipe, seed=seed)
    a, b, c = (Localizer(tmp_path / name).digest for name in "abc")
    assert a == b != c
