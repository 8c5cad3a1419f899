"""Random training patches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.localizer.patches import DISTORTION, PATCH, Distortion, draw_patch

NO_DISTORTION = Distortion(
    max_rotation_deg=0, max_scale=0, max_gain=0, max_offset_hu=0, max_noise_hu=0, truncation_probability=0
)


def volume() -> tuple[torch.Tensor, torch.Tensor]:
    """Image and classes in which the HU are 200 times the class, so that both must move together."""
    classes = torch.zeros((72, 60, 60), dtype=torch.uint8)
    classes[10:60, 20:40, 25:35] = torch.arange(1, 6).repeat_interleave(10)[:, None, None].to(torch.uint8)
    return classes.to(torch.int16) * 200, classes


@pytest.mark.parametrize("seed", range(6))
def test_image_and_classes_move_together(seed: int) -> None:
    distortion = replace(NO_DISTORTION, max_rotation_deg=10, max_scale=0.15)
    image, classes = draw_patch(*volume(), np.random.default_rng(seed), distortion)
    assert image.shape == classes.shape == (1, *PATCH)
    assert (classes > 0).sum() > 1000
    difference = (image - classes.float() * 200).abs()
    # Linear interpolation of the image, nearest of the classes: they differ only where classes meet.
    assert (difference[classes > 0] < 250).float().mean() > 0.93
    assert difference[classes > 0].median() < 100


def test_undistorted_patch_is_a_part_of_the_volume() -> None:
    image, classes = draw_patch(*volume(), np.random.default_rng(0), NO_DISTORTION)
    torch.testing.assert_close(image, classes.float() * 200, atol=1e-2, rtol=0)
    small = (part[:20, :10, :10] + 1 for part in volume())
    image, classes = draw_patch(*small, np.random.default_rng(0), NO_DISTORTION)
    assert (image > -1024).sum() == (classes > 0).sum() == 20 * 10 * 10


def test_truncated_patch_is_empty_outside_one_block() -> None:
    distortion = replace(NO_DISTORTION, truncation_probability=1.0)
    for seed in range(8):
        image, classes = draw_patch(*volume(), np.random.default_rng(seed), distortion)
        empty = (image == -1024).flatten(2).all(dim=2)[0]
        assert not classes[0][empty].any()
        occupied = (~empty).nonzero()[:, 0]
        assert (occupied.diff() == 1).all()
    assert DISTORTION.truncation_probability > 0
