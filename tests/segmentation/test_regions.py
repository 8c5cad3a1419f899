from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from spine_etl.errors import LabelUnknown
from spine_etl.geometry import Grid
from spine_etl.nifti import read_label_map
from spine_etl.segmentation import (
    check_labels,
    find_vertebrae,
    label_regions,
)
from spine_etl.volume import LabelMap
from tests.labelled_ct import RECIPE, grid, two_levels


def test_region_of_a_block_in_closed_form() -> None:
    regions = label_regions(two_levels())
    assert set(regions) == {1, 3}
    region = regions[1]
    assert (region.label, region.voxel_count) == (1, 150)
    assert (region.low, region.high) == ((2, 10, 20), (4, 14, 29))
    np.testing.assert_allclose(region.centroid_mm, (-10 + 24.5 * 0.4, -20 + 12 * 0.5, 30 - 3 * 0.8))
    assert region.volume_mm3 == pytest.approx(150 * 0.4 * 0.5 * 0.8)


@pytest.mark.parametrize("order", ["C", "F"])
def test_regions_of_scattered_labels_match_numpy(order: str) -> None:
    labels = np.random.default_rng(0).choice([0, 0, 0, 1, 7, 255], (7, 8, 9)).astype(np.uint8)
    affine = np.eye(4)
    affine[:3, :3] = [[0.1, 0.2, 0.4], [0.3, 0.5, 0], [-0.8, 0, 0.1]]
    label_map = LabelMap(np.asarray(labels, order=order), Grid(labels.shape, affine))
    for label, region in label_regions(label_map).items():
        voxels = np.argwhere(labels == label)
        assert region.voxel_count == len(voxels)
        assert region.low == tuple(voxels.min(axis=0))
        assert region.high == tuple(voxels.max(axis=0))
        np.testing.assert_allclose(region.centroid_mm, label_map.grid.to_mm(voxels).mean(axis=0))
    assert set(label_regions(label_map)) == {1, 7, 255}


def test_empty_map_has_no_regions() -> None:
    empty = LabelMap(np.zeros((2, 3, 4), np.uint8), grid((2, 3, 4)))
    assert not label_regions(empty)
    assert find_vertebrae(empty, RECIPE).crop_centers_mm(RECIPE) == {}
    check_labels(empty, RECIPE)


def test_unknown_labels_are_listed() -> None:
    label_map = two_levels()
    check_labels(label_map, RECIPE)
    other = LabelMap(np.where(label_map.labels == 3, 9, label_map.labels).astype(np.uint8), label_map.grid)
    with pytest.raises(LabelUnknown, match=r"\[9\]"):
        check_labels(other, RECIPE)


def test_level_centers_are_those_of_the_bounding_boxes() -> None:
    centers = find_vertebrae(two_levels(), RECIPE).crop_centers_mm(RECIPE)
    assert list(centers) == ["C1", "C3"]  # C2 is not in the map
    # Outer edges of C1: voxels 2 to 4, 10 to 14, 20 to 29, half a voxel more on each side.
    expected = (-10 + (19.5 + 29.5) / 2 * 0.4, -20 + (9.5 + 14.5) / 2 * 0.5, 30 - (1.5 + 4.5) / 2 * 0.8)
    np.testing.assert_allclose(centers["C1"], expected, atol=1e-9)


def test_warm_up_leaves_nothing_to_compile(tmp_path: Path) -> None:
    """In a process with an empty cache, as numba's own events report."""
    code = """
import numpy as np
from numba.core.event import RecordingListener, install_listener
from spine_etl.geometry import Grid
from spine_etl.segmentation import find_vertebrae, label_share, shown_labels, warm_up
from spine_etl.volume import LabelMap
from tests.labelled_ct import RECIPE, SHAPE, ct, grid, two_levels

def use():
    labels = two_levels().labels
    labels[4, 16, 20], labels[19, 29, 39] = 1, 3  # a fragment and an island
    labels.flags.writeable = False
    turned = grid().affine.copy()
    turned[1, 0] += 0.2
    uneven = np.arange(20) + np.sin(np.arange(20) * np.pi / 19) * 0.1
    uneven.flags.writeable = False
    for affine in (grid().affine, turned):
        found = find_vertebrae(LabelMap(labels, Grid(SHAPE, affine)), RECIPE)
        assert list(found.islands) == ["C3"]
        label_share(found.label_map, 1, Grid((2, 2, 2), affine))
        shown_labels(found.label_map, ct())
        shown_labels(found.label_map, ct(uneven))

counts = []
for step in (warm_up, use):
    with install_listener("numba:compile", RecordingListener()) as listener:
        step()
    counts.append(len(listener.buffer))
print(counts[0] > 0, counts[1])
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == ("True 0\n", "")


@pytest.mark.real_data
def test_regions_of_a_real_mask_match_numpy(real_data: Path) -> None:
    path = real_data / "ct_mask_pair_lumbar" / "sub-ct_seg-vert_label-22_msk.nii.gz"
    image = nib.load(path)
    array = np.asarray(image.dataobj)
    regions = label_regions(read_label_map(path))
    assert set(regions) == {21, 22, 23}
    for label, region in regions.items():
        voxels = np.argwhere(array == label)  # (i, j, k)
        assert region.voxel_count == len(voxels)
        assert region.low == tuple(voxels.min(axis=0)[::-1])
        assert region.high == tuple(voxels.max(axis=0)[::-1])
        ras = nib.affines.apply_affine(image.affine, voxels.mean(axis=0))
        np.testing.assert_allclose(region.centroid_mm, ras * (-1, -1, 1), atol=1e-4)
        volume_mm3 = len(voxels) * np.prod(image.header.get_zooms())
        assert region.volume_mm3 == pytest.approx(volume_mm3, rel=1e-5)
    assert regions[21].centroid_mm[2] > regions[22].centroid_mm[2] > regions[23].centroid_mm[2]
