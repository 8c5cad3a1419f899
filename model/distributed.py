"""Several processes as one: joining under torchrun, adding up over ranks, batch norm over all of them.

Without torchrun every function here is what it is for one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from spine_etl.errors import DeviceMemoryFull, DeviceUnavailable

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the training: its rank, and how many there are."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes files and speaks."""
        return self.rank == 0


def choose_device(name: str) -> torch.device:
    """``auto`` (the GPU of this rank where there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    DeviceUnavailable
        If this machine has no such device.
    """
    gpus = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceUnavailable(f"there is no device named {name!r}.") from error
    if device.type not in ("cpu", "cuda"):
        raise DeviceUnavailable(f"{name} is neither cpu nor cuda.")
    if device.type == "cuda":
        index = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
        if index >= gpus:
            raise DeviceUnavailable(f"cuda:{index} was asked for; this machine has {gpus} CUDA devices.")
        device = torch.device("cuda", index)
    return device


@contextmanager
def within_memory(device: torch.device) -> Iterator[None]:
    """Within, a device whose memory is full raises DeviceMemoryFull."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryFull(f"the memory of {device} is full.") from error


def join(device: torch.device) -> Ranks:
    """Join the processes that torchrun started (NCCL between GPUs, gloo between CPUs)."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Ranks()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    return Ranks(dist.get_rank(), dist.get_world_size())


def leave(ranks: Ranks) -> None:
    if ranks.world > 1:
        dist.destroy_process_group()


def summed(value: Tensor, ranks: Ranks) -> Tensor:
    """The sum over all ranks; no gradient passes."""
    value = value.detach()
    return _total(value) if ranks.world > 1 else value


def told(value: T, ranks: Ranks) -> T:
    """The first rank's value, on every rank."""
    if ranks.world == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


def alike(module: nn.Module, ranks: Ranks) -> None:
    """Give every rank the first one's parameters and buffers."""
    if ranks.world > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)


def spread(module: nn.Module, device: torch.device, ranks: Ranks) -> nn.Module:
    """The module as one whose gradients, and batch norms, are those of all ranks' samples together."""
    if ranks.world == 1:
        return module
    return nn.parallel.DistributedDataParallel(
        module, device_ids=[device] if device.type == "cuda" else None, forward_sync_buffers=False
    )


def with_joint_batch_norm(module: nn.Module, device: torch.device, ranks: Ranks) -> nn.Module:
    """The module with batch norms over all ranks. torch's own need a GPU; `JointBatchNorm` is the CPU's."""
    if ranks.world == 1:
        return module
    like = GpuBatchNorm.like if device.type == "cuda" else JointBatchNorm.like
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            module.register_module(name, like(child))
        else:
            with_joint_batch_norm(child, device, ranks)
    return module


class GpuBatchNorm(nn.SyncBatchNorm):
    """torch's own, safe where a rank has no sample under autocast.

    Ranks exchange float32 moments, but an empty input's are of its own type, which would be bfloat16.
    """

    @classmethod
    def like(cls, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> GpuBatchNorm:
        joint = cls(norm.num_features, norm.eps, norm.momentum or 0.1).to(norm.weight.device)
        joint.load_state_dict(norm.state_dict())
        return joint

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values if len(values) else values.float())


class JointBatchNorm(nn.Module):
    """Batch norm over the samples of all ranks, whatever each one's number; parameters as BatchNorm's."""

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, eps: float, momentum: float) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum

    @classmethod
    def like(cls, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> JointBatchNorm:
        joint = cls(norm.eps, norm.momentum or 0.1)
        joint.weight, joint.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            joint.register_buffer(name, buffer)
        return joint

    def forward(self, values: Tensor) -> Tensor:
        """(n, channel, ...): normalised over n and the axes after the channel."""
        mean, variance = self._moments(values) if self.training else (self.running_mean, self.running_var)
        shape = (1, -1) + (1,) * (values.dim() - 2)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return values * scale.view(shape) + (self.bias - mean * scale).view(shape)

    def _moments(self, values: Tensor) -> tuple[Tensor, Tensor]:
        axes = [0, *range(2, values.dim())]
        count = values.new_full((1,), values.numel() / values.shape[1])
        sums = _Added.apply(torch.cat([values.sum(axes), count]))  # type: ignore[no-untyped-call]
        mean, total = sums[:-1] / sums[-1], sums[-1]
        # A second pass about the mean: the difference of large squares would lose what batch norm needs.
        centred = values - mean.view((1, -1) + (1,) * (values.dim() - 2))
        variance = _Added.apply(centred.square().sum(axes)) / total  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * total / (total - 1), self.momentum)
            self.num_batches_tracked += 1
        return mean, variance


class _Added(torch.autograd.Function):
    """The sum over all ranks; gradients pass: each rank's values are in the sums of all."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        return _total(values)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _total(gradient)


def _total(values: Tensor) -> Tensor:
    values = values.clone()
    dist.all_reduce(values)
    return values
