"""The slice encoders: their size, their initial logits, and the evidence map."""

from __future__ import annotations

import pytest
import torch

from model.networks.encoders import EvidenceEncoder, SliceEncoder, resnet_trunk


@pytest.mark.parametrize(
    # torchvision's published number of parameters, which includes its fc (features * 1000 + 1000).
    ("encoder", "parameters", "features"),
    [("resnet18", 11_689_512, 512), ("resnet34", 21_797_672, 512), ("resnet50", 25_557_032, 2048)],
)
def test_trunk_has_as_many_parameters_as_torchvisions(encoder: str, parameters: int, features: int) -> None:
    trunk, width = resnet_trunk(encoder, 3)
    assert width == features
    assert sum(p.numel() for p in trunk.parameters()) == parameters - 1000 * (features + 1)


def test_trunk_equals_monais_and_accepts_no_slices() -> None:
    from monai.networks.nets import resnet18

    trunk, _ = resnet_trunk("resnet18", 3)
    reference = resnet18(spatial_dims=2, n_input_channels=3, conv1_t_stride=2, feed_forward=False,
                         bias_downsample=False, shortcut_type="B", pretrained=False)  # fmt: skip
    reference.load_state_dict(trunk.state_dict())
    slices = torch.randn(2, 3, 40, 48)
    torch.testing.assert_close(trunk(slices), reference(slices), rtol=0, atol=0)
    assert trunk.eval()(slices[:0]).shape == (0, 512)


def test_resnet_head_is_the_baselines() -> None:
    encoder = SliceEncoder("resnet34", 3)
    layers = [type(layer).__name__ for layer in (*encoder.embed, *encoder.squeeze, encoder.logit)]
    assert layers == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear"]
    linear = [layer for layer in encoder.modules() if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(512, 32), (32, 1), (1, 1)]


def test_initially_nearly_every_slice_passes_the_last_relu() -> None:
    """The others pass no gradient: with a centred input they would be half of the slices."""
    torch.manual_seed(0)
    encoder = SliceEncoder("resnet18", 3).train()
    slices = torch.randn(200, 3, 32, 32) * torch.rand(200, 1, 1, 1)
    with torch.no_grad():
        logits = encoder(slices).logits
    assert (logits > encoder.logit.bias).float().mean() > 0.9
    assert logits.mean().item() == pytest.approx(-2.0, abs=0.1)


def test_slice_logit_is_the_highest_evidence_anywhere() -> None:
    torch.manual_seed(0)
    encoder = EvidenceEncoder(1).eval()
    with torch.no_grad():
        encoder.evidence.weight.normal_()
    slices = torch.zeros(4, 1, 80, 160)
    patches = torch.randn(2, 8, 8)
    slices[0, 0, 36:44, 36:44] = slices[1, 0, 28:36, 116:124] = patches[0]
    slices[2, 0, 36:44, 116:124] = patches[1]
    slices[3, 0, 36:44, 36:44], slices[3, 0, 36:44, 116:124] = patches
    first, first_elsewhere, second, both = encoder(slices).logits
    torch.testing.assert_close(first, first_elsewhere)
    torch.testing.assert_close(both, torch.maximum(first, second))
