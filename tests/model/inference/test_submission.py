"""From runs to a table, a score and pictures; what must not be scored is refused."""

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
from model.data.views import own_labels
from model.inference.calibration import probabilities
from model.inference.curves import draw_curves, reliability_curve, roc_curve
from model.inference.explanation import draw, own_boxes
from model.inference.metrics import weighted_log_loss
from model.inference.submission import predict_store
from model.inference.weights import MODEL, WEIGHTS, ModelDescription, load_model, save_weights
from model.networks.cnn_lstm import CnnLstm, NetworkSettings
from model.options import ExplainOptions, PredictOptions
from model.predict import predict
from model.training.recipe import ViewSettings
from spine_etl.errors import CheckpointInvalid, ChunkMissing, FoldInvalid, LossNotFinite, StudyNotInStore
from spine_etl.store import Store
from spine_etl.store.record import BoxRecord, LevelRecord

VIEW = ViewSettings(positions=3, neighbours=1)
CPU = torch.device("cpu")
LOCATED = LevelRecord(status="located", origin_mm=(0.0, 0.0, 0.0), coverage=1.0, volume_mm3=1.0)
ABSENT = LevelRecord(status="absent")


def run_of(folder: Path, store: Store, *, seed: int = 0, fold: int = 0, temperature: float = 1.0) -> Path:
    """A finished run whose weights were drawn, not trained."""
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


def table(path: Path) -> dict[str, float]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["row_id", "fractured"]
    assert len({row["row_id"] for row in rows}) == len(rows)
    return {row["row_id"]: float(row["fractured"]) for row in rows}


def by_hand(run: Path, store: Store, study: int) -> list[float]:
    """The study's probabilities, one study at a time."""
    network, model = load_model(run, store)
    with Batches(store, [study], batch_size=1, shuffle=False) as batches, torch.no_grad():
        inputs = inputs_of(next(iter(batches)), own_labels(store.recipe), VIEW)
        logits = network(inputs.views, inputs.located).columns[0].numpy()
    said: list[float] = probabilities(logits, model.temperature).tolist()
    return said


def test_the_table_holds_the_mean_of_the_runs(tiny_store: Store, tmp_path: Path) -> None:
    runs = [
        run_of(tmp_path / "a", tiny_store, seed=1, fold=0, temperature=2.0),
        run_of(tmp_path / "b", tiny_store, seed=2, fold=1),
    ]
    out = tmp_path / "new" / "submission.csv"
    predict_store(PredictOptions(str(tiny_store.location), tuple(runs), out, device="cpu"))
    found = table(out)
    columns = ["C1", "C2", "patient_overall"]
    assert list(found) == [f"{uid}_{column}" for uid in tiny_store.study_uids for column in columns]
    for study in (0, 7):
        expected = np.mean([by_hand(run, tiny_store, study) for run in runs], axis=0)
        uid = tiny_store.study_uids[study]
        assert [found[f"{uid}_{column}"] for column in columns] == pytest.approx(expected, abs=1e-6)


def test_a_fold_is_scored(tiny_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path / "run", tiny_store, fold=1)
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
    said = np.array(list(table(tmp_path / "fold.csv").values())).reshape(-1, 3)
    assert score["studies"] == len(here) == len(said)
    assert score["weighted_log_loss"] == pytest.approx(weighted_log_loss(labels[here], said), abs=1e-5)
    weights = np.where(labels[others] == 1, 2, 1)  # a factor of 7 on a whole column cancels
    constant = (weights * labels[others]).sum(axis=0) / weights.sum(axis=0)
    baseline = weighted_log_loss(labels[here], np.tile(constant, (len(here), 1)))
    assert score["baseline"] == pytest.approx(baseline)
    assert score["auroc_levels"]["C2"] is None  # no C2 is fractured
    assert score["auroc"] == pytest.approx((score["auroc_levels"]["C1"] + score["auroc_patient"]) / 2)
    for name in ("roc.png", "reliability.png"):
        assert (tmp_path / "pictures" / name).read_bytes().startswith(b"\x89PNG")


def test_what_has_no_crop_gets_the_weighted_prevalence(
    tmp_path: Path, build_store: Callable[..., Store], capsys: pytest.CaptureFixture[str]
) -> None:
    fields: dict[int, dict[str, Any]] = {
        2: {"levels": {"C1": ABSENT, "C2": ABSENT}},
        3: {"levels": {"C1": ABSENT, "C2": LOCATED}},
    }
    store = build_store(tmp_path / "store", 5, fields)
    run = run_of(tmp_path / "run", store)
    predict_store(PredictOptions(str(store.location), (run,), tmp_path / "table.csv", device="cpu"))
    found = list(table(tmp_path / "table.csv").values())
    assert found[6:9] == [0.15, 0.25, 0.45]
    assert found[9] == 0.15
    assert found[10] != 0.25
    assert found[11] != 0.45
    warned = capsys.readouterr().err
    assert "1 studies without a located vertebra" in warned
    assert "1 levels that are not located" in warned


def test_what_cannot_be_seen_is_never_certain(
    tmp_path: Path, build_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it where there is a crop, but none of the level's voxels in it."""
    store = build_store(tmp_path / "store", 5, {2: {"levels": {"C1": LOCATED, "C2": ABSENT}}})
    run = run_of(tmp_path / "run", store)
    sure = (run / MODEL).read_text().replace("0.15,0.25,0.45", "0.0,0.0,1.0")
    assert "0.0,0.0,1.0" in sure
    (run / MODEL).write_text(sure)
    predict_store(PredictOptions(str(store.location), (run,), tmp_path / "table.csv", device="cpu"))
    assert list(table(tmp_path / "table.csv").values())[7] == 0.01


def test_a_run_that_saw_the_fold_is_not_scored(tiny_store: Store, tmp_path: Path) -> None:
    runs = (run_of(tmp_path / "a", tiny_store, fold=0), run_of(tmp_path / "b", tiny_store, fold=1))
    with pytest.raises(CheckpointInvalid, match="b held out fold 1"):
        predict_store(
            PredictOptions(
                str(tiny_store.location), runs, tmp_path / "x.csv", fold=0, evaluate=True, device="cpu"
            )
        )
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize("options", [{"evaluate": True}, {"fold": 3}, {"fold": -1}])
def test_folds_that_cannot_be_scored(tiny_store: Store, tmp_path: Path, options: dict[str, Any]) -> None:
    run = run_of(tmp_path / "run", tiny_store)
    with pytest.raises(FoldInvalid):
        predict_store(
            PredictOptions(str(tiny_store.location), (run,), tmp_path / "x.csv", device="cpu", **options)
        )


@pytest.mark.integration
def test_a_store_on_s3_gives_the_same(
    tiny_store: Store, s3_bucket: str, tmp_path: Path, build_store: Callable[..., Store]
) -> None:
    run, far = run_of(tmp_path / "run", tiny_store), f"{s3_bucket}/store"
    build_store(far, len(tiny_store))
    written: dict[str, tuple[bytes, bytes]] = {}
    for address in (far, str(tiny_store.location)):
        cache = tmp_path / "cache" if address == far else None
        table, picture = tmp_path / "all.csv", tmp_path / "study.png"
        predict_store(PredictOptions(address, (run,), table, cache=cache, device="cpu"))
        draw(ExplainOptions(address, run, tiny_store.study_uids[3], picture, cache=cache, device="cpu"))
        written[address] = (table.read_bytes(), picture.read_bytes())
    assert written[far] == written[str(tiny_store.location)]
    assert len([path for path in (tmp_path / "cache").rglob("*") if path.is_file()]) >= 2 * len(tiny_store)


def test_a_study_that_cannot_be_read_is_named(tmp_path: Path, build_store: Callable[..., Store]) -> None:
    store = build_store(tmp_path / "store", 5)
    run = run_of(tmp_path / "run", store)
    (tmp_path / "store" / store.arrays["mask"].key(int(store.table["row"][3]))).unlink()
    with pytest.raises(ChunkMissing) as caught:
        predict_store(PredictOptions(str(store.location), (run,), tmp_path / "x.csv", device="cpu"))
    assert caught.value.study == store.study_uids[3]
    assert not (tmp_path / "x.csv").exists()


def test_a_network_that_says_no_number_is_no_missing_level(tiny_store: Store, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", tiny_store)
    network, _ = load_model(run, tiny_store)
    with torch.no_grad():
        network.sequence.own.bias[1] = torch.nan
    save_weights(run / WEIGHTS, network)
    with pytest.raises(LossNotFinite, match=tiny_store.study_uids[0]):
        predict_store(PredictOptions(str(tiny_store.location), (run,), tmp_path / "x.csv", device="cpu"))


def test_a_study_is_drawn(tiny_store: Store, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", tiny_store)
    out = tmp_path / "study.png"
    draw(ExplainOptions(str(tiny_store.location), run, tiny_store.study_uids[3], out, device="cpu"))
    assert out.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(StudyNotInStore):
        draw(ExplainOptions(str(tiny_store.location), run, "9.9", out, device="cpu"))


def test_only_the_levels_own_boxes_are_drawn_in_it(tmp_path: Path, build_store: Callable[..., Store]) -> None:
    def of(level: str | None, z: float) -> BoxRecord:
        corners = dict.fromkeys(("C1", "C2"), (z, 1.0, 1.0, z + 1, 3.0, 3.0))
        return BoxRecord(x=1, y=1, width=2, height=2, slice_number=1, level=level, in_crops=corners)

    boxes = (of("C1", 0.0), of("C2", 2.0), of(None, 4.0))
    store = build_store(tmp_path / "store", 3, {1: {"boxes": boxes}})
    assert own_boxes(store, 1, 0)[:, 0].tolist() == [0.0, 4.0]
    assert own_boxes(store, 1, 1)[:, 0].tolist() == [2.0, 4.0]
    assert len(own_boxes(store, 0, 0)) == 0


def test_a_study_without_crops_is_drawn_too(tmp_path: Path, build_store: Callable[..., Store]) -> None:
    absent = LevelRecord(status="absent")
    store = build_store(tmp_path / "store", 5, {1: {"levels": {"C1": absent, "C2": absent}}})
    run = run_of(tmp_path / "run", store)
    out = tmp_path / "study.png"
    draw(ExplainOptions(str(store.location), run, store.study_uids[1], out, device="cpu"))
    assert out.exists()


def test_the_roc_curve_by_hand() -> None:
    false, true = roc_curve([1, 0, 1, 0], [0.9, 0.8, 0.8, 0.1])
    assert false.tolist() == [0, 0, 0.5, 1]
    assert true.tolist() == [0, 0.5, 1, 1]


def test_the_reliability_curve_by_hand() -> None:
    said, true, number = reliability_curve([1, 0, 1, 1], [0.05, 0.08, 0.55, 1.0])
    assert said.tolist() == pytest.approx([0.065, 0.55, 1.0])
    assert true.tolist() == [0.5, 1, 1]
    assert number.tolist() == [2, 1, 1]


def test_columns_that_are_all_alike_have_no_curve(tmp_path: Path) -> None:
    labels = np.array([[0, -1, 0], [0, -1, 0]])
    for path in draw_curves(labels, np.full((2, 3), 0.2), ["C1", "C2", "patient_overall"], tmp_path):
        assert path.exists()
