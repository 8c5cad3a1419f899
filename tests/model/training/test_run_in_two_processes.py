"""A training in two processes: that of one, with the files of rank 0 alone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from model.options import TrainOptions
from model.training.run import run_training
from spine_etl.store import Store
from tests.model.training.runs import (
    JOINT,
    ONE_THREAD,
    TWO_STAGES,
    command,
    lines,
    location,
    recipe,
)


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
