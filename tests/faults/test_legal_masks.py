"""No legal mask is refused: pathological necks, narrow fields, poor scans, and every form of file."""

from __future__ import annotations

import pytest

from tests.faults.files import Folder, mask_of, outcome
from tests.faults.legal import FINE, MASKS, NECKS, SCANS, axis_orders, scan

SEEDS = range(3)
DRAWN_ON = ("healthy", "osteoporosis", "only C3")
AXIS_ORDERS = dict(axis_orders())


def soak(condition: object) -> list[pytest.MarkDecorator]:
    return [pytest.mark.soak] if condition else []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("legal"))


def test_the_catalogue_is_large_enough() -> None:
    assert len(NECKS) + len(SCANS) + len(MASKS) * len(DRAWN_ON) + len(AXIS_ORDERS) >= 80


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        pytest.param(name, seed, marks=soak(seed), id=f"{name}-{seed}")
        for seed in SEEDS
        for name in (*NECKS, *SCANS)
    ],
)
def test_neck_passes(folder: Folder, name: str, seed: int) -> None:
    one = scan(name, seed, seed)
    code, _, reason = outcome(folder.study(one, mask_of(one)))
    assert code == "", reason


@pytest.mark.parametrize(
    ("name", "neck", "seed"),
    [
        pytest.param(name, neck, seed, marks=soak(seed), id=f"{name}-{neck}-{seed}")
        for seed in SEEDS
        for name in MASKS
        for neck in DRAWN_ON
    ],
)
def test_form_of_mask_passes(folder: Folder, name: str, neck: str, seed: int) -> None:
    one = scan(neck, seed, seed, fine=name in FINE)
    code, _, reason = outcome(folder.study(one, MASKS[name](one)))
    assert code == "", reason


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=soak(k % 5)) for k, name in enumerate(AXIS_ORDERS)]
)
def test_axis_order_passes(folder: Folder, name: str) -> None:
    one = scan("healthy", 0, 0)
    assert outcome(folder.study(one, AXIS_ORDERS[name](one)))[:2] == ("", ())


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("C3 and C4 fused", "LEVELS_FUSED"),
        ("C4 without a label", "LEVEL_MISSING"),
        ("six cervical levels", "LEVEL_MISSING"),
        ("numbered from C2", "NUMBERING_UNUSUAL"),
        ("numbered one too high", "NUMBERING_UNUSUAL"),
        ("metal in C4 to C6", "METAL"),
        ("very low dose and osteoporosis", "BONE_FAINT"),
        ("only C3", "LEVEL_MISSING"),
    ],
)
def test_pathology_is_a_warning(folder: Folder, name: str, code: str) -> None:
    one = scan(name, 0, 0)
    assert code in outcome(folder.study(one, mask_of(one)))[1]


@pytest.mark.parametrize("name", ["healthy", "scoliosis of 30 degrees", "flexion", "lysis of C3, C5 and C6"])
def test_usual_neck_has_no_warning(folder: Folder, name: str) -> None:
    one = scan(name, 0, 0)
    assert outcome(folder.study(one, mask_of(one)))[:2] == ("", ())
