"""The submission table and the score of a fold, and which folds and runs are refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.data.inputs import inputs_of
from model.data.loader import Batches
from model.data.views import ViewSettings, level_labels
from model.inference.calibration import probabilities
from model.inference.explanation import explain_study
from model.inference.metrics import weighted_log_loss
from model.inference.submission import predict_store
from model.inference.weights import MODEL, load_model
from model.options import ExplainOptions, PredictOptions
from model.predict import predict
from spine_etl.errors import CheckpointInvalid, ChunkMissing, FoldInvalid
from spine_etl.store import Store
from spine_etl.store.record import LevelRecord

VIEW = ViewSettings(positions=3, neighbours=1)
LOCATED = LevelRecord(status="located", origin_mm=(0.0, 0.0, 0.0), coverage=1.0, volume_mm3=1.0)
ABSENT = LevelRecord(status="absent")


def read_table(path: Path) -> dict[str, float]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["row_id", "fractured"]
    assert len({row["row_id"] for row in rows}) == len(rows)
    return {row["row_id"]: float(row["fractured"]) for row in rows}


def predicted_alone(run: Path, store: Store, study: int) -> list[float]:
    """The study's probabilities, computed without other studies."""
    network, model = load_model(run, store)
    with Batches(store, [study], batch_size=1, shuffle=False) as batches, torch.no_grad():
        inputs = inputs_of(next(iter(batches)), level_labels(store.recipe), VIEW)
        logits = network(inputs.views, inputs.located).columns[0].numpy()
    row: list[float] = probabilities(logits, model.temperature).tolist()
    return row


def test_table_has_the_mean_of_the_runs(
    tiny_store: Store, tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    runs = [
        write_run(tmp_path / "a", tiny_store, seed=1, fold=0, temperature=2.0),
        write_run(tmp_path / "b", tiny_store, seed=2, fold=1),
    ]
    out = tmp_path / "new" / "submission.csv"
    predict_store(PredictOptions(str(tiny_store.location), tuple(runs), out, device="cpu"))
    found = read_table(out)
    columns = ["C1", "C2", "patient_overall"]
    assert list(found) == [f"{uid}_{column}" for uid in tiny_store.study_uids for column in columns]
    for study in (0, 7):
        expected = np.mean([predicted_alone(run, tiny_store, study) for run in runs], axis=0)
        uid = tiny_store.study_uids[study]
        assert [found[f"{uid}_{column}"] for column in columns] == pytest.approx(expected, abs=1e-6)


def test_fold_is_scored(
    tiny_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], write_run: Callable[..., Path]
) -> None:
    run = write_run(tmp_path / "run", tiny_store, fold=1)
    options = PredictOptions(
        str(tiny_store.location), (run,), tmp_path / "fold.csv", fold=1, evaluate=True, json=True,
        pictures=tmp_path / "pictures", device="cpu",
    )  # fmt: skip
    predict(options)
    (line,) = capsys.readouterr().out.splitlines()
    score = json.loads(line)
    here = np.flatnonzero(tiny_store.table["fold"] == 1)
    others = np.flatnonzero(tiny_store.table["fold"] != 1)
    labels = np.column_stack([tiny_store.table["fracture"], tiny_store.table["patient_overall"]])
    predicted = np.array(list(read_table(tmp_path / "fold.csv").values())).reshape(-1, 3)
    assert score["studies"] == len(here) == len(predicted)
    assert score["weighted_log_loss"] == pytest.approx(weighted_log_loss(labels[here], predicted), abs=1e-5)
    weights = np.where(labels[others] == 1, 2, 1)  # a factor of 7 on a whole column cancels
    constant = (weights * labels[others]).sum(axis=0) / weights.sum(axis=0)
    baseline = weighted_log_loss(labels[here], np.tile(constant, (len(here), 1)))
    assert score["baseline"] == pytest.approx(baseline)
    assert score["auroc_levels"]["C2"] is None  # no C2 is fractured
    assert score["auroc"] == pytest.approx((score["auroc_levels"]["C1"] + score["auroc_patient"]) / 2)
    for name in ("roc.png", "reliability.png"):
        assert (tmp_path / "pictures" / name).read_bytes().startswith(b"\x89PNG")


def test_level_without_crop_gets_the_weighted_prevalence(
    tmp_path: Path,
    build_store: Callable[..., Store],
    capsys: pytest.CaptureFixture[str],
    write_run: Callable[..., Path],
) -> None:
    fields: dict[int, dict[str, Any]] = {
        2: {"levels": {"C1": ABSENT, "C2": ABSENT}},
        3: {"levels": {"C1": ABSENT, "C2": LOCATED}},
    }
    store = build_store(tmp_path / "store", 5, fields)
    run = write_run(tmp_path / "run", store)
    predict_store(PredictOptions(str(store.location), (run,), tmp_path / "table.csv", device="cpu"))
    found = list(read_table(tmp_path / "table.csv").values())
    assert found[6:9] == [0.15, 0.25, 0.45]
    assert found[9] == 0.15
    assert found[10] != 0.25
    assert found[11] != 0.45
    warned = capsys.readouterr().err
    assert "1 studies without a located vertebra" in warned
    assert "1 levels that are not located" in warned


def test_level_that_is_not_located_gets_no_certain_probability(
    tmp_path: Path,
    build_store: Callable[..., Store],
    write_run: Callable[..., Path],
) -> None:
    """C2 has no crop here, and was never fractured in the training folds."""
    store = build_store(tmp_path / "store", 5, {2: {"levels": {"C1": LOCATED, "C2": ABSENT}}})
    run = write_run(tmp_path / "run", store)
    sure = (run / MODEL).read_text().replace("0.15,0.25,0.45", "0.0,0.0,1.0")
    assert "0.0,0.0,1.0" in sure
    (run / MODEL).write_text(sure)
    predict_store(PredictOptions(str(store.location), (run,), tmp_path / "table.csv", device="cpu"))
    assert list(read_table(tmp_path / "table.csv").values())[7] == 0.01


def test_run_that_trained_on_the_fold_is_not_scored(
    tiny_store: Store, tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    runs = (write_run(tmp_path / "a", tiny_store, fold=0), write_run(tmp_path / "b", tiny_store, fold=1))
    with pytest.raises(CheckpointInvalid, match="b held out fold 1"):
        predict_store(
            PredictOptions(
                str(tiny_store.location), runs, tmp_path / "x.csv", fold=0, evaluate=True, device="cpu"
            )
        )
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize("options", [{"evaluate": True}, {"fold": 3}, {"fold": -1}])
def test_missing_or_unknown_fold_is_refused(
    tiny_store: Store, tmp_path: Path, options: dict[str, Any], write_run: Callable[..., Path]
) -> None:
    run = write_run(tmp_path / "run", tiny_store)
    with pytest.raises(FoldInvalid):
        predict_store(
            PredictOptions(str(tiny_store.location), (run,), tmp_path / "x.csv", device="cpu", **options)
        )


@pytest.mark.integration
def test_store_on_s3_gives_the_same_table_and_picture(
    tiny_store: Store,
    s3_bucket: str,
    tmp_path: Path,
    build_store: Callable[..., Store],
    write_run: Callable[..., Path],
) -> None:
    run, far = write_run(tmp_path / "run", tiny_store), f"{s3_bucket}/store"
    build_store(far, len(tiny_store))
    written: dict[str, tuple[bytes, bytes]] = {}
    for address in (far, str(tiny_store.location)):
        cache = tmp_path / "cache" if address == far else None
        table, picture = tmp_path / "all.csv", tmp_path / "study.png"
        predict_store(PredictOptions(address, (run,), table, cache=cache, device="cpu"))
        explain_study(
            ExplainOptions(address, run, tiny_store.study_uids[3], picture, cache=cache, device="cpu")
        )
        written[address] = (table.read_bytes(), picture.read_bytes())
    assert written[far] == written[str(tiny_store.location)]
    assert len([path for path in (tmp_path / "cache").rglob("*") if path.is_file()]) >= 2 * len(tiny_store)


def test_unreadable_study_is_named(
    tmp_path: Path, build_store: Callable[..., Store], write_run: Callable[..., Path]
) -> None:
    store = build_store(tmp_path / "store", 5)
    run = write_run(tmp_path / "run", store)
    (tmp_path / "store" / store.arrays["mask"].key(int(store.table["row"][3]))).unlink()
    with pytest.raises(ChunkMissing) as caught:
        predict_store(PredictOptions(str(store.location), (run,), tmp_path / "x.csv", device="cpu"))
    assert caught.value.study == store.study_uids[3]
    assert not (tmp_path / "x.csv").exists()
