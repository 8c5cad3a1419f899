"""The network: its size, its shapes, and what must not reach its logits."""

from __future__ import annotations

import pytest
import torch

from model.networks.cnn_lstm import CnnLstm, EvidenceEncoder, NetworkSettings, SliceEncoder, resnet_trunk

SMALL = NetworkSettings(encoder="narrow", hidden=8)


@pytest.mark.parametrize(
    # torchvision's parameters in all, less those of its fc (features * 1000 + 1000).
    ("encoder", "in_all", "features"),
    [("resnet18", 11_689_512, 512), ("resnet34", 21_797_672, 512), ("resnet50", 25_557_032, 2048)],
)
def test_the_trunk_is_torchvisions_to_the_parameter(encoder: str, in_all: int, features: int) -> None:
    trunk, found = resnet_trunk(encoder, 3)
    assert found == features
    assert sum(p.numel() for p in trunk.parameters()) == in_all - 1000 * (features + 1)


def test_the_trunk_is_monais_and_takes_no_slices_too() -> None:
    from monai.networks.nets import resnet18

    trunk, _ = resnet_trunk("resnet18", 3)
    whole = resnet18(spatial_dims=2, n_input_channels=3, conv1_t_stride=2, feed_forward=False,
                     bias_downsample=False, shortcut_type="B", pretrained=False)  # fmt: skip
    whole.load_state_dict(trunk.state_dict())
    slices = torch.randn(2, 3, 40, 48)
    torch.testing.assert_close(trunk(slices), whole(slices), rtol=0, atol=0)
    assert trunk.eval()(slices[:0]).shape == (0, 512)


def test_the_head_is_the_seeds() -> None:
    encoder = SliceEncoder("resnet34", 3)
    layers = [type(layer).__name__ for layer in (*encoder.embed, *encoder.squeeze, encoder.logit)]
    assert layers == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear"]
    linear = [layer for layer in encoder.modules() if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(512, 32), (32, 1), (1, 1)]


def test_at_first_nearly_every_slice_passes_the_last_relu() -> None:
    """What does not pass teaches nothing: of a centred scalar that would be half of the slices."""
    torch.manual_seed(0)
    encoder = SliceEncoder("resnet18", 3).train()
    slices = torch.randn(200, 3, 32, 32) * torch.rand(200, 1, 1, 1)
    with torch.no_grad():
        logits = encoder(slices).logits
    assert (logits > encoder.logit.bias).float().mean() > 0.9
    assert logits.mean().item() == pytest.approx(-2.0, abs=0.1)


def test_under_autocast_the_sequence_is_read_in_float32() -> None:
    network = CnnLstm(SMALL, 2, 7).eval()
    located = torch.ones(3, 7, dtype=torch.bool)
    with torch.no_grad():
        for parameter in network.sequence.parameters():  # its heads start at zero
            parameter.normal_(0, 0.1)
        with torch.autocast("cpu", torch.bfloat16):
            said = network(views(), located)
            encoded = network.encode(views(), located)
        torch.testing.assert_close(said.columns, network.sequence(*encoded, located), rtol=0, atol=0)
    assert said.columns.dtype == torch.float32


def test_evidence_is_found_wherever_it_is_and_not_outvoted() -> None:
    torch.manual_seed(0)
    encoder = EvidenceEncoder(1).eval()
    with torch.no_grad():
        encoder.evidence.weight.normal_()
    slices = torch.zeros(4, 1, 80, 160)
    patches = torch.randn(2, 8, 8)
    slices[0, 0, 36:44, 36:44] = slices[1, 0, 28:36, 116:124] = patches[0]
    slices[2, 0, 36:44, 116:124] = patches[1]
    slices[3, 0, 36:44, 36:44], slices[3, 0, 36:44, 116:124] = patches
    here, there, other, both = encoder(slices).logits
    torch.testing.assert_close(here, there)
    torch.testing.assert_close(both, torch.maximum(here, other))


def views(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 7, 4, 2, 24, 24, generator=torch.Generator().manual_seed(seed))


def missing() -> torch.Tensor:
    located = torch.ones(3, 7, dtype=torch.bool)
    located[0, 2] = located[1, :5] = False
    return located


@pytest.mark.parametrize("lstm_input", ["probability", "features"])
def test_shapes(lstm_input: str) -> None:
    torch.manual_seed(0)
    network = CnnLstm(SMALL.model_copy(update={"lstm_input": lstm_input}), channels=2, levels=7)
    logits = network(views(), missing())
    assert logits.columns.shape == (3, 8)
    assert logits.slices.shape == (3, 7, 4)
    logits.columns.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_a_missing_level_has_no_influence(training: bool) -> None:
    torch.manual_seed(0)
    network = CnnLstm(SMALL, channels=2, levels=7).train(training)
    with torch.no_grad():  # heads that start at zero would hide an influence
        for parameter in network.sequence.parameters():
            parameter.normal_(0, 0.3)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    seen, located = views(), missing()
    first = network(seen, located)
    after_first = {name: value.clone() for name, value in network.state_dict().items()}
    for rubbish in (1e6, torch.nan):
        network.load_state_dict(state)
        changed = seen.masked_fill(~located[:, :, None, None, None, None], rubbish)
        second = network(changed, located)
        assert torch.equal(second.columns, first.columns)
        assert torch.equal(second.slices, first.slices)
        for name, value in network.state_dict().items():  # the batch norms' memory
            assert torch.equal(value, after_first[name]), name
    assert (first.columns[:, :7][~located] == 0).all()
    # The same rubbish in a level that is there does change the logits.
    assert not torch.equal(network(seen + located.float()[:, :, None, None, None, None], located).columns,
                           first.columns)  # fmt: skip


def test_the_patient_sees_all_vertebrae_in_their_order() -> None:
    torch.manual_seed(0)
    network = CnnLstm(SMALL, channels=2, levels=7).eval()
    with torch.no_grad():
        for parameter in network.sequence.parameters():
            parameter.normal_(0, 0.3)
        seen, located = views(), torch.ones(3, 7, dtype=torch.bool)
        patient = network(seen, located).columns[:, 7]
        for level in range(7):
            other = seen.clone()
            other[:, level] += 1.0
            assert (network(other, located).columns[:, 7] != patient).all()
        network.sequence.own.weight.zero_()  # heads alike: only the order is left
        network.sequence.own.bias.zero_()
        patient, turned = (network(view, located).columns[:, 7] for view in (seen, seen.flip(1)))
        assert not torch.allclose(patient, turned)


def test_at_first_the_patient_is_any_of_the_vertebrae() -> None:
    torch.manual_seed(0)
    network = CnnLstm(SMALL, channels=2, levels=7).eval()
    located = missing()
    probabilities = network(views(), located).columns.sigmoid()
    none = (1 - probabilities[:, :7]).masked_fill(~located, 1.0).prod(dim=1)
    torch.testing.assert_close(probabilities[:, 7], 1 - none)


def test_each_level_has_a_head_of_its_own() -> None:
    torch.manual_seed(0)
    network = CnnLstm(SMALL, channels=2, levels=7).eval()
    located = missing()
    before = network(views(), located).columns[:, :7]
    with torch.no_grad():
        network.sequence.own.bias[3] += 1.0
    change = network(views(), located).columns[:, :7] - before
    expected = torch.zeros(3, 7)
    expected[:, 3] = located[:, 3].float()
    torch.testing.assert_close(change, expected)
