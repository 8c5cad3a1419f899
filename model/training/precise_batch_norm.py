"""Batch norms' statistics taken anew from fixed weights: precise batch norm.

What a batch norm keeps while it trains is an average over past steps, of a network that has moved on since.
Where steps are large it describes none that ever was, and what trains well predicts nothing (Wu and Johnson
2021, "Rethinking 'Batch' in BatchNorm", section 3). So before a network is validated or kept, its batch norms
are measured on some of the studies that it learns from, seen as at prediction: whole, and not augmented.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from model.data.targets import Indices
from model.distributed import JointBatchNorm
from model.inference.predictor import seen
from model.networks.cnn_lstm import CnnLstm
from model.training.recipe import ViewSettings
from spine_etl.store import Store

_STUDIES = 8
"""Studies that are measured: several hundred slices."""


def measure_batch_norms(
    network: CnnLstm, view: ViewSettings, store: Store, studies: Indices, device: torch.device
) -> None:
    """Give the batch norms the mean and variance of what reaches them, over some of ``studies``.

    The same on every rank, without a word between them. Leaves the network in eval mode.
    """
    chosen = studies[np.unique(np.linspace(0, len(studies) - 1, _STUDIES).round().astype(int))]
    # Compiled code would run as it was traced, without what is hung into it here.
    with _measuring(network), torch.compiler.set_stance("force_eager"):
        for _ in seen(network, view, store, chosen, device):
            pass


@contextmanager
def _measuring(network: nn.Module) -> Iterator[None]:
    """Within, each batch norm takes the moments of a batch into its statistics before it uses them.

    Every batch weighs the same; a layer's batch is normalised by all batches up to it.
    """
    measured: dict[nn.Module, int] = {}

    def measure(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        (values,) = arguments
        if not len(values):
            return
        measured[norm] = measured.get(norm, 0) + 1
        variance, mean = torch.var_mean(values.float(), [0, *range(2, values.dim())], correction=0)
        norm.get_buffer("running_mean").lerp_(mean, 1 / measured[norm])
        norm.get_buffer("running_var").lerp_(variance, 1 / measured[norm])

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
