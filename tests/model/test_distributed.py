"""What two processes tell each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.distributed import within_memory
from spine_etl.errors import DeviceMemoryFull

ROOT = Path(__file__).parents[2]
APART = """
import sys, pathlib, torch
from model.distributed import alike, join, leave, summed, told

ranks = join(torch.device("cpu"))
torch.manual_seed(ranks.rank)
network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
network[1].running_mean.fill_(ranks.rank)
before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
alike(network, ranks)
words = told({"rank": ranks.rank, "tensor": torch.tensor([ranks.rank])}, ranks)
total = summed(torch.tensor(ranks.rank + 1.0), ranks)
state = {"before": before, "after": network.state_dict(), "told": words, "summed": total}
torch.save(state, pathlib.Path(sys.argv[1]) / f"{ranks.rank}.pt")
leave(ranks)
"""


def test_a_full_device_is_named() -> None:
    with pytest.raises(DeviceMemoryFull, match="cuda:1"), within_memory(torch.device("cuda:1")):
        raise torch.OutOfMemoryError("tried to allocate")


@pytest.mark.integration
def test_the_first_ones_values_are_everyones(tmp_path: Path) -> None:
    script = tmp_path / "apart.py"
    script.write_text(APART)
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*starter, script, tmp_path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, tensor in first["before"].items():
        torch.testing.assert_close(first["after"][name], tensor, rtol=0, atol=0)
        torch.testing.assert_close(second["after"][name], tensor, rtol=0, atol=0)
    assert not torch.equal(second["before"]["0.weight"], first["before"]["0.weight"])
    assert second["before"]["1.running_mean"].tolist() == [1, 1]
    assert (first["told"]["rank"], second["told"]["rank"]) == (0, 0)
    assert (second["told"]["tensor"].tolist(), float(first["summed"]), float(second["summed"])) == ([0], 3, 3)
