"""Every fault of the catalogue is refused with a code, from files on disk; none is stored without a word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spine_etl.pipeline import process_study
from spine_etl.store.writer import StoreWriter
from tests.faults.faults import FAULTS, IMPLAUSIBLE, WARNED
from tests.faults.files import RECIPE, Folder, mask_of, outcome
from tests.faults.necks import case
from tests.faults.numbering import MISCOUNTED

SEEDS = range(5)


def each(names: dict[str, object]) -> list[object]:
    """Every name with every seed; seeds other than 0 are soak tests."""
    return [
        pytest.param(name, seed, marks=[pytest.mark.soak] if seed else [], id=f"{name}-{seed}")
        for seed in SEEDS
        for name in names
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("faults"))


def test_the_catalogue_is_large_enough() -> None:
    assert len(FAULTS) >= 40


@pytest.mark.parametrize(("name", "seed"), each(FAULTS))
def test_fault_is_refused_by_its_code(folder: Folder, name: str, seed: int) -> None:
    fault, codes = FAULTS[name]
    one = case(seed, seed)
    code, _, text = outcome(folder.study(one, fault(one, np.random.default_rng([seed, 5]))))
    assert code in codes, text


@pytest.mark.parametrize(("name", "seed"), each(WARNED))
def test_what_a_real_neck_could_explain_is_at_least_a_warning(folder: Folder, name: str, seed: int) -> None:
    fault, codes = WARNED[name]
    one = case(seed, seed)
    code, warnings, text = outcome(folder.study(one, fault(one, np.random.default_rng([seed, 5]))))
    assert codes & {code, *warnings}, text


@pytest.mark.parametrize(("name", "seed"), each(MISCOUNTED))
def test_wrong_numbers_without_a_gap_are_at_least_a_warning(folder: Folder, name: str, seed: int) -> None:
    fault, codes = MISCOUNTED[name]
    part, mask = fault(case(seed, seed), np.random.default_rng([seed, 5]))
    code, warnings, text = outcome(folder.study(part, mask))
    assert codes & {code, *warnings}, text


@pytest.mark.parametrize(
    "seed", [seed if seed == 0 else pytest.param(seed, marks=pytest.mark.soak) for seed in SEEDS]
)
def test_the_masks_that_the_faults_change_have_no_warning(folder: Folder, seed: int) -> None:
    one = case(seed, seed)
    assert outcome(folder.study(one, mask_of(one)))[:2] == ("", ())


def test_a_mirror_image_cannot_be_told_from_the_right_one(folder: Folder) -> None:
    """Documented: a neck is symmetrical, so this fault passes if the mirror is the neck's middle."""
    one = case(0, 0)
    columns = np.flatnonzero(one.labels.any(axis=(0, 1)))
    labels = np.zeros_like(one.labels)
    labels[:, :, columns[0] : columns[-1] + 1] = one.labels[:, :, columns[-1] : columns[0] - 1 : -1]
    assert outcome(folder.study(one, mask_of(one, labels)))[0] == ""


def test_the_store_records_what_was_seen(folder: Folder, tmp_path: Path) -> None:
    one = case(0, 0)
    study = folder.study(
        one, FAULTS["shifted by 15 mm to the front or back"][0](one, np.random.default_rng(0))
    )
    record = process_study(study, StoreWriter(tmp_path, RECIPE))
    assert record.refusal is not None
    assert record.refusal.code == IMPLAUSIBLE
    assert "15 mm away from the bone" in record.refusal.reason
