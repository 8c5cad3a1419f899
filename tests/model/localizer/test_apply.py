"""Applying a localizer to a store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.localizer.apply import apply_localizer
from model.options import ApplyLocalizerOptions
from spine_etl.errors import CheckpointInvalid, FoldInvalid
from spine_etl.store import Store
from tests.model.localizer.untrained import save_untrained_fold


def test_each_study_is_scored_by_the_network_trained_without_it(
    tiny_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for fold in range(3):
        save_untrained_fold(tmp_path, tiny_store.recipe, fold, seed=fold)
    options = ApplyLocalizerOptions(
        str(tiny_store.location), tmp_path, evaluate=True, json=True, device="cpu"
    )
    figures = apply_localizer(options)
    assert figures is not None
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == figures
    assert figures["studies"] == len(tiny_store)
    (tmp_path / "fold1" / "localizer.json").unlink()
    with pytest.raises(CheckpointInvalid, match="held out fold 1"):
        apply_localizer(options)


def test_out_writes_the_table(tiny_store: Store, tmp_path: Path) -> None:
    save_untrained_fold(tmp_path, tiny_store.recipe)
    out = tmp_path / "table.csv"
    assert (
        apply_localizer(ApplyLocalizerOptions(str(tiny_store.location), tmp_path, out, device="cpu")) is None
    )
    assert out.read_text().startswith("study_uid,level")


def test_neither_table_nor_score_raises(tiny_store: Store, tmp_path: Path) -> None:
    save_untrained_fold(tmp_path, tiny_store.recipe)
    with pytest.raises(FoldInvalid, match="--out"):
        apply_localizer(ApplyLocalizerOptions(str(tiny_store.location), tmp_path, device="cpu"))
