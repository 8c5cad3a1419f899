"""A step of two processes, against the gradient of the whole batch in one.

Gradients are compared before the optimizer sees them: Adam divides by their size, so it would hide a factor.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.data.inputs import Inputs
from model.networks.cnn_lstm import CnnLstm, NetworkSettings
from model.training.cached_features import CachedFeatures

ROOT = Path(__file__).parents[3]
SCRIPT = """
import dataclasses, pathlib, sys, numpy as np, torch
from model.distributed import destroy_process_group, init_process_group
from model.networks.batch_norm import with_joint_batch_norm
from model.networks.cnn_lstm import CnnLstm, NetworkSettings
from model.training.cached_features import CachedBatches, CachedFeatures
from model.training.objectives import build_objective
from model.training.recipe import Stage
from model.training.runlog import RunLog
from model.training.stage import StageRun

folder = pathlib.Path(sys.argv[1])
cpu = torch.device("cpu")
ranks = init_process_group(cpu)
found = {}
for name, case in torch.load(folder / "cases.pt", weights_only=False).items():
    at = slice(0, case["of_rank_0"]) if ranks.rank == 0 else slice(case["of_rank_0"], None)
    if isinstance(case["inputs"], tuple):
        inputs = CachedFeatures(*(part[at] for part in case["inputs"]))
    else:
        fields = vars(case["inputs"]).items()
        inputs = dataclasses.replace(case["inputs"], **{k: v if v is None else v[at] for k, v in fields})
    network = CnnLstm(NetworkSettings(**case["settings"]), 1, 2)
    network.load_state_dict(case["network"])
    with_joint_batch_norm(network, cpu, ranks)
    stage = Stage(epochs=1, learning_rate=1e-3, **case["stage"])
    nothing = CachedFeatures(*(torch.zeros(2),) * 5)
    run = StageRun(
        index=0, stage=stage, network=network, objective=build_objective(stage, network, ranks),
        source=CachedBatches(nothing, np.arange(2), batch_size=1, seed=0, ranks=ranks),
        inputs=lambda batch: inputs, measure_batch_norms=lambda: None, validate=lambda: 1.0,
        save=lambda state: None, save_every=1, device=cpu, ranks=ranks, bf16=False,
        log=RunLog(folder, enabled=False, first_epoch=(0, 0)), run=folder, uids=["1.0", "1.1"],
    )
    gradients, losses = [], []
    def note(*_):
        gradients.append({n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None})
    run.optimizer.register_step_pre_hook(note)
    run.learning_rate.after_epoch = lambda loss: losses.append(run.progress.losses)
    run.train()
    found[name] = {"gradients": gradients, "losses": losses, "weights": network.state_dict()}
torch.save(found, folder / f"{ranks.rank}.pt")
destroy_process_group(ranks)
"""
SETTINGS: dict[str, Any] = {"encoder": "narrow", "hidden": 4, "dropout": 0.0}


def network() -> CnnLstm:
    """One whose heads, which start at zero, pass gradients on."""
    torch.manual_seed(0)
    made = CnnLstm(NetworkSettings(**SETTINGS), 1, 2)
    with torch.no_grad():
        for parameter in made.sequence.parameters():
            parameter.normal_(0, 0.3)
    return made


def inputs() -> Inputs:
    """Four studies of two levels; nothing is located in the last."""
    torch.manual_seed(1)
    located = torch.tensor([[True, True], [False, True], [True, True], [False, False]])
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    known = torch.cat([located, located.any(1, keepdim=True)], 1)
    known[0, 1] = False
    slices = torch.randint(-1, 2, (4, 2, 3)).float()
    return Inputs(
        torch.randn(4, 2, 3, 1, 16, 16), located, labels, known, slices, torch.zeros(4, 2, 3).long()
    )


def cached() -> CachedFeatures:
    given = inputs()
    torch.manual_seed(2)
    features = torch.randn(4, 2, 3, 32), torch.randn(4, 2, 3)
    return CachedFeatures(*features, given.located, given.labels, given.known)


CASES: dict[str, tuple[Any, int, dict[str, Any]]] = {
    "joint, uneven": (inputs(), 1, {"objective": "joint", "batch_size": 4, "slice_factor": 0.5}),
    "joint, no vertebra on rank 1": (inputs(), 3, {"objective": "joint", "batch_size": 4}),
    "slices, uneven": (inputs(), 1, {"objective": "slices", "batch_size": 100}),
    "slices, none on rank 1": (inputs(), 3, {"objective": "slices", "batch_size": 100}),
    "sequence, uneven": (cached(), 1, {"objective": "sequence", "batch_size": 4}),
    "sequence, no vertebra on rank 1": (cached(), 3, {"objective": "sequence", "batch_size": 4}),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank computed of each case; the processes are started once."""
    folder = tmp_path_factory.mktemp("two_processes")
    cases = {
        name: {"inputs": tuple(given) if isinstance(given, tuple) else given, "of_rank_0": of_rank_0,
               "stage": stage, "settings": SETTINGS, "network": network().state_dict()}
        for name, (given, of_rank_0, stage) in CASES.items()
    }  # fmt: skip
    torch.save(cases, folder / "cases.pt")
    script = folder / "two_ranks.py"
    script.write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*torchrun, script, folder], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    probability = 1 / (1 + torch.exp(-logits))
    return -labels * torch.log(probability) - (1 - labels) * torch.log(1 - probability)


def competition_loss(columns: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    """Vertebrae weigh 1 (2 if fractured), patients 7 (14 if fractured); the sum over the sum of weights."""
    weights = torch.tensor([1.0, 1.0, 7.0]) * (1 + labels) * known
    return (weights * cross_entropy(columns, labels)).sum() / weights.sum()


def whole_loss(net: CnnLstm, given: Any, stage: dict[str, Any]) -> Tensor:
    """The loss of the whole batch in one process, by its formula."""
    if stage["objective"] == "sequence":
        columns = net.sequence.train()(given.features, given.slices, given.located)
        return competition_loss(columns, given.labels, given.known)
    if stage["objective"] == "slices":
        used = given.located[..., None] & (given.slices >= 0)
        return cross_entropy(net.encoder.train()(given.views[used]).logits, given.slices[used]).mean()
    logits = net.train()(given.views, given.located)
    loss = competition_loss(logits.columns, given.labels, given.known)
    used = given.slices >= 0
    slices = cross_entropy(logits.slices[used], given.slices[used]).mean()
    return loss + stage.get("slice_factor", 0.0) * slices


@pytest.mark.integration
@pytest.mark.parametrize("name", CASES)
def test_gradients_and_losses_are_those_of_the_whole_batch(name: str, found: list[dict[str, Any]]) -> None:
    given, _, stage = CASES[name]
    net = network()
    loss = whole_loss(net, given, stage)
    loss.backward()
    expected = {key: p.grad for key, p in net.named_parameters() if p.grad is not None}
    for rank in (part[name] for part in found):
        (gradients,) = rank["gradients"]
        assert rank["losses"] == pytest.approx([loss.item()], rel=1e-4)
        largest = max(float(gradient.abs().max()) for gradient in expected.values())
        for key, gradient in expected.items():
            torch.testing.assert_close(gradients[key], gradient, rtol=1e-2, atol=1e-4 * largest, msg=key)
    weights = [part[name]["weights"] for part in found]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    buffers = {key for key, _ in net.named_buffers()}
    for key in (key for key in buffers if not key.endswith("num_batches_tracked")):
        torch.testing.assert_close(weights[0][key], net.state_dict()[key], rtol=1e-3, atol=1e-4, msg=key)
