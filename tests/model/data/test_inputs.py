"""The network's inputs: views, and which of their labels are known."""

from __future__ import annotations

import numpy as np
import torch

from model.data.augment import NONE, Settings
from model.data.inputs import inputs_of
from model.data.loader import Batch, Batches
from model.data.views import ViewSettings, level_labels
from spine_etl.store import Store

STACK = ViewSettings(positions=4, neighbours=3)


def batch(store: Store) -> Batch:
    with Batches(store, [0, 1, 2], batch_size=3, shuffle=False) as batches:
        return next(iter(batches))


def test_shapes_and_channels(tiny_store: Store) -> None:
    labels = level_labels(tiny_store.recipe)
    for view, channels in ((STACK, 4), (ViewSettings(kind="windows", positions=4), 3)):
        inputs = inputs_of(batch(tiny_store), labels, view)
        assert inputs.views.shape == (3, 2, 4, channels, 8, 10)
        assert view.channels == channels
        assert inputs.slices.shape == inputs.positions.shape == (3, 2, 4)
    cut = inputs_of(batch(tiny_store), labels, ViewSettings(positions=4, neighbours=3, size=(4, 6)))
    assert torch.equal(cut.views, inputs_of(batch(tiny_store), labels, STACK).views[..., 2:6, 2:8])


def test_windows_show_the_slices_at_the_positions(tiny_store: Store) -> None:
    inputs = inputs_of(
        batch(tiny_store), level_labels(tiny_store.recipe), ViewSettings(kind="windows", positions=4)
    )
    image = tiny_store.image(1)[0].astype(np.float64)
    for n, z in enumerate(inputs.positions[1, 0].tolist()):
        bone = np.clip((image[z] - 400) / 1800 + 0.5, 0, 1)
        np.testing.assert_allclose(inputs.views[1, 0, n, 0].numpy(), bone, atol=1e-6)


def test_augmentation_with_strength_zero_changes_nothing(tiny_store: Store) -> None:
    labels = level_labels(tiny_store.recipe)
    plain = inputs_of(batch(tiny_store), labels, STACK)
    same = inputs_of(batch(tiny_store), labels, STACK, NONE)
    torch.testing.assert_close(plain.views, same.views)
    assert torch.equal(plain.slices, same.slices)


def test_slice_labels_follow_sliding_positions(tiny_store: Store) -> None:
    original = batch(tiny_store)
    height = torch.arange(6, dtype=torch.int8).expand(3, 2, 6)
    changed = Batch(**{**vars(original), "slice_fracture": height})
    settings = Settings(**{**vars(NONE), "slide": 1.0})
    labels = level_labels(tiny_store.recipe)
    inputs = inputs_of(changed, labels, STACK, settings)
    assert torch.equal(inputs.slices.long(), inputs.positions)
    assert not torch.equal(inputs.positions, inputs_of(changed, labels, STACK).positions)


def test_box_masks_follow_the_image(tiny_store: Store) -> None:
    """The image is bone inside the boxes and air elsewhere, so box masks and bone must still overlap."""
    original = batch(tiny_store)
    boxes = torch.tensor([2.0, 3.0, 4.0, 6.0]).repeat(3, 2, 6, 1)
    boxes[:, :, ::2] = torch.tensor([1.0, 5.0, 6.0, 8.0])
    image = torch.full_like(original.image, -1024)
    image[:, :, 1::2, 2:5, 3:7] = 2000
    image[:, :, ::2, 1:7, 5:9] = 2000
    changed = Batch(**{**vars(original), "slice_box": boxes, "image": image})
    settings = Settings(rotation_degrees=40, cutout=0, noise_hu=0, slide=1.0, shuffle=1.0)
    inputs = inputs_of(changed, level_labels(tiny_store.recipe), STACK, settings)
    assert inputs.box_masks is not None
    bone = inputs.views[:, :, :, 1] > 0.5  # the middle one of three neighbours
    located = inputs.located[..., None, None, None].expand_as(bone)
    overlap = (bone & (inputs.box_masks > 0))[located].sum() / (bone | (inputs.box_masks > 0))[located].sum()
    assert overlap > 0.9  # interpolation blurs the edges
    mixed = inputs_of(changed, level_labels(tiny_store.recipe), STACK, Settings(mixup_alpha=0.4))
    assert mixed.box_masks is inputs_of(changed, level_labels(tiny_store.recipe), STACK).box_masks is None


def test_slice_labels_follow_shuffled_slices(tiny_store: Store) -> None:
    original = batch(tiny_store)
    height = torch.arange(6, dtype=torch.int8).expand(3, 2, 6)
    changed = Batch(**{**vars(original), "slice_fracture": height})  # each slice's label is its height
    settings = Settings(**{**vars(NONE), "shuffle": 1.0, "shuffle_places": 3})
    inputs = inputs_of(changed, level_labels(tiny_store.recipe), STACK, settings)
    assert torch.equal(inputs.slices.long(), inputs.positions)
    assert not torch.equal(inputs.positions, inputs.positions.sort(dim=2).values)


def test_labels_of_levels_that_are_not_visible_are_unknown(tiny_store: Store) -> None:
    original = batch(tiny_store)
    mask = original.mask.clone()
    mask[0, 1][mask[0, 1] == 2] = 0  # C2 has a crop, but no voxel in it
    located = original.located.clone()
    located[1] = False
    inputs = inputs_of(
        Batch(**{**vars(original), "mask": mask, "located": located}), level_labels(tiny_store.recipe), STACK
    )
    assert inputs.located.tolist() == [[True, False], [False, False], [True, True]]
    assert inputs.known.tolist() == [[True, False, True], [False] * 3, [True] * 3]


def test_mixing_with_an_unknown_slice_is_unknown(tiny_store: Store) -> None:
    original = batch(tiny_store)
    slices = original.slice_fracture.clone()
    slices[0] = -1
    settings = Settings(**{**vars(NONE), "mixup_alpha": 0.4})
    labels = level_labels(tiny_store.recipe)
    inputs = inputs_of(Batch(**{**vars(original), "slice_fracture": slices}), labels, STACK, settings)
    assert (inputs.slices[:2] == -1).all()  # the first, and the one it is mixed into
    assert (inputs.slices[2] >= 0).any()
    assert ((inputs.labels > 0) & (inputs.labels < 1)).any()


def test_mixed_patients_without_a_common_level_are_unknown(tiny_store: Store) -> None:
    original = batch(tiny_store)
    located = torch.tensor([[True, False], [False, True], [True, True]])
    settings = Settings(**{**vars(NONE), "mixup_alpha": 0.4})
    changed = Batch(**{**vars(original), "located": located})
    inputs = inputs_of(changed, level_labels(tiny_store.recipe), STACK, settings)
    # The first is mixed with the last, the second with the first, the last with the second.
    assert inputs.located.tolist() == [[True, False], [False, False], [False, True]]
    assert inputs.known.tolist() == [[True, False, True], [False] * 3, [False, True, True]]
