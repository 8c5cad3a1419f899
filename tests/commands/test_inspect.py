"""``inspect``: the facts it prints about files, series, label maps and stores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - the name used in its documentation

from spine_etl.recipe import load_recipe
from tests.commands.conftest import run, study_uids


def test_series_geometry_matches_its_headers(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for uid in study_uids(source):
        folder = source / "train_images" / uid
        assert run("inspect", folder, "--json") == 0
        facts = json.loads(capsys.readouterr().out)
        first = pydicom.dcmread(folder / f"{facts['file_numbers'][0]}.dcm")
        other = pydicom.dcmread(folder / f"{facts['file_numbers'][1]}.dcm")
        assert facts["first_voxel_lps_mm"] == pytest.approx(list(first.ImagePositionPatient), abs=1e-3)
        assert facts["shape"] == [24, 64, 64]
        head_to_foot = first.ImagePositionPatient[2] > other.ImagePositionPatient[2]
        assert facts["axes"]["z"] == ("to Inferior" if head_to_foot else "to Superior")
        assert facts["spacing_mm"][1:] == pytest.approx(list(first.PixelSpacing), abs=1e-4)
        assert facts["transfer_syntaxes"] == [first.file_meta.TransferSyntaxUID]


def test_archive_gives_the_same_facts_as_its_folder(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = source / "train_images" / study_uids(source)[0]
    archive = shutil.make_archive(str(tmp_path / "series"), "zip", folder)
    assert run("inspect", archive, "--json") == run("inspect", folder, "--json") == 0
    archived, plain = map(json.loads, capsys.readouterr().out.splitlines())
    assert {**archived, "source_digest": None} == {**plain, "source_digest": None}


def test_no_patient_data_is_printed(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = pydicom.dcmread(next((source / "train_images" / study_uids(source)[0]).iterdir()))
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "Doe^Jane", "ID4711", "19700102"
    dataset.StudyDate, dataset.SeriesDescription = "20210304", "Neck of Jane"
    dataset.save_as(tmp_path / "1.dcm")
    assert run("inspect", tmp_path / "1.dcm") == 0
    assert run("inspect", tmp_path) == 0
    printed = capsys.readouterr().out
    assert "RescaleIntercept" in printed
    for secret in ("Doe", "Jane", "4711", "1970", "20210304"):
        assert secret not in printed


def test_label_sizes_and_centroids_equal_simpleitk(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next((source / "segmentations").iterdir())
    assert run("inspect", path, "--json") == 0
    labels = json.loads(capsys.readouterr().out)["labels"]
    image = sitk.ReadImage(path)
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(sitk.Cast(image, sitk.sitkUInt8))
    assert [int(label) for label in labels] == list(statistics.GetLabels())
    for label, facts in labels.items():
        assert facts["voxels"] == statistics.GetNumberOfPixels(int(label))
        assert facts["volume_mm3"] == pytest.approx(statistics.GetPhysicalSize(int(label)), abs=0.06)
        assert facts["centre_lps_mm"] == pytest.approx(statistics.GetCentroid(int(label)), abs=2e-3)
    names = {label: facts["name_in_rsna2022"] for label, facts in labels.items()}
    assert names["1"] == "C1"
    assert names["7"] == "C7"
    assert names["9"] == "T2"


def test_store_facts(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", store, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["version"], facts["studies"], facts["refused"]) == (1, 2, {})
    assert facts["fingerprint"] == load_recipe("quick").fingerprint
    assert run("inspect", store) == 0
    assert facts["fingerprint"] in capsys.readouterr().out
    assert run("check", store, "--json") == 0
    assert json.loads(capsys.readouterr().out)["root_digest"] == facts["versions"]["1"]


def test_path_that_does_not_exist_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Copying the file again, the remedy for a file that is not DICOM, would be wrong advice."""
    path = tmp_path / "absent.dcm"
    assert run("inspect", path) == 1
    printed = capsys.readouterr().err
    assert printed == f"error: [SOURCE_NOT_FOUND] there is no file or folder {path}. Check the path.\n"
    path.write_bytes(b"not DICOM")
    assert run("inspect", path) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: [DICOM_UNREADABLE] absent.dcm")
    assert "Copy the file again" in printed


def test_text_has_a_line_per_fact_and_indented_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.zeros((2, 3, 4), np.uint8)
    labels[1, 2, 3], labels[0, 0, 0] = 1, 40
    nib.save(nib.Nifti1Image(labels, np.diag([1, 2, 4, 1.0])), tmp_path / "x.nii")
    assert run("inspect", tmp_path / "x.nii") == 0
    *lines, digest = capsys.readouterr().out.splitlines()
    assert lines == [
        "shape               4 3 2",
        "spacing_mm          4.0 2.0 1.0",
        "field_of_view_mm    16.0 6.0 2.0",
        "axis_codes_zyx      SAR",
        "axes                z to Superior, y to Anterior, x to Right",
        "first_voxel_lps_mm  0.0 0.0 0.0",
        "last_voxel_lps_mm   -1.0 -4.0 12.0",
        "corners_lps_mm      0.5 1.0 -2.0",
        "                    -1.5 1.0 -2.0",
        "                    0.5 -5.0 -2.0",
        "                    -1.5 -5.0 -2.0",
        "                    0.5 1.0 14.0",
        "                    -1.5 1.0 14.0",
        "                    0.5 -5.0 14.0",
        "                    -1.5 -5.0 14.0",
        "labels",
        "  1   name_in_rsna2022 C1, voxels 1, volume_mm3 8.0, centre_lps_mm -1.0 -4.0 12.0",
        "  40  name_in_rsna2022 -, voxels 1, volume_mm3 8.0, centre_lps_mm 0.0 0.0 0.0",
    ]
    assert digest.startswith("source_digest       ")


@pytest.mark.real_data
def test_gantry_tilt_is_measured(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", real_data / "ct_head_gantry_tilt", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["gantry_tilt_degrees"] == pytest.approx(18.5, abs=0.01)
    assert facts["slice_steps_mm"] == pytest.approx([1.14, 7.38], abs=0.01)
