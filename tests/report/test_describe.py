"""Facts about files whose every number is written here; headers are compared with pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom
import pytest

from spine_etl.dicom import read_header, read_series
from spine_etl.errors import NoSlices
from spine_etl.nifti import read_label_map
from spine_etl.recipe import Block, Recipe, load_recipe
from spine_etl.report.describe import (
    describe_header,
    describe_label_map,
    describe_series,
    describe_store,
    label_names,
)
from spine_etl.store.arrays import row_arrays
from spine_etl.store.record import LevelRecord, Record
from spine_etl.store.writer import StoreWriter
from tests.tiny_series import HEAD_TO_FOOT, Positions, write_series


def test_series_in_closed_form(tmp_path: Path) -> None:
    facts = describe_series(read_series(write_series(tmp_path, HEAD_TO_FOOT)))
    digest = facts.pop("source_digest")
    assert facts == {
        "slices": 4,
        "file_numbers": [7, 10],
        "shape": [4, 3, 5],
        "spacing_mm": [2.0, 0.5, 0.25],
        "field_of_view_mm": [8.0, 1.5, 1.25],
        "axis_codes_zyx": "IPL",
        "axes": {"z": "to Inferior", "y": "to Posterior", "x": "to Left"},
        "first_voxel_lps_mm": [-10.0, 20.0, 100.0],
        "last_voxel_lps_mm": [-9.0, 21.0, 94.0],
        "corners_lps_mm": [
            [left, posterior, superior]
            for superior in (101.0, 93.0)
            for posterior in (19.75, 21.25)
            for left in (-10.125, -8.875)
        ],
        "gantry_tilt_degrees": 0.0,
        "oblique_degrees": 0.0,
        "uneven": False,
        "slice_steps_mm": [2.0, 2.0],
        "hu": [70.0, 104.0],
        "voxel_type": "int16",
        "transfer_syntaxes": ["1.2.840.10008.1.2.1"],
        "slices_dropped": [],
        "decoders": {"fast": 4},
        "slice_thickness": 3.0,
        "bits_stored": [12],
        "window_center": [40.0, 450.0],
        "window_width": [350.0, 1500.0],
        "warnings": [],
    }
    assert len(digest) == 64


def test_uneven_steps_are_the_shortest_and_the_longest(tmp_path: Path) -> None:
    positions: Positions = [(0, 0, z) for z in (0, 2, 4.5, 6.6, 8.6)]
    facts = describe_series(read_series(write_series(tmp_path, positions)))
    assert facts["uneven"] is True
    assert facts["slice_steps_mm"] == [2.0, 2.5]
    assert facts["axis_codes_zyx"] == "SPL"
    assert facts["spacing_mm"][0] == 2.15  # 8.6 mm in four steps


@pytest.mark.parametrize(("tilt", "oblique"), [(15.0, 0.0), (0.0, 10.0), (15.0, 10.0)])
def test_tilt_is_against_the_normal_and_obliqueness_against_the_patient(
    tilt: float, oblique: float, tmp_path: Path
) -> None:
    """The slices are turned about the left axis by ``oblique``, their step by ``tilt`` more."""
    turned, step = np.radians(oblique), np.radians(oblique + tilt)
    positions: Positions = [(0.0, -2 * k * np.sin(step), 2 * k * np.cos(step)) for k in range(4)]
    series = write_series(tmp_path, positions, (1, 0, 0, 0, np.cos(turned), np.sin(turned)))
    facts = describe_series(read_series(series))
    assert facts["gantry_tilt_degrees"] == pytest.approx(tilt, abs=1e-4)
    assert facts["oblique_degrees"] == pytest.approx(oblique, abs=1e-4)
    assert facts["slice_steps_mm"] == [2.0, 2.0]


def test_header_is_that_of_pydicom(tmp_path: Path) -> None:
    write_series(tmp_path, HEAD_TO_FOOT)
    dataset = pydicom.dcmread(tmp_path / "7.dcm")
    facts = describe_header(read_header(tmp_path / "7.dcm"))
    assert facts.pop("TransferSyntaxUID") == dataset.file_meta.TransferSyntaxUID
    assert facts.pop("PixelPaddingRangeLimit") is None
    assert len(facts) == 19
    for keyword, value in facts.items():
        expected = dataset[keyword].value
        if isinstance(value, tuple):
            assert value == tuple(expected), keyword
        else:
            assert value == expected, keyword
    assert facts["PixelSpacing"] == (0.5, 0.25)
    assert facts["PixelRepresentation"] == 0


def test_label_map_in_closed_form(tmp_path: Path) -> None:
    """RAS voxels of 0.5 x 1 x 2 mm; label 7 has eight voxels about (2, 2.5, 2.5), label 30 has one."""
    labels = np.zeros((6, 7, 8), np.uint8)
    labels[1:3, 2:4, 2:4] = 7
    labels[2, 2, 2] = 0
    labels[3, 3, 3] = 7
    labels[5, 6, 7] = 30
    affine = np.diag([0.5, 1, 2, 1.0])
    affine[:3, 3] = (-30, 40, 50)
    nib.save(nib.Nifti1Image(labels, affine), tmp_path / "x.nii")
    facts = describe_label_map(read_label_map(tmp_path / "x.nii"))
    # Mean index of label 7: i (1 * 4 + 2 * 3 + 3) / 8, j and k (2.5 * 8 - 2 + 3) / 8.
    # LPS is (30 - i / 2, -40 - j, 50 + 2 k), to three decimals.
    assert facts["labels"] == {
        "7": {
            "name_in_rsna2022": "C7",
            "voxels": 8,
            "volume_mm3": 8.0,
            "centre_lps_mm": [29.188, -42.625, 55.25],
        },
        "30": {
            "name_in_rsna2022": None,
            "voxels": 1,
            "volume_mm3": 1.0,
            "centre_lps_mm": [27.5, -46.0, 64.0],
        },
    }
    assert facts["shape"] == [8, 7, 6]
    assert facts["spacing_mm"] == [2.0, 1.0, 0.5]
    assert facts["axis_codes_zyx"] == "SAR"
    assert facts["axes"] == {"z": "to Superior", "y": "to Anterior", "x": "to Right"}
    assert facts["first_voxel_lps_mm"] == [30.0, -40.0, 50.0]
    assert facts["last_voxel_lps_mm"] == [27.5, -46.0, 64.0]


def test_names_are_those_of_levels_and_other_labels() -> None:
    names = label_names(load_recipe("rsna2022"))
    assert [names[label] for label in (1, 2, 7, 8, 19)] == ["C1", "C2", "C7", "T1", "T12"]
    assert len(names) == 19


TINY = Recipe(
    name="tiny",
    levels={"C1": 1, "C2": 2},
    crop=Block(spacing_mm=1.0, shape=(4, 4, 4)),
    overview=Block(spacing_mm=4.0, shape=(4, 4, 4)),
)


def record(writer: StoreWriter, uid: str, overall: int | None, levels: int) -> Record:
    voxels: dict[str, npt.NDArray[Any]] = {
        name: np.full(array.row_shape, array.fill, array.dtype) for name, array in row_arrays(TINY).items()
    }
    row, objects = writer.write_row(0, voxels)
    located = LevelRecord(status="located", origin_mm=(0, 0, 0), coverage=1.0, volume_mm3=1.0)
    absent = LevelRecord(status="absent")
    return Record(
        uid=uid, fingerprint=TINY.fingerprint, source_digest="0" * 64, row=row, objects=objects,
        mask_source="given",
        levels={"C1": located if levels else absent, "C2": located if levels > 1 else absent},
        fracture={} if overall is None else {"C1": overall, "patient_overall": overall},
    )  # fmt: skip


def test_store_in_numbers(tmp_path: Path) -> None:
    """One study is fractured, one is not, one has no labels, one is refused; they have 2, 1 and no crops."""
    writer = StoreWriter(tmp_path, TINY)
    first = writer.commit([record(writer, "1.1", 1, 2)])
    refused = Record.refused("1.4", TINY.fingerprint, "0" * 64, NoSlices("1.4 contains no DICOM file."))
    records = [record(writer, "1.2", 0, 1), record(writer, "1.3", None, 0), refused]
    store = writer.commit([*records, record(writer, "1.1", 1, 2)])
    facts = describe_store(store)
    assert facts == {
        "version": 2,
        "versions": {"1": first.root_digest, "2": store.root_digest},
        "studies": 3,
        "fractured": 1,
        "crops": 3,
        "study_uids": ["1.1", "1.2", "1.3"],
        "refused": {"1.4": "[NO_SLICES] 1.4 contains no DICOM file."},
        "recipe": {
            "name": "tiny",
            "levels": {"C1": 1, "C2": 2},
            "other_labels": {},
            "crop": {"spacing_mm": 1.0, "shape": [4, 4, 4]},
            "overview": {"spacing_mm": 4.0, "shape": [4, 4, 4]},
            "folds": 5,
        },
        "fingerprint": TINY.fingerprint,
    }
    assert first.root_digest != store.root_digest
