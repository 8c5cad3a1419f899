"""Stray voxels in a segmentation, from the NIfTI file to the stored arrays and the record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from spine_etl.phantom import write_phantom
from spine_etl.pipeline import StudyCrops, crop_study
from spine_etl.recipe import Recipe, load_recipe
from spine_etl.source.files import as_file
from spine_etl.source.layout import Study, discover_studies
from spine_etl.store.record import Record

QUICK = load_recipe("quick")
Labels = npt.NDArray[np.uint16]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("phantom")
    write_phantom(source, 1, 4, size=128, slices=120, masked_share=1)
    return source


@pytest.fixture(scope="module")
def study(source: Path) -> Study:
    return discover_studies(source, list(QUICK.levels))[0]


@pytest.fixture(scope="module")
def clean(study: Study) -> StudyCrops:
    return crop_study(study, QUICK)


@pytest.fixture
def relabelled(source: Path, study: Study, tmp_path: Path) -> Callable[[Callable[[Labels], None]], Study]:
    """The study with a segmentation whose array (i, j, k) a function has changed."""

    def make(change: Callable[[Labels], None]) -> Study:
        image = nibabel.load(source / "segmentations" / f"{study.uid}.nii")
        labels = np.asarray(image.dataobj).copy()
        change(labels)
        nibabel.save(nibabel.Nifti1Image(labels, image.affine, image.header), tmp_path / "changed.nii")
        return replace(study, mask=as_file(tmp_path / "changed.nii"))

    return make


Relabel = Callable[[Callable[[Labels], None]], Study]


def codes(record: Record) -> list[str]:
    return [warning.code for warning in record.warnings]


def test_islands_change_nothing_that_is_stored(clean: StudyCrops, relabelled: Relabel) -> None:
    """Of C2, C5 and T1 there are voxels in three corners of the volume."""

    def add(labels: Labels) -> None:
        labels[0, 0, 115:] = 2
        labels[-1, 0, 117:] = 5
        labels[0, -1, :2] = 8

    crops = crop_study(relabelled(add), QUICK)
    for name, voxels in clean.voxels.items():
        np.testing.assert_array_equal(crops.voxels[name], voxels, err_msg=name)
    for level, record in clean.record.levels.items():
        islands = {"C2": 5, "C5": 3}.get(level, 0)
        assert crops.record.levels[level].island_voxels == islands
        assert record.label_share == 1
        same = {"island_voxels": 0, "island_distance_mm": 0.0}
        assert crops.record.levels[level].model_copy(update=same) == record
    # C2 is the voxels 46 to 77, 55 to 85 and 82 to 107 of 1.640625, 1.640625 and 1.737 mm.
    distance_mm = np.linalg.norm([45 * 1.640625, 54 * 1.640625, 7 * 1.737])
    assert crops.record.levels["C2"].island_distance_mm == pytest.approx(distance_mm, rel=1e-4)
    assert crops.record.slice_runs == clean.record.slice_runs
    assert codes(crops.record) == [*codes(clean.record), "LABEL_ISLANDS"]
    text = crops.record.warnings[-1].text
    assert "C2 5 voxels" in text
    assert "C5 3 voxels" in text
    assert "T1 2 voxels" in text


def test_ambiguous_level_has_no_crop(clean: StudyCrops, relabelled: Relabel) -> None:
    """Half of C4 is at the top of the volume."""

    def move(labels: Labels) -> None:
        upper = labels[:, :, 66:72].copy()
        labels[:, :, 66:72][upper == 4] = 0
        labels[:, :, 110:116][upper == 4] = 4

    study = relabelled(move)
    crops = crop_study(study, QUICK)
    assert crops.record.levels["C4"].status == "ambiguous"
    assert crops.record.levels["C4"].slices is None
    assert crops.record.levels["C4"].label_share == 0
    assert "C4" not in crops.grids
    assert (crops.voxels["image"][3] == -1024).all()
    assert not crops.voxels["mask"][3].any()
    np.testing.assert_array_equal(
        crops.voxels["image"][[0, 1, 2, 4, 5, 6]], clean.voxels["image"][[0, 1, 2, 4, 5, 6]]
    )
    assert "VERTEBRA_AMBIGUOUS" in codes(crops.record)


def test_fragment_is_in_mask_volume_share_and_slices(clean: StudyCrops, relabelled: Relabel) -> None:
    """A piece behind the spinous process of C7, two slices below it."""

    def add(labels: Labels) -> None:
        labels[60:64, 39:42, 22:26] = 7

    crops = crop_study(relabelled(add), QUICK)
    before, after = clean.record.levels["C7"], crops.record.levels["C7"]
    added_mm3 = 48 * 1.640625**2 * 1.737
    assert after.volume_mm3 == pytest.approx(before.volume_mm3 + added_mm3, rel=1e-4)
    assert (after.label_share, after.island_voxels, after.slices) == (1, 0, before.slices)
    assert after.origin_mm == before.origin_mm
    gained = np.count_nonzero(crops.voxels["mask"][6] == 7) - np.count_nonzero(clean.voxels["mask"][6] == 7)
    assert gained == pytest.approx(added_mm3, rel=0.2)  # voxels of 1 mm3
    slices = [
        sum(last - first + 1 for first, last in record.slice_runs["C7"])
        for record in (crops.record, clean.record)
    ]
    assert slices[0] == slices[1] + 4


def test_vertebra_higher_than_its_crop_is_warned_of(study: Study) -> None:
    recipe = Recipe.model_validate({**QUICK.model_dump(), "crop": {"spacing_mm": 1.0, "shape": [30, 80, 96]}})
    crops = crop_study(study, recipe)
    warned = [warning.text for warning in crops.record.warnings if warning.code == "LABEL_SHARE_LOW"]
    low = {level: r.label_share for level, r in crops.record.levels.items() if r.label_share < 0.99}
    assert warned == [
        f"Only {100 * low[level]:.1f} % of the voxels of {level} are in its crop." for level in low
    ]
    # C2 has 26 slices of 1.737 mm, 17 or 18 of them in 30 mm; C4 has 13.
    assert 0.5 < low["C2"] < 0.9
    assert "C4" not in low
