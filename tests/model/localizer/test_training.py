"""Training of the localizer's folds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from model.localizer.folds import is_finished
from model.localizer.localizer import Localizer
from model.localizer.training import train_localizer
from model.options import TrainLocalizerOptions
from spine_etl.errors import FoldInvalid, OutputUnwritable
from spine_etl.store import Store


def test_finished_fold_is_not_trained_again(tiny_store: Store, tmp_path: Path) -> None:
    options = TrainLocalizerOptions(str(tiny_store.location), tmp_path, fold=1, epochs=1, device="cpu")
    train_localizer(options)
    assert is_finished(tmp_path / "fold1")
    assert not is_finished(tmp_path / "fold0")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    train_localizer(options)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    (metadata,) = (fold.metadata for fold in Localizer(tmp_path).folds)
    outside = (tiny_store.table["fold"] != 1).sum()
    assert (metadata.fold, metadata.trained_on, metadata.levels) == (1, outside, tiny_store.levels)


def test_training_is_reproducible(tiny_store: Store, tmp_path: Path) -> None:
    for name in "ab":
        train_localizer(
            TrainLocalizerOptions(str(tiny_store.location), tmp_path / name, fold=0, epochs=1, device="cpu")
        )
    assert Localizer(tmp_path / "a").digest == Localizer(tmp_path / "b").digest


def test_unwritable_folder_raises_before_the_training(tiny_store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run"
    options = TrainLocalizerOptions(str(tiny_store.location), out, epochs=10**9, device="cpu")
    with pytest.raises(OutputUnwritable, match="run cannot be written"):
        train_localizer(options)


def test_store_without_segmentations_raises(tmp_path: Path, build_store: Callable[..., Store]) -> None:
    store = build_store(tmp_path / "store", 4, {i: {"mask_source": "none"} for i in range(3)})
    with pytest.raises(FoldInvalid, match="studies with a segmentation are outside fold"):
        train_localizer(TrainLocalizerOptions(str(store.location), tmp_path / "run", device="cpu"))
    with pytest.raises(FoldInvalid, match="no fold 7"):
        train_localizer(TrainLocalizerOptions(str(store.location), tmp_path / "run", fold=7, device="cpu"))
