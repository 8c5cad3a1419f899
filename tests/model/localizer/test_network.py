"""The localizer's network: classes, input, and the block that is evaluated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from model.localizer.network import (
    FcnSettings,
    build_fcn,
    class_of_label,
    class_probabilities,
    label_of_class,
    network_input,
    scanned_block,
)
from spine_etl.recipe import Recipe

RECIPE = Recipe.model_validate(
    {
        "name": "tiny",
        "levels": {"C1": 5, "C2": 2},
        "other_labels": {"T1": 8, "T2": 9},
        "crop": {"spacing_mm": 1.0, "shape": [4, 4, 4]},
        "overview": {"spacing_mm": 3.0, "shape": [32, 24, 24]},
    }
)
SMALL = FcnSettings(channels=(4, 8, 16), units=1)


def test_classes_are_the_levels_in_order_then_below() -> None:
    classes = class_of_label(RECIPE)
    assert [int(classes[label]) for label in (0, 5, 2, 8, 9, 7)] == [0, 1, 2, 3, 3, 0]
    assert label_of_class(RECIPE).tolist() == [0, 5, 2, 0]


def test_input_is_clamped_to_the_range_from_fat_to_bone() -> None:
    values = network_input(torch.tensor([-1024, -200, 300, 1800, 30000], dtype=torch.int16))
    assert values.tolist() == [-1.0, -1.0, 0.0, 3.0, 3.0]


def test_scanned_block_excludes_air() -> None:
    image = torch.full((32, 24, 24), -1024, dtype=torch.int16)
    image[5:20, 3:24, 7] = 0
    assert scanned_block(image) == (slice(5, 20), slice(3, 24), slice(7, 8))
    assert scanned_block(torch.full((8, 8, 8), -1024)) == (slice(0, 1),) * 3


def test_network_has_long_and_short_skip_connections() -> None:
    from monai.networks.blocks.convolutions import ResidualUnit
    from monai.networks.layers.simplelayers import SkipConnection

    network = build_fcn(FcnSettings(), 7)
    types = [type(module) for module in network.modules()]
    assert types.count(SkipConnection) == 3  # one between each pair of resolutions
    assert types.count(ResidualUnit) >= 4


@pytest.mark.parametrize("shape", [(32, 24, 24), (13, 5, 6)])
def test_probabilities_cover_the_whole_volume(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    network = build_fcn(SMALL, 2)
    image = torch.full(shape, -1024, dtype=torch.int16)
    image[4:12] = torch.randint(-100, 1200, (8, *shape[1:]), dtype=torch.int16)
    probabilities = class_probabilities(network, image, SMALL.multiple)
    assert probabilities.shape == (4, *shape)
    torch.testing.assert_close(probabilities.sum(dim=0), torch.ones(shape))
    assert (probabilities[0, 12:] == 1).all()
    assert (probabilities[:, :4] == torch.tensor([1.0, 0, 0, 0])[:, None, None, None]).all()
    assert (probabilities[0, 4:12] < 1).all()


def test_surrounding_air_does_not_change_probabilities() -> None:
    """A scan inside a larger volume of air has the same probabilities."""
    torch.manual_seed(0)
    network = build_fcn(SMALL, 2)
    small = torch.randint(-100, 1200, (16, 16, 16), dtype=torch.int16)
    large = torch.full((32, 24, 24), -1024, dtype=torch.int16)
    large[8:24, 4:20, 8:24] = small
    inside = class_probabilities(network, large, SMALL.multiple)[:, 8:24, 4:20, 8:24]
    np.testing.assert_allclose(inside, class_probabilities(network, small, SMALL.multiple), atol=1e-5)


class OwnValue(nn.Module):
    """Logits of two classes, 0 and ten times the input: each voxel depends on itself alone."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        assert all(size % 4 == 0 for size in values.shape[2:])
        return torch.cat([torch.zeros_like(values), 10 * values], dim=1)


@given(
    shape=st.tuples(*[st.integers(1, 11)] * 3),
    scanned=st.tuples(*[st.tuples(st.integers(0, 10), st.integers(1, 11))] * 3),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_each_voxel_of_an_odd_volume_has_its_own_probability(
    shape: tuple[int, int, int], scanned: tuple[tuple[int, int], ...], seed: int
) -> None:
    """HU from 1 up in a block of any size at any position, air around it; scaled as (HU - 300) / 500."""
    block = tuple(slice(min(a, n - 1), min(a, n - 1) + b) for (a, b), n in zip(scanned, shape, strict=True))
    hu = np.full(shape, -1024, np.int16)
    hu[block] = np.random.default_rng(seed).integers(1, 600, hu[block].shape)
    found = class_probabilities(OwnValue(), torch.from_numpy(hu), multiple=4)
    expected = np.where(hu > -1024, 1 / (1 + np.exp(-10 * (hu - 300.0) / 500)), 0)
    np.testing.assert_allclose(found[1], expected, atol=1e-5)
    np.testing.assert_allclose(found[0], 1 - expected, atol=1e-5)


@pytest.mark.parametrize(("hu", "is_scanned"), [(-924, False), (-923, True), (-1024, False), (0, True)])
def test_air_ends_at_minus_924_hu(hu: int, is_scanned: bool) -> None:
    image = torch.full((5, 5, 5), -1024, dtype=torch.int16)
    image[2, 3, 4] = hu
    expected = (slice(2, 3), slice(3, 4), slice(4, 5)) if is_scanned else (slice(0, 1),) * 3
    assert scanned_block(image) == expected
