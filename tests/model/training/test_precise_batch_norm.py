"""Measured batch norms: a network predicts for a batch what it computed while training on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.data.inputs import Inputs, inputs_of
from model.data.loader import Batches
from model.data.views import ViewSettings, level_labels
from model.inference.predictor import Predictor
from model.networks.cnn_lstm import CnnLstm, NetworkSettings
from model.training.precise_batch_norm import measure_batch_norms
from spine_etl.store import Store

VIEW = ViewSettings(kind="windows", positions=3)
CPU = torch.device("cpu")


def untrained(encoder: str = "resnet18") -> CnnLstm:
    """A network whose running statistics are far from those of its inputs."""
    torch.manual_seed(0)
    network = CnnLstm(NetworkSettings.model_validate({"encoder": encoder, "hidden": 4}), VIEW.channels, 2)
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 3.0)
    return network


def batches(store: Store, studies: np.ndarray, batch_size: int) -> list[Inputs]:
    with Batches(store, studies, batch_size=batch_size, shuffle=False) as read:
        return [inputs_of(batch, level_labels(store.recipe), VIEW) for batch in read]


def test_predictions_equal_those_in_train_mode(tiny_store: Store) -> None:
    """In train mode a batch norm uses the batch's own moments; measured on that batch, so does prediction."""
    network, studies = untrained(), np.arange(4)
    (inputs,) = batches(tiny_store, studies, 4)
    network.train()
    with torch.no_grad():
        trained = network.encode(inputs.views, inputs.located)[1]
    network = untrained()
    before = {name: value.clone() for name, value in network.named_parameters()}
    measure_batch_norms(Predictor(network, VIEW, tiny_store, CPU), studies)
    assert not network.training
    with torch.no_grad():
        predicted = network.encode(inputs.views, inputs.located)[1]
    torch.testing.assert_close(predicted, trained, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(before[name], value) for name, value in network.named_parameters())


def test_batches_have_equal_weight(tiny_store: Store) -> None:
    network, studies = untrained(), np.arange(8)
    conv, norm = network.encoder.trunk.conv1, network.encoder.trunk.bn1
    with torch.no_grad():
        moments = [
            torch.var_mean(conv(inputs.views[inputs.located].flatten(0, 1)), (0, 2, 3), correction=0)
            for inputs in batches(tiny_store, studies, 4)
        ]
    measure_batch_norms(Predictor(network, VIEW, tiny_store, CPU), studies)
    variance, mean = (torch.stack(values).mean(0) for values in zip(*moments, strict=True))
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)


def test_prediction_does_not_change_the_statistics(tiny_store: Store) -> None:
    network = untrained("narrow")
    measure_batch_norms(Predictor(network, VIEW, tiny_store, CPU), np.arange(4))
    kept = {name: buffer.clone() for name, buffer in network.named_buffers()}
    (inputs,) = batches(tiny_store, np.arange(8, 12), 4)
    network(inputs.views, inputs.located)
    assert all(torch.equal(kept[name], buffer) for name, buffer in network.named_buffers())


@pytest.mark.parametrize("studies", [1, 5, 12])
def test_few_studies_give_finite_and_repeatable_statistics(tiny_store: Store, studies: int) -> None:
    network, other = untrained("narrow"), untrained("narrow")
    measure_batch_norms(Predictor(network, VIEW, tiny_store, CPU), np.arange(studies))
    measure_batch_norms(Predictor(other, VIEW, tiny_store, CPU), np.arange(studies))

    for (name, buffer), (_, again) in zip(network.named_buffers(), other.named_buffers(), strict=True):
        assert buffer.isfinite().all(), name
        assert torch.equal(buffer, again), name
