"""Augmentation: the distribution of the parameters, and the effect of each, against closed forms."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from model.data.augment import NONE, AugmentParameters, Settings, apply, draw, mix, shuffle_slices

FULL = Settings(cutout=0.5, shuffle=0.5, mixup_alpha=0.4)
ALL = [field.name for field in fields(AugmentParameters)]


def parameters(samples: int = 1, levels: int = 1, positions: int = 8, **given: Any) -> AugmentParameters:
    """The parameters of `NONE`, except for the given values."""
    unchanged = draw(torch.arange(samples), levels, positions, NONE)
    tensors = {}
    for name, value in given.items():
        default = getattr(unchanged, name)
        tensors[name] = torch.as_tensor(value, dtype=default.dtype).expand(default.shape)
    return replace(unchanged, **tensors)


def crops(samples: int = 3, levels: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(1)
    shape = (samples, levels, 5, 12, 16)
    image = torch.from_numpy(random.integers(-1024, 2000, shape).astype(np.int16))
    return image, torch.from_numpy(random.integers(0, 20, shape).astype(np.uint8))


def blob(y: float, x: float, shape: tuple[int, int] = (48, 64)) -> tuple[torch.Tensor, torch.Tensor]:
    """A bright Gaussian spot in air, centred on a pixel, and a mask of its middle."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    spot = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * 2.0**2))
    image = torch.from_numpy(spot * 1000 - 1024).float()[None, None, None]
    return image.expand(1, 1, 2, *shape), (image.expand(1, 1, 2, *shape) > -724).to(torch.uint8) * 7


def centre(values: torch.Tensor) -> tuple[float, float]:
    """The weighted mean (y, x) of one slice."""
    weights = values.double().numpy()[0, 0, 0]
    rows, columns = np.mgrid[: weights.shape[0], : weights.shape[1]]
    return (rows * weights).sum() / weights.sum(), (columns * weights).sum() / weights.sum()


# --- drawing


def test_parameters_depend_on_the_samples_seed_only() -> None:
    seeds = torch.tensor([9, 2**62, 4, 5, 0])
    together = draw(seeds, 7, 15, FULL)
    parts = [draw(part, 7, 15, FULL) for part in (seeds[:2], seeds[2:])]
    for name in ALL:
        torch.testing.assert_close(
            torch.cat([getattr(part, name) for part in parts]), getattr(together, name), rtol=0, atol=0
        )
    assert len(set(together.noise_seed.tolist())) == 5


def test_switching_one_augmentation_off_leaves_the_others() -> None:
    seeds = torch.arange(4)
    drawn, without = draw(seeds, 2, 6, FULL), draw(seeds, 2, 6, replace(FULL, rotation_degrees=0, cutout=0))
    for name in set(ALL) - {"rotation_degrees", "cutout"}:
        torch.testing.assert_close(getattr(without, name), getattr(drawn, name), rtol=0, atol=0)
    assert not without.rotation_degrees.any()
    assert not without.cutout.any()


def test_parameters_have_the_stated_distribution() -> None:
    drawn = draw(torch.arange(2000), 1, 4, FULL)
    bounds = {
        "rotation_degrees": (-15, 15), "scale": (0.9, 1.1), "shift": (-0.05, 0.05), "gain": (0.9, 1.1),
        "offset_hu": (-30, 30), "noise_hu": (0, 20), "mixup": (0, 1),
    }  # fmt: skip
    for name, (low, high) in bounds.items():
        values, extent = getattr(drawn, name), high - low
        assert low <= values.min() < low + 0.01 * extent, name
        assert high - 0.01 * extent < values.max() <= high, name
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.02 * extent), name
    # Beta(a, a) has variance 1 / (4 (2 a + 1)).
    assert drawn.mixup.var().item() == pytest.approx(1 / (4 * 1.8), rel=0.05)
    assert drawn.flip.float().mean().item() == pytest.approx(0.5, abs=0.03)
    y0, x0, y1, x1 = drawn.cutout.unbind(-1)
    assert ((y1 > y0) & (x1 > x0)).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert min(y0.min(), x0.min()) >= 0
    assert max(y1.max(), x1.max()) <= 1
    assert 0.29 < max((y1 - y0).max(), (x1 - x0).max()) <= 0.3


# --- applying


def test_none_changes_nothing() -> None:
    image, mask = crops()
    originals = image.clone(), mask.clone()
    drawn = draw(torch.arange(3), 2, 6, NONE)
    values, labels = apply(image, mask, drawn)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, image.float(), rtol=0, atol=0)
    torch.testing.assert_close(labels, mask, rtol=0, atol=0)
    sequence = torch.rand(3, 2, 6, 4)
    torch.testing.assert_close(shuffle_slices(sequence, drawn), sequence, rtol=0, atol=0)
    torch.testing.assert_close(mix(sequence, drawn), sequence, rtol=0, atol=0)
    apply(image, mask, draw(torch.arange(3), 2, 6, FULL))
    torch.testing.assert_close((image, mask), originals, rtol=0, atol=0)


def test_flip_mirrors_x_only() -> None:
    image, mask = crops()
    values, labels = apply(image, mask, parameters(3, 2, flip=torch.tensor([True, False, True])))
    expected = np.stack([crop[..., ::-1] if b != 1 else crop for b, crop in enumerate(image.numpy())])
    np.testing.assert_array_equal(values.numpy(), expected)
    expected = np.stack([crop[..., ::-1] if b != 1 else crop for b, crop in enumerate(mask.numpy())])
    np.testing.assert_array_equal(labels.numpy(), expected)


def test_rotation_by_90_degrees_is_exact() -> None:
    image = torch.from_numpy(np.random.default_rng(0).integers(-1024, 2000, (1, 1, 2, 9, 9)).astype(np.int16))
    mask = (image > 0).to(torch.uint8) * 5
    values, labels = apply(image, mask, parameters(rotation_degrees=90.0))
    # From +x towards +y: a voxel at (y, x) from the centre moves to (x, -y).
    expected = np.rot90(image.numpy(), -1, axes=(-2, -1))
    assert expected[0, 0, 0, 4 + 2, 4 - 1] == image[0, 0, 0, 4 + 1, 4 + 2]
    torch.testing.assert_close(values, torch.from_numpy(expected.copy()).float(), rtol=0, atol=0.05)
    np.testing.assert_array_equal(labels.numpy(), np.rot90(mask.numpy(), -1, axes=(-2, -1)))


@pytest.mark.parametrize("degrees", [0.0, 20.0, -33.0])
@pytest.mark.parametrize("scale", [1.0, 1.2, 0.8])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.1, -0.05)])
def test_affine_moves_a_point_as_documented(degrees: float, scale: float, shift: tuple[float, float]) -> None:
    height, width = 48, 64
    image, mask = blob(y=18.0, x=38.0)
    drawn = parameters(rotation_degrees=degrees, scale=scale, shift=torch.tensor(shift))
    dy, dx = 18.0 - (height - 1) / 2, 38.0 - (width - 1) / 2
    angle = np.deg2rad(degrees)
    y = (height - 1) / 2 + scale * (np.sin(angle) * dx + np.cos(angle) * dy) + round(shift[0] * height)
    x = (width - 1) / 2 + scale * (np.cos(angle) * dx - np.sin(angle) * dy) + round(shift[1] * width)
    values, labels = apply(image, mask, drawn)
    assert centre(values + 1024) == pytest.approx((y, x), abs=0.02)
    assert centre(labels) == pytest.approx((y, x), abs=0.5)  # nearest neighbour
    assert set(labels.unique().tolist()) == {0, 7}
    area = apply(image, mask, parameters())[0].add(1024).sum()
    assert (values + 1024).sum().item() == pytest.approx(area.item() * scale**2, rel=0.01)


def test_shift_alone_does_not_interpolate() -> None:
    image, mask = crops()
    height, width = image.shape[-2:]
    values, labels = apply(image, mask, parameters(3, 2, shift=torch.tensor([0.17, -0.12])))
    dy, dx = round(0.17 * height), round(-0.12 * width)
    assert dy > 0 > dx
    torch.testing.assert_close(values[..., dy:, :dx], image[..., :-dy, -dx:].float(), rtol=0, atol=0.01)
    torch.testing.assert_close(labels[..., dy:, :dx], mask[..., :-dy, -dx:])


def test_each_crop_has_its_own_shift() -> None:
    image, mask = (values.expand(2, 2, -1, -1, -1) for values in blob(24.0, 32.0))
    shift = torch.tensor([[[0.0, 0.0], [0.0, 0.125]], [[0.25, 0.0], [-0.25, -0.125]]])
    values, _ = apply(image, mask, parameters(2, 2, shift=shift))
    for b, level in np.ndindex(2, 2):
        y, x = 24 + 48 * shift[b, level, 0].item(), 32 + 64 * shift[b, level, 1].item()
        assert centre(values[b : b + 1, level : level + 1] + 1024) == pytest.approx((y, x), abs=0.01)


def test_voxels_from_beyond_the_crop_are_air() -> None:
    image, mask = torch.full((1, 1, 2, 8, 8), 500), torch.full((1, 1, 2, 8, 8), 3, dtype=torch.uint8)
    values, labels = apply(image.to(torch.int16), mask, parameters(shift=torch.tensor([0.5, 0.0]), gain=1.2))
    assert values[0, 0, 0, :4].unique().tolist() == [-1024]
    assert values[0, 0, 0, 4:].unique().tolist() == pytest.approx([(500 + 1024) * 1.2 - 1024])
    assert (labels[0, 0, 0, :4].max(), labels[0, 0, 0, 4:].min()) == (0, 3)


def test_gain_and_offset() -> None:
    image, mask = crops()
    values, labels = apply(
        image, mask, parameters(3, 2, gain=1.1, offset_hu=torch.tensor([0.0, 20.0, -30.0]))
    )
    expected = (image.float() + 1024) * 1.1 - 1024 + torch.tensor([0.0, 20.0, -30.0]).view(3, 1, 1, 1, 1)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(labels, mask)


def test_noise_is_white_and_depends_on_the_samples_seed() -> None:
    image = torch.zeros((3, 2, 20, 40, 40), dtype=torch.int16)
    mask = torch.zeros_like(image, dtype=torch.uint8)
    sigma, seed = torch.tensor([0.0, 12.0, 12.0]), torch.tensor([1, 2, 3])
    values, _ = apply(image, mask, parameters(3, 2, noise_hu=sigma, noise_seed=seed))
    assert not values[0].any()
    assert values[1].std().item() == pytest.approx(12, rel=0.02)
    assert abs(values[1].mean().item()) < 0.2
    neighbours = np.corrcoef(values[1, ..., 1:].ravel(), values[1, ..., :-1].ravel())[0, 1]
    assert abs(neighbours) < 0.02
    assert not torch.equal(values[1], values[2])
    single, _ = apply(image[:1], mask[:1], parameters(1, 2, noise_hu=12.0, noise_seed=2))
    torch.testing.assert_close(single[0], values[1], rtol=0, atol=0)


def test_cutout_is_air_in_all_slices() -> None:
    image, mask = crops(1, 2)
    cutout = torch.tensor([[[0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.0, 0.0]]])
    values, labels = apply(image, mask, parameters(1, 2, cutout=cutout))
    expected = image.float().clone()
    expected[0, 0, :, 3:9, 8:16] = -1024  # of 12 rows and 16 columns
    torch.testing.assert_close(values, expected, rtol=0, atol=0)
    torch.testing.assert_close(labels, mask)


def test_augmentation_does_not_depend_on_the_batch() -> None:
    image, mask = crops()
    seeds = torch.tensor([5, 6, 7])
    together = apply(image, mask, draw(seeds, 2, 6, FULL))
    for b in range(3):
        part = apply(image[b : b + 1], mask[b : b + 1], draw(seeds[b : b + 1], 2, 6, FULL))
        torch.testing.assert_close(part[0][0], together[0][b], rtol=0, atol=1e-3)
        torch.testing.assert_close(part[1][0], together[1][b], rtol=0, atol=0)


def test_slices_and_labels_are_shuffled_alike_and_locally() -> None:
    drawn = draw(torch.arange(50), 2, 15, replace(NONE, shuffle=1.0, shuffle_places=3))
    positions = torch.arange(15).expand(50, 2, 15)
    moved = shuffle_slices(positions, drawn)
    torch.testing.assert_close(moved.sort(-1).values, positions)
    assert (moved - positions).abs().max() == 2
    pictures = positions[..., None, None].expand(-1, -1, -1, 2, 3).float()
    torch.testing.assert_close(shuffle_slices(pictures, drawn)[..., 1, 2], moved.float())
    assert (draw(torch.arange(9), 2, 15, replace(NONE, shuffle=0.0)).order == torch.arange(15)).all()


def test_mixup_mixes_images_and_labels_equally() -> None:
    drawn = parameters(3, mixup=torch.tensor([1.0, 0.75, 0.5]))
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    assert mix(labels, drawn).tolist() == [[1.0, 0.0], [0.25, 0.0], [0.0, 0.5]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_equals_cpu_except_for_noise() -> None:
    image, mask = crops()
    drawn = draw(torch.arange(3), 2, 6, replace(FULL, noise_hu=0.0))
    values, labels = apply(image.cuda(), mask.cuda(), drawn)
    expected, expected_labels = apply(image, mask, drawn)
    torch.testing.assert_close(values.cpu(), expected, rtol=0, atol=0.1)
    assert (labels.cpu() == expected_labels).float().mean() > 0.999  # nearest neighbour at equal distances
