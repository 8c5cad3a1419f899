"""The files of a training, the weights that it keeps, and what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model.data.targets import split
from model.inference.explanation import explain_study
from model.inference.predictor import Predictor
from model.inference.submission import predict_store
from model.inference.weights import load_model
from model.options import ExplainOptions, PredictOptions, TrainOptions
from model.training.checkpoint import LAST
from model.training.precise_batch_norm import measure_batch_norms
from model.training.run import run_training
from model.training.validation import validation_split
from spine_etl.errors import (
    CheckpointInvalid,
    ChunkMissing,
    DeviceUnavailable,
    FoldInvalid,
    LossNotFinite,
    SpineError,
)
from spine_etl.store import Store
from tests.model.training.runs import (
    AUGMENTED,
    JOINT,
    ONE_THREAD,
    TWO_STAGES,
    command,
    lines,
    location,
    recipe,
    same_weights,
)


def test_finished_run_has_its_files(tiny_store: Store, tmp_path: Path, joint: str) -> None:
    run = tmp_path / "run"
    model = run_training(TrainOptions(location(tiny_store), run, recipe=joint, fold=1, device="cpu"))
    expected = {"config.json", "model.json", "best.safetensors", "last.pt", "metrics.jsonl"}
    assert expected <= {path.name for path in run.iterdir()}
    assert list((run / "tensorboard").glob("events*"))
    config = json.loads((run / "config.json").read_text())
    assert config["recipe"]["stages"][0]["epochs"] == 3
    assert config["root_digest"] == tiny_store.root_digest
    assert [line["epoch"] for line in lines(run)] == [0, 1, 2]
    assert (model.fold, model.levels, model.version) == (1, ["C1", "C2"], 1)
    train = tiny_store.table["fold"] != 1
    assert model.prevalence[2] == pytest.approx(tiny_store.table["patient_overall"][train].mean())


@pytest.mark.parametrize(
    "text", [JOINT.format(dropout=0.3, augment=AUGMENTED), TWO_STAGES], ids=["joint", "two-stages"]
)
def test_batch_norms_of_the_kept_weights_are_measured(tiny_store: Store, tmp_path: Path, text: str) -> None:
    run = tmp_path / "run"
    run_training(TrainOptions(location(tiny_store), run, recipe=recipe(tmp_path, text), fold=1, device="cpu"))
    network, model = load_model(run, tiny_store)
    kept = {name: buffer.clone() for name, buffer in network.named_buffers()}
    learning, _ = validation_split(tiny_store, split(tiny_store, 1)[0], 0.3)
    predictor = Predictor(network, model.view, tiny_store, torch.device("cpu"))
    measure_batch_norms(predictor, learning)
    for name, buffer in network.named_buffers():
        torch.testing.assert_close(buffer, kept[name], msg=name)


def test_stage_starts_from_the_weights_that_the_one_before_it_kept(tiny_store: Store, tmp_path: Path) -> None:
    """Those of its lowest validation loss, not its last; the next stage fails at once."""
    text = TWO_STAGES.replace("epochs = 2", "epochs = 4").replace("rate = 0.001", "rate = 1e30")
    text = text.replace("rate = 0.01", "rate = 1.0")  # the loss is soon zero, and the first zero is kept
    run = tmp_path / "run"
    options = TrainOptions(location(tiny_store), run, recipe=recipe(tmp_path, text), device="cpu")
    with pytest.raises(LossNotFinite):
        run_training(replace(options, save_every=1000))
    losses = [line["validation_loss"] for line in lines(run)]
    assert len(losses) == 4
    assert losses.index(min(losses)) < 3  # else the kept weights would be the last ones
    state = torch.load(run / LAST, weights_only=True)
    assert (state["stage"], state["progress"]["step"]) == (1, 0)
    kept = load_file(run / "best.safetensors")
    assert all(torch.equal(state["network"][name], kept[name]) for name in kept)


@pytest.mark.parametrize(
    ("keep", "line"),
    [
        (
            "best",
            r"joint: keeping the weights of epoch \d, which has the lowest validation loss \(\d\.\d{4}\)",
        ),
        ("last", r'joint: keeping the weights of the last epoch, 3, as the recipe asks \(keep = "last"\)'),
    ],
)
def test_log_names_the_epoch_whose_weights_are_kept(
    tiny_store: Store, tmp_path: Path, joint: str, keep: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path(joint).read_text() + f'keep = "{keep}"\n'
    run_training(
        TrainOptions(location(tiny_store), tmp_path / "run", recipe=recipe(tmp_path, text), device="cpu")
    )
    assert re.search(line, capsys.readouterr().out)


def test_loss_that_is_not_finite_names_the_studies(tiny_store: Store, tmp_path: Path, joint: str) -> None:
    text = Path(joint).read_text().replace("learning_rate = 1e-3", "learning_rate = 1e30")
    run = tmp_path / "run"
    with pytest.raises(LossNotFinite, match=r"studies 1\.0\d\d, 1\.0\d\d"):
        run_training(
            TrainOptions(location(tiny_store), run, recipe=recipe(tmp_path, text), device="cpu", save_every=1)
        )
    state = torch.load(run / "last.pt", weights_only=True)
    assert state["progress"]["step"] <= 2  # nothing was saved after the fault


def test_validation_loss_that_is_not_finite_stops_training(tiny_store: Store, tmp_path: Path) -> None:
    """With one step per epoch, the step's own loss is still that of the initial weights."""
    text = TWO_STAGES.replace("batch_size = 12", "batch_size = 1000").replace("rate = 0.01", "rate = 1e30")
    with pytest.raises(LossNotFinite, match="validation loss of epoch 1 is nan"):
        run_training(
            TrainOptions(location(tiny_store), tmp_path / "run", recipe=recipe(tmp_path, text), device="cpu")
        )
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_missing_object_names_the_study(
    tmp_path: Path, build_store: Callable[..., Store], joint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = build_store(tmp_path / "store", 12)
    study = int(np.flatnonzero(store.table["fold"] != 0)[3])
    (tmp_path / "store" / store.arrays["image"].key(int(store.table["row"][study]))).unlink()
    with pytest.raises(ChunkMissing) as caught:
        run_training(TrainOptions(location(store), tmp_path / "run", recipe=joint, device="cpu"))
    assert caught.value.study == store.study_uids[study]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"fold": 7}, FoldInvalid),
        ({"device": "cuda:63"}, DeviceUnavailable),
        ({"device": "abacus"}, DeviceUnavailable),
        ({"resume": True}, CheckpointInvalid),
        ({"weights": Path("absent.pt")}, CheckpointInvalid),
    ],
)
def test_impossible_options_are_refused(
    tiny_store: Store, tmp_path: Path, joint: str, options: dict[str, Any], error: type[SpineError]
) -> None:
    defaults = {"device": "cpu", "recipe": joint, **options}
    with pytest.raises(error):
        run_training(TrainOptions(location(tiny_store), tmp_path / "run", **defaults))


def test_store_without_fractures_is_refused(
    tmp_path: Path, build_store: Callable[..., Store], joint: str
) -> None:
    unfractured = {"fracture": {"C1": 0, "C2": 0, "patient_overall": 0}}
    store = build_store(tmp_path / "store", 12, dict.fromkeys(range(12), unfractured))
    with pytest.raises(FoldInvalid):
        run_training(TrainOptions(location(store), tmp_path / "run", recipe=joint, device="cpu"))


@pytest.mark.integration
def test_command_line(tmp_path: Path) -> None:
    importing = (sys.executable, "-X", "importtime", "-m", "model.train", "--help")
    shown = subprocess.run(importing, capture_output=True, text=True, check=True)
    assert "--epochs-scale" in shown.stdout
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert "tyro" in imported
    assert not imported & {"torch", "monai", "zarr", "numpy", "matplotlib"}
    absent = TrainOptions(str(tmp_path / "none"), tmp_path / "run")
    wrong = subprocess.run(command(absent), capture_output=True, text=True, env=ONE_THREAD)
    assert wrong.returncode == 1
    assert wrong.stderr.strip().startswith("error: [STORE_NOT_FOUND]")
    assert len(wrong.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "text", [JOINT.format(dropout=0.3, augment=AUGMENTED), TWO_STAGES], ids=["joint", "two-stages"]
)
def test_batches_copied_to_another_memory_give_the_same_weights(
    tiny_store: Store, tmp_path: Path, text: str, copying_transfer: Callable[[], None]
) -> None:
    options = TrainOptions(
        location(tiny_store), tmp_path / "one", recipe=recipe(tmp_path, text), fold=1, device="cpu"
    )
    run_training(options)
    copying_transfer()
    run_training(replace(options, out=tmp_path / "other"))
    assert same_weights(options.out, tmp_path / "other")
    for run in (options.out, tmp_path / "other"):
        predict_store(PredictOptions(location(tiny_store), (run,), run / "table.csv", fold=1, device="cpu"))
    assert (options.out / "table.csv").read_text() == (tmp_path / "other" / "table.csv").read_text()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: training on one is not tested")
@pytest.mark.filterwarnings("ignore")  # from torch's own compiler
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "text", [JOINT.format(dropout=0.3, augment=AUGMENTED), TWO_STAGES], ids=["joint", "two-stages"]
)
def test_cpu_predicts_with_weights_trained_on_a_gpu(
    tiny_store: Store, tmp_path: Path, text: str, compiled: bool
) -> None:
    halved = recipe(tmp_path, text.replace("validation_share", "bf16 = true\nvalidation_share"))
    run = tmp_path / "run"
    run_training(
        TrainOptions(location(tiny_store), run, recipe=halved, fold=1, device="cuda", compile=compiled)
    )
    assert np.isfinite([line["train_loss"] for line in lines(run)]).all()
    tables = []
    for device in ("cuda", "cpu"):
        out = tmp_path / f"{device}.csv"
        predict_store(PredictOptions(location(tiny_store), (run,), out, fold=1, evaluate=True, device=device))
        tables.append(np.loadtxt(out, delimiter=",", skiprows=1, usecols=1))
    np.testing.assert_allclose(*tables, atol=2e-3)
    explain_study(
        ExplainOptions(location(tiny_store), run, tiny_store.study_uids[0], tmp_path / "s.png", device="cuda")
    )
