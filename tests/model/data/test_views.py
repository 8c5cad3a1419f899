"""Windows and the 2.5D stack, against closed forms and a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.data.targets import NO_BOX
from model.data.views import (
    THREE_WINDOWS,
    at_positions,
    level_labels,
    rasterize_boxes,
    slice_positions,
    stack_2_5d,
    window,
    windows,
)
from spine_etl.recipe import Recipe
from spine_etl.store import Store
from spine_etl.windows import BONE

LABELS = torch.tensor([3, 4], dtype=torch.uint8)


def crops(shape: tuple[int, int, int] = (20, 4, 6)) -> tuple[torch.Tensor, torch.Tensor]:
    """Two studies, two levels: the first (label 3) in z 4 to 12, the second (label 4) in z 7 to 9.

    The second study has no second level. Each crop also contains part of the other level.
    """
    random = np.random.default_rng(0)
    image = torch.from_numpy(random.integers(-1000, 1500, (2, 2, *shape)).astype(np.int16))
    mask = torch.zeros((2, 2, *shape), dtype=torch.uint8)
    mask[:, 0, 4:13, 1, 2] = 3
    mask[:, 0, 13:20, 2, 3] = 4
    mask[0, 1, 7:10, 0, 0] = 4
    mask[0, 1, 0:7, 2, 2] = 3
    return image, mask


def test_window_is_linear_between_its_ends() -> None:
    image = torch.tensor([-1024, -500, 400, 850, 1300, 3000], dtype=torch.int16)
    expected = [0, 0, 0.5, 0.75, 1, 1]  # (HU - 400) / 1800 + 0.5, clipped
    torch.testing.assert_close(window(image, BONE), torch.tensor(expected))


def test_three_windows_are_channels() -> None:
    image, _ = crops()
    channels = windows(image)
    assert (channels.shape, channels.dtype) == ((2, 2, 20, 3, 4, 6), torch.float32)
    for channel, setting in enumerate(THREE_WINDOWS):
        torch.testing.assert_close(channels[..., channel, :, :], window(image, setting), rtol=0, atol=0)
    torch.testing.assert_close(windows(image.float()), channels, rtol=0, atol=0)


def test_level_labels_come_from_the_recipe(tiny_store: Store) -> None:
    assert level_labels(tiny_store.recipe).tolist() == [1, 2]
    lumbar = {"L1": 20, "L2": 21}
    content = {**tiny_store.recipe.model_dump(), "levels": lumbar}
    assert level_labels(Recipe.model_validate(content)).tolist() == [20, 21]


def test_positions_are_evenly_spaced_over_the_vertebra() -> None:
    _, mask = crops()
    z = slice_positions(mask, LABELS, positions=5)
    assert z.tolist() == [[[4, 6, 8, 10, 12], [7, 8, 8, 8, 9]], [[4, 6, 8, 10, 12], [-1] * 5]]


def test_positions_at_the_ends_of_the_crop() -> None:
    mask = torch.full((1, 1, 31, 2, 2), 3, dtype=torch.uint8)
    assert slice_positions(mask, LABELS[:1], positions=15)[0, 0].tolist() == [
        int(np.round(30 * i / 14)) for i in range(15)
    ]


def test_sliding_positions_stay_within_the_vertebra() -> None:
    _, mask = crops()
    slide = torch.tensor([[0.5, 0.0], [-1.0, 0.5]])
    z = slice_positions(mask, LABELS, 5, slide)
    assert z.tolist() == [[[5, 7, 9, 11, 12], [7, 8, 8, 8, 9]], [[4, 4, 6, 8, 10], [-1] * 5]]


def test_rasterized_boxes_contain_the_voxels_they_touch() -> None:
    boxes = torch.tensor(NO_BOX).repeat(1, 2, 20, 1)
    boxes[0, 1, 0] = torch.tensor([0.0, 0.0, 4.0, 6.0])  # its level is not located
    boxes[0, 0, 6] = torch.tensor([1.0, 2.6, 2.2, 4.4])
    boxes[0, 0, 8] = torch.tensor([-3.0, 4.0, 0.6, 30.0])
    z = torch.tensor([[[4, 6, 8], [-1, -1, -1]]])
    box_masks = rasterize_boxes(boxes, z, (4, 6))
    expected = torch.zeros(1, 2, 3, 4, 6, dtype=torch.uint8)
    expected[0, 0, 1, 1:3, 3:5] = 1
    expected[0, 0, 2, 0:2, 4:6] = 1
    assert torch.equal(box_masks, expected)


def test_stack_equals_a_plain_loop() -> None:
    image, mask = crops()
    z = slice_positions(mask, LABELS, positions=7)
    stack = stack_2_5d(image, mask, LABELS, z, neighbours=5)
    expected = torch.zeros((2, 2, 7, 6, 4, 6))
    for b, level, position in np.ndindex(2, 2, 7):
        middle = int(z[b, level, position])
        if middle < 0:
            continue
        for channel in range(5):
            z_index = min(max(middle + channel - 2, 0), 19)
            hu = image[b, level, z_index].float()
            expected[b, level, position, channel] = ((hu - 400) / 1800 + 0.5).clamp(0, 1)
        expected[b, level, position, 5] = (mask[b, level, middle] == LABELS[level]).float()
    torch.testing.assert_close(stack, expected)
    assert stack[0, 0, 0, 5].sum() == 1
    assert not stack[1, 1].any()


def test_neighbours_beyond_the_crop_repeat_its_end() -> None:
    image, mask = crops()
    z = torch.tensor([0, 19]).expand(2, 2, 2)
    stack = stack_2_5d(image, mask, LABELS, z, neighbours=5)
    for channel in (0, 1):
        torch.testing.assert_close(stack[:, :, 0, channel], window(image[:, :, 0], BONE))
        torch.testing.assert_close(stack[:, :, 1, 4 - channel], window(image[:, :, 19], BONE))


def test_stack_is_resized_in_plane() -> None:
    image = torch.full((1, 1, 9, 8, 12), 400, dtype=torch.int16)
    mask = torch.zeros((1, 1, 9, 8, 12), dtype=torch.uint8)
    mask[..., 0:4, 6:12] = 3
    stack = stack_2_5d(image, mask, LABELS[:1], torch.tensor([[[4]]]), neighbours=3, size=(4, 6))
    assert stack.shape == (1, 1, 1, 4, 4, 6)
    torch.testing.assert_close(stack[0, 0, 0, :3], torch.full((3, 4, 6), 0.5))
    assert stack[0, 0, 0, 3].tolist() == [[0, 0, 0, 1, 1, 1]] * 2 + [[0] * 6] * 2


def test_slice_labels_follow_the_positions() -> None:
    _, mask = crops()
    z = slice_positions(mask, LABELS, positions=5)
    labels = torch.zeros((2, 2, 20), dtype=torch.int8)
    labels[0, 0, 8:11] = 1
    labels[0, 1] = -1
    gathered = at_positions(labels, z)
    assert gathered.dtype == torch.int8
    assert gathered.tolist() == [[[0, 0, 1, 1, 0], [-1] * 5], [[0] * 5, [-1] * 5]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_stack_on_cuda_equals_the_cpus() -> None:
    image, mask = crops()
    z = slice_positions(mask, LABELS)
    device = [values.cuda() for values in (image, mask, LABELS)]
    on_device = slice_positions(device[1], device[2])
    torch.testing.assert_close(on_device.cpu(), z, rtol=0, atol=0)
    torch.testing.assert_close(stack_2_5d(*device, on_device).cpu(), stack_2_5d(image, mask, LABELS, z))
