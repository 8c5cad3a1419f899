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


def numbered(shape: tuple[int, int, int], axis: int) -> torch.Tensor:
    """HU that number the voxels along an axis, from 1."""
    return (torch.from_numpy(np.indices(shape)[axis]) + 1).to(torch.int16)


def placed(shape: tuple[int, int, int], seed: int) -> tuple[np.ndarray, ...]:
    """z, y and x, from 0, of the voxel in each voxel of a patch, and its class; -1 where there is none."""
    found = []
    for axis in range(3):
        image = numbered(shape, axis)
        classes = numbered(shape, 2).to(torch.uint8)
        patch, labels = draw_patch(image, classes, np.random.default_rng(seed), NO_DISTORTION)
        outside = patch[0] < -1000
        assert ((labels[0] == 0) == outside).all()
        found.append(patch[0].round().long().masked_fill(outside, 0).numpy() - 1)
    return *found, labels[0].numpy().astype(int) - 1


@pytest.mark.parametrize("shape", [(71, 53, 61), (33, 47, 15), (65, 49, 49), (64, 48, 48), (1, 97, 47)])
def test_voxels_of_an_odd_volume_keep_their_places_in_a_patch(shape: tuple[int, int, int]) -> None:
    """Steps of one voxel along each axis, x perhaps mirrored; the class is that of the same voxel."""
    for seed in range(4):
        z, y, x, classes = placed(shape, seed)
        inside = z >= 0
        assert inside.sum() == np.prod(np.minimum(shape, PATCH))
        np.testing.assert_array_equal(x, classes)
        for axis, (index, own) in enumerate(((z, 64), (y, 48), (x, 48))):
            values = np.unique(index[inside])
            assert len(values) == min(shape[axis], own)
            assert values[-1] - values[0] + 1 == len(values)
            both = np.moveaxis(inside, axis, 0)
            pairs = both[1:] & both[:-1]
            steps = np.diff(np.moveaxis(index, axis, 0), axis=0)[pairs]
            assert set(steps.tolist()) <= ({1} if axis < 2 else {1, -1})
            assert len(set(steps.tolist())) <= 1


def test_patches_of_an_odd_volume_start_at_every_voxel_where_one_fits() -> None:
    """66, 49 and 51 voxels: 3, 2 and 4 positions along the axes, from the first to the last."""
    starts: list[set[int]] = [set(), set(), set()]
    mirrored = set()
    for seed in range(60):
        for axis in range(3):
            image = numbered((66, 49, 51), axis)
            classes = torch.ones(image.shape, dtype=torch.uint8)
            patch, _ = draw_patch(image, classes, np.random.default_rng(seed), NO_DISTORTION)
            starts[axis].add(round(float(patch.min())) - 1)
            if axis == 2:
                mirrored.add(bool(patch[0, 0, 0, 0] > patch[0, 0, 0, -1]))
    assert starts == [set(range(3)), set(range(2)), set(range(4))]
    assert mirrored == {True, False}


def ball(radius: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A ball of class 1 and 1000 HU in the middle of a volume of a patch's size."""
    z, y, x = np.indices(PATCH)
    distance = np.sqrt((z - 31.5) ** 2 + (y - 23.5) ** 2 + (x - 23.5) ** 2)
    classes = torch.from_numpy((distance <= radius).astype(np.uint8))
    return classes.to(torch.int16) * 1000, classes


@pytest.mark.parametrize("seed", range(5))
def test_rotated_ball_remains_a_ball_of_its_size(seed: int) -> None:
    """The axes of a patch differ in length, which a rotation must allow for."""
    image, truth = ball(15.0)
    rotated = replace(NO_DISTORTION, max_rotation_deg=40)
    image, classes = draw_patch(image, truth, np.random.default_rng(seed), rotated)
    both = (classes[0].bool() & truth.bool()).sum()
    assert 2 * both / (classes.sum() + truth.sum()) > 0.97
    inside = (image[0] > 500).numpy() == truth.bool().numpy()
    assert inside[truth.bool().numpy()].mean() > 0.97


def test_scale_is_within_its_range_on_both_sides() -> None:
    """The volume of a ball grows and shrinks by the cube of a scale between 0.8 and 1.2."""
    image, truth = ball(12.0)
    scaled = replace(NO_DISTORTION, max_scale=0.2)
    scales = []
    for seed in range(40):
        _, classes = draw_patch(image, truth, np.random.default_rng(seed), scaled)
        scales.append((float(classes.sum()) / float(truth.sum())) ** (1 / 3))
    assert 0.79 < min(scales) < 0.85
    assert 1.15 < max(scales) < 1.21


def test_gain_is_about_air_and_offset_and_noise_are_in_hu() -> None:
    """Values of 476 HU, 1500 above air; air itself remains air."""
    image = torch.full(PATCH, 476, dtype=torch.int16)
    image[30:32] = -1024
    classes = torch.ones(PATCH, dtype=torch.uint8)
    for name, value, low, high in (
        ("max_gain", 0.1, 476 - 150, 476 + 150),
        ("max_offset_hu", 40.0, 476 - 40, 476 + 40),
    ):
        means = []
        for seed in range(30):
            distortion = replace(NO_DISTORTION, **{name: value})
            patch, _ = draw_patch(image, classes, np.random.default_rng(seed), distortion)
            assert (patch[0, 30:32] == -1024).all()
            means.append(float(patch[0, :30].mean()))
        assert low - 0.01 <= min(means) < low + 0.2 * (high - low)
        assert high - 0.2 * (high - low) < max(means) <= high + 0.01
    noises = []
    for seed in range(20):
        noisy = replace(NO_DISTORTION, max_noise_hu=40.0)
        patch, _ = draw_patch(image, classes, np.random.default_rng(seed), noisy)
        noises.append(float(patch[0, :30].std()))
        assert patch[0, :30].mean() == pytest.approx(476, abs=1)
    assert 30 < max(noises) < 40.5
