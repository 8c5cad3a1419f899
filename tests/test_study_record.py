"""The records of phantom studies, and the digest of their sources."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spine_etl.dicom import read_series
from spine_etl.nifti import read_label_map
from spine_etl.phantom import write_phantom
from spine_etl.pipeline import crop_study, process_study
from spine_etl.recipe import load_recipe
from spine_etl.resample import sample_labels
from spine_etl.source.layout import Study, discover_studies
from spine_etl.store.writer import StoreWriter
from spine_etl.study_record import source_digest
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
