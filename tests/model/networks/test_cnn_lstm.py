"""The network: its shapes, its initial logits, and what must not affect its logits."""

from __future__ import annotations

import pytest
import torch

from model.networks.cnn_lstm import CnnLstm, NetworkSettings

SMALL = NetworkSettings(encoder="narrow", hidden=8)


def views(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 7, 4, 2, 24, 24, generator=torch.Generator().manual_seed(seed))


def some_located() -> torch.Tensor:
    located = torch.ones(3, 7, dtype=torch.bool)
    located[0, 2] = located[1, :5] = False
    return located


def test_sequence_head_ignores_autocast() -> None:
    network = CnnLstm(SMALL, 2, 7).eval()
    located = torch.ones(3, 7, dtype=torch.bool)
    with torch.no_grad():
        for parameter in network.sequence.parameters():  # the heads start at zero
            parameter.normal_(0, 0.1)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(views(), located)
            encoded = network.encode(views(), located)
        torch.testing.assert_close(logits.columns, network.sequence(*encoded, located), rtol=0, atol=0)
    assert logits.columns.dtype == torch.float32


@pytest.mark.parametrize("lstm_input", ["probability", "features"])
def test_shapes(lstm_input: str) -> None:
    torch.manual_seed(0)
    network = CnnLstm(SMALL.model_copy(update={"lstm_input": lstm_input}), channels=2, levels=7)
    logits = network(views(), some_located())
    assert logits.columns.shape == (3, 8)
    assert logits.slices.shape == (3, 7, 4)
    logits.columns.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_a_level_that_is_not_located_affects_nothing(training: bool) -> None:
    torch.manual_seed(0)
    network = CnnLstm(SMALL, channels=2, levels=7).train(training)
    with torch.no_grad():  # heads that start at zero would hide an effect
        for parameter in network.sequence.parameters():
            parameter.normal_(0, 0.3)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    images, located = views(), some_located()
    first = network(images, located)
    after_first = {name: value.clone() for name, value in network.state_dict().items()}
    for value in (1e6, torch.nan):
        network.load_state_dict(state)
        changed = images.masked_fill(~located[:, :, None, None, None, None], value)
        second = network(changed, located)
        assert torch.equal(second.columns, first.columns)
        assert torch.equal(second.slices, first.slices)
        for name, tensor in network.state_dict().items():  # includes the batch norms' statistics
            assert torch.equal(tensor, after_first[name]), name
    assert (first.columns[:, :7][~located] == 0).all()
    # A change in the located levels does change the logits.
    assert not torch.equal(network(images + located.float()[:, :, None, None, None, None], located).columns,
                           first.columns)  # fmt: skip


def test_patient_depends_on_all_vertebrae_and_their_order() -> None:
    torch.manual_seed(0)
    network = CnnLstm(SMALL, channels=2, levels=7).eval()
    with torch.no_grad():
        for parameter in network.sequence.parameters():
            parameter.normal_(0, 0.3)
        images, located = views(), torch.ones(3, 7, dtype=torch.bool)
        patient = network(images, located).columns[:, 7]
        for level in range(7):
            other = images.clone()
            other[:, level] += 1.0
            assert (network(other, located).columns[:, 7] != patient).all()
        network.sequence.own.weight.zero_()  # equal heads: only the order differs
        network.sequence.own.bias.zero_()
        patient, reversed_patient = (
            network(view, located).columns[:, 7] for view in (images, images.flip(1))
        )
        assert not torch.allclose(patient, reversed_patient)


def test_patient_initially_is_any_vertebra_fractured() -> None:
    torch.manual_seed(0)
    network = CnnLstm(SMALL, channels=2, levels=7).eval()
    located = some_located()
    probabilities = network(views(), located).columns.sigmoid()
    none = (1 - probabilities[:, :7]).masked_fill(~located, 1.0).prod(dim=1)
    torch.testing.assert_close(probabilities[:, 7], 1 - none)


def test_each_level_has_its_own_head() -> None:
    torch.manual_seed(0)
    network = CnnLstm(SMALL, channels=2, levels=7).eval()
    located = some_located()
    before = network(views(), located).columns[:, :7]
    with torch.no_grad():
        network.sequence.own.bias[3] += 1.0
    change = network(views(), located).columns[:, :7] - before
    expected = torch.zeros(3, 7)
    expected[:, 3] = located[:, 3].float()
    torch.testing.assert_close(change, expected)
