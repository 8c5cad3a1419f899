"""``read``: the NIfTI files it writes, compared with SimpleITK's reading of the same series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813 - the name used in its documentation

from tests.commands.conftest import run, study_uids


def test_written_volume_equals_simpleitk(source: Path, tmp_path: Path) -> None:
    for uid in study_uids(source):
        folder = source / "train_images" / uid
        assert run("read", folder, "--out", tmp_path / "x.nii.gz") == 0
        headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in folder.iterdir()]
        headers.sort(key=lambda header: header.ImagePositionPatient[2])
        theirs = sitk.DICOMOrient(sitk.ReadImage([str(header.filename) for header in headers]), "LPS")
        ours = sitk.DICOMOrient(sitk.ReadImage(tmp_path / "x.nii.gz"), "LPS")
        expected = np.maximum(sitk.GetArrayFromImage(theirs), -1024)  # air outside the field of view
        np.testing.assert_array_equal(sitk.GetArrayFromImage(ours), expected)
        for corner in ((0, 0, 0), tuple(n - 1 for n in theirs.GetSize())):
            np.testing.assert_allclose(
                ours.TransformIndexToPhysicalPoint(corner),
                theirs.TransformIndexToPhysicalPoint(corner),
                atol=0.01,
            )


def test_isotropic_grid_covers_the_volume(source: Path, tmp_path: Path) -> None:
    folder = source / "train_images" / study_uids(source)[0]
    assert run("read", folder, "--out", tmp_path / "x.nii", "--isotropic", 4) == 0
    image = sitk.ReadImage(tmp_path / "x.nii")
    np.testing.assert_allclose(image.GetSpacing(), 4)
    assert run("read", folder, "--out", tmp_path / "full.nii") == 0
    full = sitk.ReadImage(tmp_path / "full.nii")
    extent = np.multiply(full.GetSize(), full.GetSpacing())
    assert (np.multiply(image.GetSize(), 4) >= extent - 1e-3).all()
    assert (np.multiply(image.GetSize(), 4) < extent + 4).all()
