"""Pixels, masks, boxes and the analytic ground truth agree, each read by its own header."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from spine_etl.phantom import phantom_truth, write_phantom
from spine_etl.phantom.anatomy import CERVICAL

Labels = npt.NDArray[np.uint16]


def masked(written: list[Any]) -> list[Any]:
    return [study for study in written if study.mask.exists()]


def labels_by_affines(study: Any) -> Labels:
    """(file, row, column): each voxel of the mask assigned to the nearest pixel in millimetres."""
    image = nib.load(study.mask)
    voxels = np.argwhere(np.asarray(image.dataobj) > 0)
    points = nib.affines.apply_affine(image.affine, voxels) * [-1, -1, 1]  # RAS to LPS
    last = np.array(study.hu.shape) - 1
    origin, end = study.to_mm(np.array([[0, 0, 0], [last[0], 0, 0]]))
    row, column = (
        (study.to_mm(np.array([[0, 1, 0]]))[0] - origin),
        (study.to_mm(np.array([[0, 0, 1]]))[0] - origin),
    )
    axes = np.column_stack([(end - origin) / last[0], row, column])
    index = np.linalg.solve(axes, (points - origin).T).T
    assert np.abs(index - index.round()).max() < 0.02
    labels = np.zeros(study.hu.shape, np.uint16)
    labels[tuple(index.round().astype(int).T)] = np.asarray(image.dataobj)[tuple(voxels.T)]
    return labels


def test_masks_align_with_their_ct_in_millimetres(written: list[Any]) -> None:
    for study in masked(written):
        labels = labels_by_affines(study)
        assert set(np.unique(labels)) == set(range(10))
        bone = study.hu[labels > 0]
        surroundings = study.hu[
            ndimage.binary_dilation(labels > 0, iterations=3) & ~ndimage.binary_dilation(labels > 0)
        ]
        assert bone.mean() > 400
        assert np.median(surroundings) < 150


def test_air_is_minus_1000_hu_in_every_pixel_format(written: list[Any]) -> None:
    """The mean of the air before the neck. Noise is symmetric; below -1024 is outside the circle."""
    formats = set()
    for study in written:
        before = study.hu[:, : study.hu.shape[1] // 4]
        is_air = (before >= -1024) & (before < -900)
        air = before[ndimage.binary_erosion(is_air, np.ones((1, 3, 3)), iterations=2)]  # without the skin
        if air.size < 20_000:
            continue
        assert air.mean() == pytest.approx(-1000, abs=0.4)
        header = study.datasets[0]
        formats.add((header.BitsStored, header.PixelRepresentation, float(header.RescaleIntercept)))
    assert formats == {(12, 0, -1024.0), (16, 1, -1024.0), (16, 1, 0.0)}


def test_flip_formula_holds_for_head_to_foot_studies(written: list[Any]) -> None:
    head_to_foot = [study for study in masked(written) if not study.truth.scan.foot_to_head]
    assert len(head_to_foot) >= 3
    for study in head_to_foot:
        seg = np.asarray(nib.load(study.mask).dataobj)
        assert np.array_equal(seg[:, ::-1, ::-1].transpose(2, 1, 0), labels_by_affines(study))


def test_levels_are_in_order_from_head_to_foot(written: list[Any]) -> None:
    for study in masked(written):
        image = nib.load(study.mask)
        seg = np.asarray(image.dataobj)
        heights = [
            nib.affines.apply_affine(image.affine, np.argwhere(seg == i)).mean(axis=0)[2]
            for i in range(1, 10)
        ]
        assert (np.diff(heights) < -8).all()


def test_true_centroid_and_bounds_match_the_mask(written: list[Any]) -> None:
    for study in masked(written):
        image = nib.load(study.mask)
        seg = np.asarray(image.dataobj)
        spacing = np.array(image.header.get_zooms())
        for name, level in study.truth.levels.items():
            points = nib.affines.apply_affine(image.affine, np.argwhere(seg == level.label)) * [-1, -1, 1]
            assert np.abs(points.mean(axis=0) - level.centroid_mm).max() < 0.3 * spacing.max(), name
            low, high = level.bounds_mm
            assert (points > low - 0.6).all(), name
            assert (points < high + 0.6).all(), name
            assert (points.min(axis=0) - low < 1.5 * spacing).all(), name
            assert (high - points.max(axis=0) < 1.5 * spacing).all(), name


def test_mask_centroids_converge_to_the_truth_with_fine_sampling(tmp_path: Path) -> None:
    study = write_phantom(tmp_path / "fine", 1, 11, slices=160, size=192)[0]
    image = nib.load(next((tmp_path / "fine" / "segmentations").iterdir()))
    seg = np.asarray(image.dataobj)
    voxel = np.prod(image.header.get_zooms())
    for name in CERVICAL:
        level = study.levels[name]
        points = nib.affines.apply_affine(image.affine, np.argwhere(seg == level.label)) * [-1, -1, 1]
        assert np.abs(points.mean(axis=0) - level.centroid_mm).max() < 0.15
        assert 3000 < len(points) * voxel < 30000  # mm3; a cervical vertebra has about 10 cm3


def test_unfractured_vertebrae_are_one_component(written: list[Any]) -> None:
    for study in masked(written):
        seg = np.asarray(nib.load(study.mask).dataobj)
        for name, level in study.truth.levels.items():
            if name not in study.truth.fractured:
                assert ndimage.label(seg == level.label, np.ones((3, 3, 3)))[1] == 1, name


def test_boxes_are_inside_the_image_and_cover_a_fractured_level(written: list[Any]) -> None:
    boxes = 0
    for study in written:
        assert not study.truth.boxes or study.truth.fractured
        labels = labels_by_affines(study) if study.mask.exists() else None
        for box in study.truth.boxes:
            boxes += 1
            assert min(box.x, box.y) >= 0
            assert min(box.width, box.height) > 0
            assert box.x + box.width <= study.truth.scan.size
            assert box.y + box.height <= study.truth.scan.size
            if labels is None:
                continue
            index = box.file_number - study.truth.scan.first_file
            rows = slice(int(box.y), int(np.ceil(box.y + box.height)))
            columns = slice(int(box.x), int(np.ceil(box.x + box.width)))
            labels_in_box = set(np.unique(labels[index, rows, columns]))
            assert labels_in_box & {study.truth.levels[level].label for level in study.truth.fractured}
    assert boxes >= 4


def test_sampling_changes_neither_anatomy_nor_fractures() -> None:
    coarse, fine = (phantom_truth(1, 5, slices=n, size=s) for n, s in ((40, 64), (90, 128)))
    assert coarse.fractured == fine.fractured
    for name in CERVICAL:
        assert np.allclose(coarse.levels[name].centroid_mm, fine.levels[name].centroid_mm, atol=0.05)


def test_phantom_truth_equals_the_truth_of_the_written_study(written: list[Any]) -> None:
    study = written[1].truth
    truth = phantom_truth(1, 4, slices=len(study.scan.positions_mm), size=study.scan.size)
    assert (truth.uid, truth.fractured, truth.boxes) == (study.uid, study.fractured, study.boxes)
    assert np.array_equal(truth.scan.positions_mm, study.scan.positions_mm)
    assert np.array_equal(truth.levels["C4"].centroid_mm, study.levels["C4"].centroid_mm)


def test_every_eleventh_study_misses_one_end_of_the_neck() -> None:
    top, bottom = phantom_truth(10, 0, slices=40, size=48), phantom_truth(21, 0, slices=40, size=48)
    assert "C1" not in top.levels
    assert 0 < top.levels["C2"].in_view < 1
    assert "T1" not in bottom.levels
    assert bottom.levels.get("C7", bottom.levels["C6"]).in_view < 1
    assert all(bottom.levels[level].in_view == 1 for level in ("C1", "C2", "C3", "C4", "C5"))


@pytest.mark.benchmark
def test_full_study_is_written_in_seconds(tmp_path: Path) -> None:
    """CPU seconds of all threads; with two idle cores, wall time is half of that."""
    write_phantom(tmp_path / "warm", 1, 0, slices=16, size=32)
    for syntax, limit in (("explicit", 8.0), ("jpeg-lossless", 12.0)):
        start = time.process_time()
        write_phantom(tmp_path / syntax, 1, 0, slices=300, transfer_syntax=syntax)
        assert time.process_time() - start < limit
    start = time.process_time()
    write_phantom(tmp_path / "small", 4, 0, slices=70, size=128)
    assert (time.process_time() - start) / 4 < 1.0
