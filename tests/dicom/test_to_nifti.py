"""A series written by pydicom, read, written as NIfTI and read by nibabel: the same HU in the same places."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from spine_etl.dicom import read_series
from spine_etl.nifti import write_volume

from .conftest import SeriesWriter

Numbers = tuple[float, float, float]


def check(
    folder: Path, slices: int, angles: Numbers, origin: Numbers, spacing: Numbers, tilt: float, up: int
) -> None:
    """A slice is at its origin plus k steps; a pixel as in PS3.3 C.7.6.2.1.1. RAS is (-L, -P, S)."""
    between_slices, between_rows, between_columns = spacing
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    along_row, along_column = rotation[:, 0], rotation[:, 1]
    step = up * between_slices * rotation[:, 2] + tilt * along_column
    writer = SeriesWriter(folder)
    for k in range(slices):
        writer.add(
            f"{k + 1}.dcm",
            writer.stored(k),
            ImagePositionPatient=[f"{v:.9f}" for v in np.array(origin) + k * step],
            ImageOrientationPatient=[f"{v:.12f}" for v in (*along_row, *along_column)],
            PixelSpacing=[f"{between_rows:.9f}", f"{between_columns:.9f}"],
        )
    volume = read_series(folder)
    assert volume.slice_coordinates is None
    write_volume(folder / "ct.nii", volume)
    image = nibabel.load(folder / "ct.nii")
    values = np.asarray(image.dataobj)
    to_ras = np.diag([-1.0, -1.0, 1.0])
    for k in range(slices):
        np.testing.assert_array_equal(values[:, :, k].T, writer.stored(k).astype(int) - 1024)
        for row, column in ((0, 0), (15, 0), (0, 11), (7, 3)):
            lps = np.array(origin) + k * step
            lps += column * between_columns * along_row + row * between_rows * along_column
            ras = nibabel.affines.apply_affine(image.affine, (column, row, k))
            np.testing.assert_allclose(ras, to_ras @ lps, atol=2e-4)  # a NIfTI affine is float32
    assert image.header.get_xyzt_units()[0] == "mm"
    if tilt == 0:
        # A qform stores three of the quaternion's four parts as float32: near half a turn the fourth is the
        # root of their rounding error, up to 3.5e-4, and turns the axes by twice that.
        np.testing.assert_allclose(image.get_qform(), image.affine, atol=7e-4 * max(spacing))
    else:
        assert image.get_qform(coded=True)[0] is None


RANGES = {
    "slices": st.integers(2, 5),
    "angles": st.tuples(*[st.floats(-180, 180)] * 3),
    "origin": st.tuples(*[st.floats(-300, 300)] * 3),
    "spacing": st.tuples(st.floats(0.3, 5), st.floats(0.2, 2), st.floats(0.2, 2)),
    "tilt": st.sampled_from([0.0, 0.0, 0.4, -0.7]),
    "up": st.sampled_from([1, -1]),
}


@settings(max_examples=20, deadline=None)
@given(**RANGES)
def test_dicom_to_nifti(
    slices: int, angles: Numbers, origin: Numbers, spacing: Numbers, tilt: float, up: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), slices, angles, origin, spacing, tilt, up)


@pytest.mark.soak
@settings(max_examples=1000, deadline=None)
@given(**RANGES)
def test_dicom_to_nifti_at_length(
    slices: int, angles: Numbers, origin: Numbers, spacing: Numbers, tilt: float, up: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), slices, angles, origin, spacing, tilt, up)
