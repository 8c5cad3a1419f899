"""Batch norm over the samples of all ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.distributed import Ranks


def with_joint_batch_norm(module: nn.Module, device: torch.device, ranks: Ranks) -> nn.Module:
    """Replace the module's batch norms, in place, with batch norms over the samples of all ranks.

    torch's `SyncBatchNorm` needs a GPU; on the CPU `JointBatchNorm` takes its place.
    """
    if ranks.world_size == 1:
        return module
    replace = GpuBatchNorm.from_batch_norm if device.type == "cuda" else JointBatchNorm.from_batch_norm
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            module.register_module(name, replace(child))
        else:
            with_joint_batch_norm(child, device, ranks)
    return module


class GpuBatchNorm(nn.SyncBatchNorm):
    """torch's SyncBatchNorm, safe under autocast if a rank has no sample.

    Ranks exchange float32 moments, but those of an empty input have the input's type, which would be
    bfloat16.
    """

    @classmethod
    def from_batch_norm(cls, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> GpuBatchNorm:
        """A copy with the parameters and buffers of ``norm``."""
        joint = cls(norm.num_features, norm.eps, norm.momentum).to(norm.weight.device)
        joint.load_state_dict(norm.state_dict())
        return joint

    def forward(self, values: Tensor) -> Tensor:
        """(n, channel, ...): normalised over n and the axes after the channel."""
        return super().forward(values if len(values) else values.float())


class JointBatchNorm(nn.Module):
    """Batch norm over the samples of all ranks, which may differ in number; parameters as BatchNorm's.

    As in BatchNorm, a ``momentum`` of None makes the running statistics plain averages over all batches, and
    a training batch with a single value per channel, here over all ranks, raises ValueError.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, eps: float, momentum: float | None) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum

    @classmethod
    def from_batch_norm(cls, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> JointBatchNorm:
        """One that shares the parameters and buffers of ``norm``."""
        joint = cls(norm.eps, norm.momentum)
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
        sums = _AllReduceSum.apply(torch.cat([values.sum(axes), count]))  # type: ignore[no-untyped-call]
        mean, total = sums[:-1] / sums[-1], sums[-1]
        if total < 2:
            raise ValueError(
                f"batch norm needs two values per channel over all ranks when training, not {total:.0f}"
            )
        # A second pass about the mean: the difference of two large squares would lose precision.
        centred = values - mean.view((1, -1) + (1,) * (values.dim() - 2))
        squares = _AllReduceSum.apply(centred.square().sum(axes))  # type: ignore[no-untyped-call]
        variance = squares / total
        with torch.no_grad():
            self.num_batches_tracked += 1
            share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * total / (total - 1), share)
        return mean, variance


class _AllReduceSum(torch.autograd.Function):
    """The sum over all ranks, with gradients: each rank's values contribute to the sums of all ranks."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        return _all_reduce(values)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _all_reduce(gradient)


def _all_reduce(values: Tensor) -> Tensor:
    values = values.clone()
    dist.all_reduce(values)
    return values
