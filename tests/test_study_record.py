"""The records of phantom studies, and the digest of their sources."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spine_etl.dicom import read_series
from spine_etl.errors import StudyWarning
from spine_etl.geometry import Grid
from spine_etl.localization import Localization
from spine_etl.nifti import read_label_map
from spine_etl.phantom import write_phantom
from spine_etl.pipeline import crop_study, process_study
from spine_etl.recipe import load_recipe
from spine_etl.resample import sample_labels
from spine_etl.segmentation import find_vertebrae
from spine_etl.source.layout import Study, discover_studies
from spine_etl.store.writer import StoreWriter
from spine_etl.study_record import source_digest, study_record
from spine_etl.volume import FractureBox, LabelMap
from tests.labelled_ct import RECIPE, ct, two_levels
from tests.true_localizer import TrueLocalizer

QUICK = load_recipe("quick")


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[Study]:
    source = tmp_path_factory.mktemp("phantom")
    write_phantom(source, 8, 5, size=96, slices=80)
    return discover_studies(source, list(QUICK.levels))


@pytest.fixture(scope="module")
def masked(studies: list[Study]) -> list[Study]:
    return [study for study in studies if study.mask][:3]


def test_source_digest_equals_that_of_the_record(studies: list[Study], tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, QUICK)
    for study in studies[:3]:
        assert process_study(study, writer).source_digest == source_digest(study)


def test_source_digest_changes_with_the_tables(studies: list[Study]) -> None:
    study = studies[0]
    assert study.labels is not None
    other = {**study.labels, "C4": 1 - study.labels["C4"]}
    assert source_digest(replace(study, labels=other)) != source_digest(study)


def test_source_digest_changes_with_the_localizer_only_without_a_mask(masked: list[Study]) -> None:
    study = masked[0]
    assert study.mask is not None
    localizer = TrueLocalizer(read_label_map(study.mask), read_series(study.folder).grid, QUICK, {})
    without_mask = replace(study, mask=None)
    assert source_digest(study, localizer=localizer) == source_digest(study)
    first, none = source_digest(without_mask, localizer=localizer), source_digest(without_mask)
    localizer.digest = "second"
    second = source_digest(without_mask, localizer=localizer)
    assert len({first, none, second}) == 3
    assert crop_study(without_mask, QUICK, localizer=localizer).record.source_digest == second


def test_slices_of_each_level_match_the_mask(masked: list[Study]) -> None:
    """The mask is on the CT's own grid, so its planes show which file's slice contains which level."""
    assert len(masked) == 3
    for study in masked:
        assert study.mask is not None
        volume = read_series(study.folder)
        labels = sample_labels(read_label_map(study.mask), volume.grid)
        assert volume.file_numbers is not None
        levels = crop_study(study, QUICK).record.levels
        for level, label in QUICK.levels.items():
            planes = np.flatnonzero((labels == label).any(axis=(1, 2)))
            if not len(planes):
                assert levels[level].slices is None
                continue
            heights = [volume.grid.to_mm((z, 0, 0))[2] for z in (planes[0], planes[-1])]
            ends = planes[[0, -1]] if heights[0] < heights[1] else planes[[-1, 0]]
            assert levels[level].slices == tuple(volume.file_numbers[ends].tolist())


@pytest.mark.parametrize(
    ("confidence", "cropped", "expected"),
    [
        (1.0, True, ("located", 1.0)),
        (0.5, True, ("located", 0.5)),
        (0.5, False, ("absent", 0.0)),  # found with confidence, but outside the CT or the overview
        (0.4999, False, ("unlocated", 0.4999)),
        (0.0001, False, ("unlocated", 0.0001)),
        (0.0, False, ("absent", 0.0)),
    ],
)
def test_status_of_a_level_follows_from_the_localizers_confidence(
    confidence: float, cropped: bool, expected: tuple[str, float]
) -> None:
    localization = Localization(two_levels().labels, {"C1": confidence, "C2": 0.0, "C3": 0.0})
    vertebrae = find_vertebrae(two_levels(), RECIPE)
    crops = {"C1": Grid.canonical((-0.2, -14, 27.6), (8, 10, 12), 0.5)} if cropped else {}
    overview = Grid.canonical((0, 0, 0), (16, 20, 24), 4.0)
    study = Study("1.2.3", Path("none"))
    record = study_record(study, RECIPE, ct(), vertebrae, localization, crops, overview)
    level = record.levels["C1"]
    assert (level.status, level.confidence) == expected
    assert record.mask_source == "predicted"
    if cropped:
        # C1 is 3 x 5 x 10 voxels of 0.8 x 0.5 x 0.4 mm in the files 9 to 13, which run from head to foot.
        assert level.slices == (13, 9)
        assert level.volume_mm3 == pytest.approx(150 * 0.16)
        assert level.origin_mm == pytest.approx((-0.2 - 5.5 * 0.5, -14 - 4.5 * 0.5, 27.6 - 3.5 * 0.5))
        assert level.coverage == 1


def test_study_without_a_mask_has_no_located_level() -> None:
    overview = Grid.canonical((0, 0, 0), (16, 20, 24), 4.0)
    boxes = (FractureBox(20, 10, 9, 4, 11), FractureBox(20, 10, 9, 4, 12))
    study = Study("1.2.3", Path("none"), labels={"C1": 1, "patient_overall": 1}, boxes=boxes)
    record = study_record(study, RECIPE, ct(), None, None, {}, overview)
    assert record.mask_source == "none"
    assert {(level.status, level.confidence) for level in record.levels.values()} == {("unlocated", 0.0)}
    assert [(box.level, box.in_crops) for box in record.boxes] == [(None, {}), (None, {})]
    assert record.warnings == (
        StudyWarning("BOX_WITHOUT_SLICE", "1 of 2 fracture boxes name no slice of the series."),
    )
    assert record.fracture == {"C1": 1, "patient_overall": 1}
    assert record.overview_origin_mm == (-11.5 * 4, -9.5 * 4, -7.5 * 4)


@pytest.mark.parametrize(
    ("labels", "slice_numbers", "unmarked"),
    [
        # C1 is in the files 9 to 13, C3 in 21 and 23.
        ({"C1": 1, "C2": 0, "C3": 0}, [9, 11, 13], 0),
        ({"C1": 1, "C2": 0, "C3": 0}, [7, 9, 13, 15, 21], 3),
        ({"C1": 1, "C2": 0, "C3": 1}, [7, 9, 13, 15, 21], 2),
        ({"C1": 0, "C2": 1, "C3": 0}, [9, 21], 2),  # the mask does not show C2
        ({"C1": 0, "C2": 0, "C3": 0}, [9, 21], 2),
        ({"C1": 0, "C2": 0, "C3": -1}, [9, 21], 1),  # C3 may be fractured
        ({"C1": 0, "C2": 0}, [9, 21], 1),
        ({"C1": 1, "C2": 0, "C3": 0}, [9, 10], 0),  # there is no file 10
        (None, [7, 15], 0),
    ],
)
def test_boxes_in_slices_without_a_fractured_level_are_warned_of(
    labels: dict[str, int] | None, slice_numbers: list[int], unmarked: int
) -> None:
    overview = Grid.canonical((0, 0, 0), (16, 20, 24), 4.0)
    boxes = tuple(FractureBox(20, 10, 9, 4, number) for number in slice_numbers)
    study = Study("1.2.3", Path("none"), labels=labels, boxes=boxes)
    vertebrae = find_vertebrae(two_levels(), RECIPE)
    record = study_record(study, RECIPE, ct(), vertebrae, None, {}, overview)
    texts = [warning.text for warning in record.warnings if warning.code == "BOX_WITHOUT_FRACTURE"]
    expected = f"{unmarked} of {len(boxes)} fracture boxes are in slices that show no fractured level."
    assert texts == [expected] * (unmarked > 0)


def test_boxes_are_not_compared_with_predicted_masks() -> None:
    overview = Grid.canonical((0, 0, 0), (16, 20, 24), 4.0)
    box = FractureBox(20, 10, 9, 4, 21)
    study = Study("1.2.3", Path("none"), labels={"C1": 1, "C2": 0, "C3": 0}, boxes=(box,))
    localization = Localization(two_levels().labels, {"C1": 1.0, "C2": 0.0, "C3": 0.0})
    record = study_record(
        study, RECIPE, ct(), find_vertebrae(two_levels(), RECIPE), localization, {}, overview
    )
    assert record.warnings == ()


@pytest.mark.parametrize(("outside", "warned"), [(1, False), (2, True)])
def test_label_share_below_99_percent_is_warned_of(outside: int, warned: bool) -> None:
    """A level of 100 voxels in a row, from L = 0; the crop ends before the last ones."""
    labels = np.ones((1, 1, 100), np.uint8)
    mask = LabelMap(labels, Grid(labels.shape, np.eye(4)[[2, 1, 0, 3]]))
    crop = Grid.from_origin((0, 0, 0), (1, 1, 100 - outside), 1.0)
    overview = Grid.canonical((0, 0, 0), (16, 20, 24), 4.0)
    study = Study("1.2.3", Path("none"))
    record = study_record(study, RECIPE, ct(), find_vertebrae(mask, RECIPE), None, {"C1": crop}, overview)
    assert record.levels["C1"].label_share == pytest.approx(1 - outside / 100)
    expected = StudyWarning("LABEL_SHARE_LOW", "Only 98.0 % of the voxels of C1 are in its crop.")
    assert record.warnings == (expected,) * warned
