"""A training ends with the same weights however it is interrupted, and refuses what it cannot do."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.data.targets import split
from model.inference.explanation import explain_study
from model.inference.predictor import Predictor
from model.inference.submission import predict_store
from model.inference.weights import load_model
from model.options import ExplainOptions, PredictOptions, TrainOptions
from model.training import stage as stage_module
from model.training.checkpoint import LAST, PREVIOUS
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

JOINT = """
name = "tiny"
validation_share = 0.3
[network]
encoder = "narrow"
hidden = 4
dropout = {dropout}
[view]
positions = 4
neighbours = 3
[augment]
{augment}
[[stages]]
objective = "joint"
epochs = 3
batch_size = 2
learning_rate = 1e-3
slice_factor = 1.0
clip_norm = 1.0
"""
TWO_STAGES = """
name = "tiny-two-stages"
validation_share = 0.3
[network]
encoder = "narrow"
lstm_input = "probability"
hidden = 4
[view]
kind = "windows"
positions = 4
[[stages]]
objective = "slices"
epochs = 2
batch_size = 12
optimizer = "adam"
learning_rate = 0.01
schedule = "plateau"
patience = 1
[[stages]]
objective = "sequence"
epochs = 3
batch_size = 4
optimizer = "adam"
learning_rate = 0.001
schedule = "plateau"
patience = 1
"""
AUGMENTED = "mixup_alpha = 0.4"
PLAIN = """
rotation_degrees = 0
scale = 0
shift = 0
flip = 0
gain = 0
offset_hu = 0
noise_hu = 0
cutout = 0
shuffle = 0
"""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors this small are slower with two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def recipe(folder: Path, text: str) -> str:
    path = folder / "recipe.toml"
    path.write_text(text)
    return str(path)


@pytest.fixture
def joint(tmp_path: Path) -> str:
    return recipe(tmp_path, JOINT.format(dropout=0.3, augment=AUGMENTED))


@pytest.fixture
def two_stages(tmp_path: Path) -> str:
    return recipe(tmp_path, TWO_STAGES)


def location(store: Store) -> str:
    return str(store.location)


def lines(run: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl without the measured times."""
    read = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "wait_share")} for line in read]


def same_weights(one: Path, other: Path) -> bool:
    a, b = load_file(one / "best.safetensors"), load_file(other / "best.safetensors")
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


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


def stop_after(steps: int, options: TrainOptions, patch: pytest.MonkeyPatch) -> None:
    taken = 0
    step = stage_module.StageRun._step

    def stopping(self: stage_module.StageRun, *arguments: Any) -> None:
        nonlocal taken
        taken += 1
        if taken > steps:
            raise KeyboardInterrupt
        step(self, *arguments)

    patch.setattr(stage_module.StageRun, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_training(options)


@pytest.mark.parametrize(
    "text", [JOINT.format(dropout=0.3, augment=AUGMENTED), TWO_STAGES], ids=["joint", "two-stages"]
)
@pytest.mark.parametrize("stop_at", [1, 3, 4, 7])
def test_resumed_run_ends_with_the_same_weights(
    tiny_store: Store, tmp_path: Path, text: str, stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    uninterrupted, stopped = tmp_path / "uninterrupted", tmp_path / "stopped"
    options = TrainOptions(
        location(tiny_store), uninterrupted, recipe=recipe(tmp_path, text), device="cpu", save_every=2
    )
    run_training(options)
    with monkeypatch.context() as patch:
        stop_after(stop_at, replace(options, out=stopped), patch)
    torch.manual_seed(12345)  # as in a new process
    run_training(replace(options, out=stopped, resume=True))
    assert same_weights(uninterrupted, stopped)
    assert lines(uninterrupted) == lines(stopped)
    epochs = [(0, 0), (0, 1), (0, 2)] if text != TWO_STAGES else [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert [(line["stage"], line["epoch"]) for line in lines(stopped)] == epochs
    assert (uninterrupted / "model.json").read_text() == (stopped / "model.json").read_text()


def test_run_resumed_from_the_previous_state_ends_with_the_same_weights(
    tiny_store: Store, tmp_path: Path, two_stages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the error for a damaged last.pt advises, in a stage that has replaced its initial weights."""
    uninterrupted, stopped = tmp_path / "uninterrupted", tmp_path / "stopped"
    options = TrainOptions(
        location(tiny_store), uninterrupted, recipe=two_stages, device="cpu", save_every=1000
    )
    run_training(options)
    steps = lines(uninterrupted)[1]["step"]  # steps of the first stage
    stop_after(steps + 3, replace(options, out=stopped), monkeypatch)
    monkeypatch.undo()
    assert [line["stage"] for line in lines(stopped)] == [0, 0, 1]
    (stopped / PREVIOUS).replace(stopped / LAST)
    run_training(replace(options, out=stopped, resume=True))
    assert same_weights(uninterrupted, stopped)
    assert lines(uninterrupted) == lines(stopped)


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


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's curves without the measured times."""
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    return {
        name: [(event.step, event.value) for event in board.Scalars(name)]
        for name in board.Tags()["scalars"]
        if not name.endswith(("seconds", "wait_share"))
    }


@pytest.mark.parametrize("stop_at", [2, 5, 9])
def test_tensorboard_of_a_resumed_run_equals_that_of_an_uninterrupted_one(
    tiny_store: Store, tmp_path: Path, two_stages: str, stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    uninterrupted, stopped = tmp_path / "uninterrupted", tmp_path / "stopped"
    options = TrainOptions(location(tiny_store), uninterrupted, recipe=two_stages, device="cpu", save_every=1)
    run_training(options)
    assert [step for step, _ in curves(uninterrupted)["stage0/train_loss"]] == [
        line["step"] for line in lines(uninterrupted) if line["stage"] == 0
    ]
    stop_after(stop_at, replace(options, out=stopped), monkeypatch)
    monkeypatch.undo()
    run_training(replace(options, out=stopped, resume=True))
    assert curves(stopped) == curves(uninterrupted)


def command(options: TrainOptions, *starter: str) -> list[str]:
    named = {"--store": options.store, "--out": options.out, "--recipe": options.recipe}
    flags = [str(part) for pair in named.items() for part in pair]
    flags += ["--save-every", str(options.save_every), "--device", "cpu"]
    return [sys.executable, "-m", *starter, "model.train", *flags]


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.integration
def test_killed_and_resumed_run_ends_with_the_same_weights(
    tiny_store: Store, tmp_path: Path, joint: str
) -> None:
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    options = TrainOptions(location(tiny_store), uninterrupted, recipe=joint, device="cpu", save_every=1)
    run_training(options)
    options = replace(options, out=killed)
    process = subprocess.Popen(command(options), env=ONE_THREAD, stdout=subprocess.DEVNULL)
    while not (killed / "metrics.jsonl").exists() or not (killed / "metrics.jsonl").read_text():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "model.json").exists()
    run_training(replace(options, resume=True))
    assert same_weights(uninterrupted, killed)
    assert lines(uninterrupted) == lines(killed)


def test_leftover_files_of_a_killed_run_are_removed(tiny_store: Store, tmp_path: Path, joint: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in (".last.pt.0123abcd.writing", ".last.previous.pt.writing", "notes.writing"):
        (run / name).touch()
    options = TrainOptions(location(tiny_store), run, recipe=joint, epochs=1, device="cpu")
    run_training(options)
    assert [path.name for path in run.glob("*.writing")] + [path.name for path in run.glob(".*.writing")] == [
        "notes.writing"
    ]
    (run / ".best.safetensors.0123abcd.writing").touch()
    run_training(replace(options, resume=True))
    assert not list(run.glob(".*.writing"))


def test_run_started_with_another_soft_tissue_window_is_not_resumed(
    tiny_store: Store, tmp_path: Path, two_stages: str
) -> None:
    options = TrainOptions(location(tiny_store), tmp_path / "run", recipe=two_stages, epochs=1, device="cpu")
    run_training(options)
    state = torch.load(options.out / LAST, weights_only=True)
    windows = [[400, 1800], [150, 700], [50, 350]]
    torch.save({**state, "identity": {**state["identity"], "windows": windows}}, options.out / LAST)
    with pytest.raises(CheckpointInvalid, match=r"windows\[2\]\[0\] 50, not 40"):
        run_training(replace(options, resume=True))
    old = {name: value for name, value in state["identity"].items() if name != "windows"}
    torch.save({**state, "identity": old}, options.out / LAST)
    with pytest.raises(CheckpointInvalid, match="windows None, not"):
        run_training(replace(options, resume=True))


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


@pytest.mark.integration
def test_two_processes_train_like_one(tiny_store: Store, tmp_path: Path) -> None:
    """Batches, batch norms and losses are global, so the runs are equal except for rounding."""
    text = recipe(tmp_path, JOINT.format(dropout=0.0, augment=""))
    options = TrainOptions(location(tiny_store), tmp_path / "one", recipe=text, device="cpu")
    run_training(options)
    two = replace(options, out=tmp_path / "two")
    starter = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    done = subprocess.run(command(two, *starter), env=ONE_THREAD, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cpu x 2" in done.stdout
    for alone, together in zip(lines(options.out), lines(two.out), strict=True):
        assert together["step"] == alone["step"]
        assert together["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-3)
        assert together["validation_loss"] == pytest.approx(alone["validation_loss"], rel=1e-3)


@pytest.mark.integration
def test_only_rank_0_needs_the_run_folder(tiny_store: Store, tmp_path: Path) -> None:
    """Two nodes without a shared disk: the folder of rank 0 alone carries weights from stage to stage and
    the state to resume from."""
    text = TWO_STAGES.replace("epochs = 2", 'epochs = 2\nkeep = "last"')
    named = {"--store": location(tiny_store), "--recipe": recipe(tmp_path, text), "--device": "cpu"}
    flags = [str(part) for pair in named.items() for part in pair]
    # Each process runs in its own folder, and --out is relative.
    code = (
        "import os, runpy, pathlib; node = pathlib.Path(os.environ['NODES'], os.environ['RANK']);"
        "node.mkdir(exist_ok=True); os.chdir(node); runpy.run_module('model.train', run_name='__main__')"
    )
    script = tmp_path / "node.py"
    script.write_text(code)
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    root = str(Path(__file__).parents[3])
    environment = {**ONE_THREAD, "NODES": str(tmp_path), "PYTHONPATH": root}
    for more in ([], ["--resume"]):
        command = [*starter, str(script), "--out", "run", *flags, *more]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "0" / "run" / "model.json").exists()
        assert not (tmp_path / "1" / "run").exists()


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


def test_run_is_neither_overwritten_nor_resumed_with_other_options(
    tiny_store: Store, tmp_path: Path, joint: str, build_store: Callable[..., Store]
) -> None:
    options = TrainOptions(location(tiny_store), tmp_path / "run", recipe=joint, device="cpu", epochs=1)
    run_training(options)
    with pytest.raises(CheckpointInvalid, match="already"):
        run_training(options)
    with pytest.raises(CheckpointInvalid, match=r"recipe\.stages\[0\]\.epochs 1, not 2"):
        run_training(replace(options, resume=True, epochs=2))
    with pytest.raises(CheckpointInvalid, match="fold"):
        run_training(replace(options, resume=True, fold=1))
    other = build_store(tmp_path / "other", 15)
    with pytest.raises(CheckpointInvalid, match="root_digest"):
        run_training(replace(options, resume=True, store=location(other)))
    (options.out / LAST).unlink()  # a user may delete it to save space
    with pytest.raises(CheckpointInvalid, match="already"):
        run_training(options)


def test_run_resumes_with_the_store_version_it_started_with(
    tmp_path: Path, joint: str, build_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A nightly build may have committed a newer version in the meantime."""
    store = build_store(tmp_path / "store", 12)
    uninterrupted = TrainOptions(
        location(store), tmp_path / "uninterrupted", recipe=joint, device="cpu", save_every=2
    )
    run_training(uninterrupted)
    options = replace(uninterrupted, out=tmp_path / "run")
    stop_after(3, options, monkeypatch)
    monkeypatch.undo()
    newer = build_store(tmp_path / "store", 15)
    assert (newer.version, len(newer)) == (2, 15)
    assert run_training(replace(options, resume=True)).version == 1
    assert same_weights(uninterrupted.out, options.out)


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
