"""Training in several processes under torchrun: the process group and its collective operations.

Outside torchrun every function is the single-process equivalent.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's rank and the number of processes in the training."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """True on rank 0, the only rank that writes files and logs."""
        return self.rank == 0


def init_process_group(device: torch.device) -> Ranks:
    """Join the process group that torchrun set up (NCCL between GPUs, gloo between CPUs)."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Ranks()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    return Ranks(dist.get_rank(), dist.get_world_size())


def destroy_process_group(ranks: Ranks) -> None:
    """Leave the process group."""
    if ranks.world_size > 1:
        dist.destroy_process_group()


def all_reduce_sum(value: Tensor, ranks: Ranks) -> Tensor:
    """The sum over all ranks, on every rank; detached from the gradient graph."""
    value = value.detach()
    if ranks.world_size > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def broadcast_object(value: T, ranks: Ranks) -> T:
    """Broadcast an object from rank 0."""
    if ranks.world_size == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


def broadcast_module(module: nn.Module, ranks: Ranks) -> None:
    """Broadcast the module's parameters and buffers from rank 0."""
    if ranks.world_size > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)


def data_parallel(module: nn.Module, device: torch.device, ranks: Ranks) -> nn.Module:
    """The module in DistributedDataParallel, which averages gradients over the ranks."""
    if ranks.world_size == 1:
        return module
    return nn.parallel.DistributedDataParallel(
        module, device_ids=[device] if device.type == "cuda" else None, forward_sync_buffers=False
    )
