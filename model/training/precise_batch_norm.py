"""Precise batch norm: statistics of batch norms, measured again with fixed weights.

The running statistics that a batch norm keeps while training are an average over past steps, of a network
that has changed since. Where steps are large they match no network that ever existed, so a network that
trains well predicts nothing (Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3). So before a
network is validated or kept, its batch norms are measured on some of the studies that it learns from, as
they are at prediction: whole, and not augmented.

`torch.optim.swa_utils.update_bn` cannot replace this: it works in train mode, so dropout is on and a batch
without a located vertebra raises an error; it skips `JointBatchNorm`; and torch's running variance is the
unbiased one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from model.data.targets import Indices
from model.inference.predictor import Predictor
from model.networks.batch_norm import JointBatchNorm

_STUDIES = 8
"""Number of studies to measure on: several hundred slices."""


def measure_batch_norms(predictor: Predictor, studies: Indices) -> None:
    """Set the batch norms' running mean and variance to those of their inputs, over some of ``studies``.

    All ranks measure the same without communicating. Leaves the network in eval mode.
    """
    chosen = studies[np.unique(np.linspace(0, len(studies) - 1, _STUDIES).round().astype(int))]
    # Compiled code would run as it was traced, without the hooks.
    with _measuring(predictor.network), torch.compiler.set_stance("force_eager"):
        for _ in predictor.logits(chosen):
            pass


@contextmanager
def _measuring(network: nn.Module) -> Iterator[None]:
    """Inside, each batch norm adds the moments of a batch to its statistics before it uses them.

    Every batch has the same weight; a layer normalises a batch by the mean over all batches so far.
    """
    batches: dict[nn.Module, int] = {}

    def measure(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        (values,) = arguments
        if not len(values):  # no vertebra is located
            return
        batches[norm] = batches.get(norm, 0) + 1
        variance, mean = torch.var_mean(values.float(), [0, *range(2, values.dim())], correction=0)
        norm.get_buffer("running_mean").lerp_(mean, 1 / batches[norm])
        norm.get_buffer("running_var").lerp_(variance, 1 / batches[norm])

    hooks = [
        module.register_forward_pre_hook(measure)
        for module in network.modules()
        if isinstance(module, _BatchNorm | JointBatchNorm)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
