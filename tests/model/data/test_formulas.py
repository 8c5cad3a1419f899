"""Views, augmentation, targets and orders against plain formulas and SciPy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from model.data.augment import NONE, AugmentParameters, apply, draw
from model.data.inputs import inputs_of
from model.data.loader import Batches
from model.data.order import Order
from model.data.targets import Targets
from model.data.views import (
    ViewSettings,
    level_labels,
    rasterize_boxes,
    slice_positions,
    stack_2_5d,
    window,
)
from spine_etl.store import Store
from spine_etl.store.record import BoxRecord, LevelRecord
from spine_etl.windows import Window

SEEDS = st.integers(0, 2**32 - 1)


def parameters(**given_values: Any) -> AugmentParameters:
    """The parameters of one sample with one level that change nothing, except for the given ones."""
    values = dict(vars(draw(torch.tensor([0]), 1, 3, NONE)))
    for name, value in given_values.items():
        values[name] = torch.as_tensor(value, dtype=values[name].dtype).expand(values[name].shape)
    return AugmentParameters(**values)


def test_window_is_linear_exact() -> None:
    hu = np.arange(-1100, 2100, 7, dtype=np.int16)
    for center, width in ((40.0, 400.0), (400.0, 1800.0), (-10.0, 1.0)):
        low, high = hu <= center - width / 2, hu > center + width / 2
        inside = (hu.astype(float) - center) / width + 0.5  # DICOM PS3.3 C.11.2.1.3.2
        expected = np.where(low, 0, np.where(high, 1, inside))
        found = window(torch.from_numpy(hu), Window("any", center, width))
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 11), st.integers(1, 12), st.integers(1, 20), st.floats(-2, 2))
def test_positions_follow_the_formula(first: int, length: int, count: int, slide: float) -> None:
    last = min(first + length - 1, 11)
    mask = torch.zeros((1, 1, 12, 2, 2), dtype=torch.uint8)
    mask[0, 0, first : last + 1, 1, 0] = 5
    label = torch.tensor([5], dtype=torch.uint8)
    for moved in (None, slide):
        slid = None if moved is None else torch.tensor([[moved]])
        found = slice_positions(mask, label, count, slid)[0, 0].tolist()
        for i, z in enumerate(found):
            share = (i + (moved or 0)) / max(1, count - 1)
            assert abs(z - (first + (last - first) * min(max(share, 0), 1))) <= 0.5 + 1e-4
        if moved is None:
            assert found[0] == first
            assert count == 1 or found[-1] == last
    assert slice_positions(mask, label + 1, count).tolist() == [[[-1] * count]]


def test_stack_has_neighbours_from_foot_to_head_then_the_mask() -> None:
    image = torch.arange(6).view(1, 1, 6, 1, 1).expand(1, 1, 6, 2, 3) * 10
    mask = torch.zeros((1, 1, 6, 2, 3), dtype=torch.uint8)
    mask[0, 0, 4, 0, 1], mask[0, 0, 4, 1, 1] = 3, 2
    z = torch.tensor([[[4, 0, -1]]])
    label = torch.tensor([3], dtype=torch.uint8)
    stack = stack_2_5d(image, mask, label, z, neighbours=3, setting=Window("ten", 50, 100))[0, 0]
    np.testing.assert_allclose(stack[:, :3, 0, 0], [[0.3, 0.4, 0.5], [0, 0, 0.1], [0, 0, 0]], atol=1e-6)
    assert stack[:, 3].nonzero().tolist() == [[0, 0, 1]]


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_box_masks_contain_every_pixel_with_an_inner_point_in_the_box(seed: int) -> None:
    y0, x0, y1, x1 = np.random.default_rng(seed).uniform(-2, 9, 4).round(2)
    boxes = torch.tensor([y0, x0, y1, x1], dtype=torch.float32).expand(1, 1, 2, 4)
    found = rasterize_boxes(boxes, torch.tensor([[[1, -1]]]), (7, 5))[0, 0]
    expected = np.zeros((7, 5))
    for y, x in np.ndindex(7, 5):
        expected[y, x] = y - 0.5 < y1 and y + 0.5 > y0 and x - 0.5 < x1 and x + 0.5 > x0
    np.testing.assert_array_equal(found[0], expected)
    assert not found[1].any()


def test_size_keeps_the_middle_of_the_crop(tiny_store: Store) -> None:
    labels = level_labels(tiny_store.recipe)
    with Batches(tiny_store, [0, 1], batch_size=2, shuffle=False) as batches:
        batch = next(iter(batches))
        whole = inputs_of(batch, labels, ViewSettings(positions=3, neighbours=1)).views
        middle = inputs_of(batch, labels, ViewSettings(positions=3, neighbours=1, size=(4, 6))).views
    torch.testing.assert_close(middle, whole[..., 2:6, 2:8])


@pytest.mark.parametrize(
    ("angle", "scale", "shift"), [(11, 1.0, (0, 0)), (0, 1.07, (0, 0)), (-9, 0.9, (3, -4))]
)
def test_affine_equals_scipy(angle: float, scale: float, shift: tuple[int, int]) -> None:
    random = np.random.default_rng(2)
    image = ndimage.gaussian_filter(random.normal(0, 3000, (40, 64)), 2).astype(np.float32)
    mask = (np.indices((40, 64)).sum(axis=0) // 9 % 5).astype(np.uint8)
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    # The content is rotated from +x towards +y, enlarged, then shifted; SciPy wants the inverse.
    forward = scale * np.array([[cosine, sine], [-sine, cosine]])
    inverse, middle = np.linalg.inv(forward), np.array([19.5, 31.5])
    offset = middle - inverse @ (middle + shift)
    expected = ndimage.affine_transform(image, inverse, offset, order=1, cval=-1024)
    expected_mask = ndimage.affine_transform(mask, inverse, offset, order=0, cval=0)
    drawn = parameters(rotation_degrees=angle, scale=scale, shift=[shift[0] / 40, shift[1] / 64])
    found, found_mask = apply(
        torch.from_numpy(image)[None, None, None], torch.from_numpy(mask)[None, None, None], drawn
    )
    inside = ndimage.binary_erosion(expected != -1024, iterations=2)
    np.testing.assert_allclose(found[0, 0, 0].numpy()[inside], expected[inside], atol=0.5)
    assert (found_mask[0, 0, 0].numpy()[inside] == expected_mask[inside]).mean() > 0.995
    assert set(found_mask.unique().tolist()) <= {0, 1, 2, 3, 4}


def test_rotation_flip_and_shift_have_inverses() -> None:
    spot = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 9000, (48, 48)), 4).astype(np.float32)
    image, mask = torch.from_numpy(spot)[None, None, None], torch.ones((1, 1, 1, 48, 48), dtype=torch.uint8)
    for there, back in (
        (parameters(rotation_degrees=10), parameters(rotation_degrees=-10)),
        (parameters(flip=True), parameters(flip=True)),
        (parameters(shift=[3 / 48, -5 / 48]), parameters(shift=[-3 / 48, 5 / 48])),
    ):
        moved = apply(image, mask, there)[0]
        assert (moved - image)[..., 12:36, 12:36].abs().max() > 100
        restored = apply(moved, mask, back)[0]
        assert (restored - image)[..., 12:36, 12:36].abs().max() < 0.05 * np.ptp(spot)


@settings(max_examples=50, deadline=None)
@given(st.integers(6, 40), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 3))
def test_epoch_has_each_study_once_on_any_ranks(
    studies: int, batch_size: int, ranks: int, drop_last: bool, epoch: int
) -> None:
    orders = [
        Order(
            np.arange(studies) * 3, batch_size, 7, shuffle=True, drop_last=drop_last, rank=r, world_size=ranks
        )
        for r in range(ranks)
    ]
    permutation = np.random.default_rng([7, epoch]).permutation(np.arange(studies) * 3).tolist()
    parts = [order.epoch_studies(epoch).tolist() for order in orders]
    found = [part[i] for i in range(len(parts[0])) for part in parts]
    if drop_last:
        assert found == permutation[: studies - studies % (batch_size * ranks)]
    else:
        assert found == (permutation + permutation)[: -(-studies // ranks) * ranks]
        assert set(Counter(found).values()) <= {1, 2}
    for position in range(0, len(parts[0]), batch_size):
        rest = takewhile(lambda batch: batch.epoch == epoch, orders[0].batches_from(epoch, position))
        assert [study for batch in rest for study in batch.studies.tolist()] == parts[0][position:]


Study = tuple[dict[str, int], dict[str, bool], list[tuple[str | None, dict[str, Any]]]]


def random_study(random: np.random.Generator) -> Study:
    """Labels, which levels are located, and up to four boxes with their corners in the crops."""
    fracture = {name: int(random.random() < 0.7) for name in ("C1", "C2") if random.random() < 0.8}
    is_located = {name: random.random() < 0.8 for name in ("C1", "C2")}
    boxes = []
    for _ in range(int(random.integers(0, 5))):
        level = [None, "C1", "C2"][int(random.integers(3))]
        corners = {}
        for name in ("C1", "C2"):
            if is_located[name]:
                low = random.integers(-4, 12, 3) / 2
                corners[name] = (*low.tolist(), *(low + random.integers(1, 6, 3) / 2).tolist())
        boxes.append((level, corners))
    return fracture, is_located, boxes


def record_fields(study: Study) -> dict[str, Any]:
    fracture, is_located, boxes = study
    return {
        "fracture": fracture,
        "levels": {
            name: LevelRecord(status="located", origin_mm=(0.0, 0.0, 0.0)) if located
            else LevelRecord(status="absent")
            for name, located in is_located.items()
        },
        "boxes": tuple(
            BoxRecord(x=0, y=0, width=1, height=1, slice_number=1, level=level, in_crops=corners)
            for level, corners in boxes
        ),
    }  # fmt: skip


def expected_slice(study: Study, name: str, z: int) -> tuple[int, list[float]]:
    """Label and box of a slice: y0, x0, y1, x1, around all boxes of the level that cross it."""
    fracture, is_located, boxes = study

    def crosses(corners: dict[str, Any]) -> bool:
        return name in corners and corners[name][0] < z + 0.5 and corners[name][3] > z - 0.5

    own = [corners for level, corners in boxes if level == name]
    if not is_located[name] or name not in fracture:
        label = -1
    elif fracture[name] == 0:
        label = 0
    elif any(crosses(corners) for corners in own):
        label = 1
    elif not own or any(crosses(corners) for level, corners in boxes if level is None):
        label = -1
    else:
        label = 0
    shown = [corners[name] for corners in own if fracture.get(name) == 1 and crosses(corners)]
    if not shown:
        return label, [0, 0, -1, -1]
    low, high = np.min([box[1:3] for box in shown], axis=0), np.max([box[4:6] for box in shown], axis=0)
    return label, [*low.tolist(), *high.tolist()]


@settings(max_examples=5, deadline=None)
@given(seed=SEEDS)
def test_slice_targets_follow_the_rules(build_store: Callable[..., Store], seed: int) -> None:
    random = np.random.default_rng(seed)
    studies = [random_study(random) for _ in range(8)]
    fields = {number: record_fields(study) for number, study in enumerate(studies)}
    with TemporaryDirectory() as folder:
        targets = Targets(build_store(Path(folder) / "store", len(studies), fields))
    for number, study in enumerate(studies):
        for column, name in enumerate(("C1", "C2")):
            for z in range(6):
                label, box = expected_slice(study, name, z)
                assert targets.slice_fracture[number, column, z] == label
                assert targets.slice_box[number, column, z].tolist() == box
