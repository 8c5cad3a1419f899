"""Batch norm over two processes, against torch's own over the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from model.distributed import Ranks
from model.networks.batch_norm import GpuBatchNorm, JointBatchNorm, with_joint_batch_norm

ROOT = Path(__file__).parents[3]
SCRIPT = """
import pathlib, sys, torch
from model.distributed import destroy_process_group, init_process_group
from model.networks.batch_norm import with_joint_batch_norm

folder = pathlib.Path(sys.argv[1])
ranks = init_process_group(torch.device("cpu"))
found = []
for case in torch.load(folder / "cases.pt", weights_only=False):
    network = with_joint_batch_norm(torch.nn.Sequential(case["norm"]), torch.device("cpu"), ranks)
    taken = []
    for batch, gradient in case["batches"]:
        at = slice(0, case["of_rank_0"]) if ranks.rank == 0 else slice(case["of_rank_0"], None)
        values = batch[at].clone().requires_grad_()
        network.zero_grad()
        try:
            outputs = network(values)
        except ValueError as error:
            taken.append(str(error))
            continue
        outputs.backward(gradient[at])
        of_parameters = network[0].weight.grad.clone(), network[0].bias.grad.clone()
        taken.append((outputs.detach(), values.grad, *of_parameters))
    network.eval()
    with torch.no_grad():
        predicted = network(case["batches"][0][0])
    found.append({"kind": type(network[0]).__name__, "taken": taken, "predicted": predicted,
                  "state": network[0].state_dict()})
torch.save(found, folder / f"{ranks.rank}.pt")
destroy_process_group(ranks)
"""


def norm(kind: type[nn.BatchNorm1d | nn.BatchNorm2d], **settings: Any) -> nn.Module:
    """One of three channels whose parameters and statistics are not the initial ones."""
    made = kind(3, **settings)
    with torch.no_grad():
        made.weight.copy_(torch.tensor([1.5, -0.5, 2.0]))
        made.bias.copy_(torch.tensor([0.1, -3.0, 0.7]))
        made.running_mean.copy_(torch.tensor([1.0, -2.0, 0.5]))
        made.running_var.copy_(torch.tensor([0.5, 2.0, 3.0]))
    return made.double()


def batches(*shape: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two batches far from zero, and the gradients of their outputs."""
    random = torch.Generator().manual_seed(0)

    def draw() -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    return [(5 * draw() + 20, draw()) for _ in range(2)]


CASES = {
    "even": (norm(nn.BatchNorm1d), 3, (6, 3)),
    "uneven": (norm(nn.BatchNorm1d, momentum=0.3), 1, (4, 3)),
    "no sample on rank 0": (norm(nn.BatchNorm2d), 0, (3, 3, 2, 5)),
    "no sample on rank 1": (norm(nn.BatchNorm2d), 3, (3, 3, 2, 5)),
    "images": (norm(nn.BatchNorm2d, eps=0.5, momentum=0.01), 2, (5, 3, 4, 3)),
    "one sample each": (norm(nn.BatchNorm1d), 1, (2, 3)),
    "one image": (norm(nn.BatchNorm2d), 1, (1, 3, 2, 1)),
    "average of all batches": (norm(nn.BatchNorm1d, momentum=None), 2, (6, 3)),
    "frozen statistics": (norm(nn.BatchNorm1d, momentum=0.0), 2, (6, 3)),
    "one value": (norm(nn.BatchNorm1d), 1, (1, 3)),
    "one pixel": (norm(nn.BatchNorm2d), 0, (1, 3, 1, 1)),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    """What each rank computed of each case; the processes are started once."""
    folder = tmp_path_factory.mktemp("batch_norm")
    cases = [
        {"norm": given, "of_rank_0": of_rank_0, "batches": batches(*shape)}
        for given, of_rank_0, shape in CASES.values()
    ]
    torch.save(cases, folder / "cases.pt")
    script = folder / "two_ranks.py"
    script.write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*torchrun, script, folder], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ranks = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    return [dict(zip(CASES, rank, strict=True)) for rank in ranks]


@pytest.mark.integration
@pytest.mark.parametrize("name", [name for name in CASES if name not in ("one value", "one pixel")])
def test_two_ranks_compute_what_torch_does_of_the_whole_batch(
    name: str, found: list[dict[str, dict[str, Any]]]
) -> None:
    given, _, shape = CASES[name]
    whole = type(given)(3, given.eps, given.momentum).double()  # type: ignore[call-arg]
    whole.load_state_dict(given.state_dict())
    ranks = [rank[name] for rank in found]
    assert [rank["kind"] for rank in ranks] == ["JointBatchNorm", "JointBatchNorm"]
    for step, (batch, gradient) in enumerate(batches(*shape)):
        values = batch.clone().requires_grad_()
        whole.zero_grad()
        outputs = whole(values)
        outputs.backward(gradient)
        of_ranks = [rank["taken"][step] for rank in ranks]
        torch.testing.assert_close(torch.cat([taken[0] for taken in of_ranks]), outputs.detach())
        torch.testing.assert_close(torch.cat([taken[1] for taken in of_ranks]), values.grad)
        # Gradients of parameters are those of the rank's own samples: DistributedDataParallel averages them.
        torch.testing.assert_close(of_ranks[0][2] + of_ranks[1][2], whole.weight.grad)
        torch.testing.assert_close(of_ranks[0][3] + of_ranks[1][3], whole.bias.grad)
    whole.eval()
    for rank in ranks:
        for key, value in whole.state_dict().items():
            torch.testing.assert_close(rank["state"][key], value, msg=key)
        torch.testing.assert_close(rank["predicted"], whole(batches(*shape)[0][0]).detach())


@pytest.mark.integration
@pytest.mark.parametrize("name", ["one value", "one pixel"])
def test_single_value_per_channel_over_all_ranks_is_refused_as_by_torch(
    name: str, found: list[dict[str, dict[str, Any]]]
) -> None:
    given, _, shape = CASES[name]
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        given.train()(batches(*shape)[0][0])
    for rank in found:
        assert all("two values per channel over all ranks" in taken for taken in rank[name]["taken"])
        for key in ("running_mean", "running_var"):  # not spoilt
            torch.testing.assert_close(rank[name]["state"][key], given.state_dict()[key])


@pytest.mark.parametrize("kind", [JointBatchNorm, GpuBatchNorm])
@pytest.mark.parametrize("momentum", [None, 0.0, 0.1, 0.3])
def test_momentum_and_epsilon_are_those_of_the_replaced_one(kind: Any, momentum: float | None) -> None:
    joint = kind.from_batch_norm(nn.BatchNorm2d(3, eps=0.5, momentum=momentum))
    assert (joint.momentum, joint.eps) == (momentum, 0.5)


def test_every_batch_norm_is_replaced_where_there_are_several_ranks() -> None:
    def network() -> nn.Module:
        inner = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        return nn.Sequential(inner, nn.Flatten(), nn.BatchNorm1d(3), nn.LayerNorm(3))

    cpu = torch.device("cpu")
    for world_size, kept in ((1, 2), (2, 0)):
        parts = list(with_joint_batch_norm(network(), cpu, Ranks(0, world_size)).modules())
        assert sum(isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) for part in parts) == kept
        assert sum(isinstance(part, JointBatchNorm) for part in parts) == 2 - kept
