"""The localizer's network: classes, input, and the block that is evaluated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

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
