"""Collective operations between two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys, pathlib, torch
from model.distributed import all_reduce_sum, broadcast_module, broadcast_object
from model.distributed import destroy_process_group, init_process_group

ranks = init_process_group(torch.device("cpu"))
torch.manual_seed(ranks.rank)
network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
network[1].running_mean.fill_(ranks.rank)
before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
broadcast_module(network, ranks)
received = broadcast_object({"rank": ranks.rank, "tensor": torch.tensor([ranks.rank])}, ranks)
total = all_reduce_sum(torch.tensor(ranks.rank + 1.0), ranks)
state = {"before": before, "after": network.state_dict(), "received": received, "sum": total}
torch.save(state, pathlib.Path(sys.argv[1]) / f"{ranks.rank}.pt")
destroy_process_group(ranks)
"""


@pytest.mark.integration
def test_rank_0_is_broadcast_and_sums_are_over_all_ranks(tmp_path: Path) -> None:
    script = tmp_path / "two_ranks.py"
    script.write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*torchrun, script, tmp_path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, tensor in first["before"].items():
        torch.testing.assert_close(first["after"][name], tensor, rtol=0, atol=0)
        torch.testing.assert_close(second["after"][name], tensor, rtol=0, atol=0)
    assert not torch.equal(second["before"]["0.weight"], first["before"]["0.weight"])
    assert second["before"]["1.running_mean"].tolist() == [1, 1]
    assert (first["received"]["rank"], second["received"]["rank"]) == (0, 0)
    assert (second["received"]["tensor"].tolist(), float(first["sum"]), float(second["sum"])) == ([0], 3, 3)
