from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation

from spine_etl.errors import GeometryInvalid, LabelUnknown, MaskUnreadable, SourceNotFound, SpineError
from spine_etl.geometry import Grid
from spine_etl.nifti import read_label_map, write_volume
from spine_etl.source.digest import file_digest
from spine_etl.volume import Volume

RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, 256, (4, 5, 6), dtype=np.uint8)  # (i, j, k)
AFFINE = np.array([[-0.4, 0, 0, 10.0], [0, 0.5, 0.1, -20.0], [0, -0.1, 0.8, 30.0], [0, 0, 0, 1]])


def saved(path: Path, array: Any = LABELS, affine: Any = AFFINE, **header: Any) -> Path:
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


def patched(path: Path, offset: int, data: bytes) -> Path:
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)
    return path


def assert_labels(path: Path, expected: Any = LABELS) -> None:
    label_map = read_label_map(path)
    assert label_map.labels.dtype == np.uint8
    assert label_map.labels.flags.c_contiguous
    np.testing.assert_array_equal(label_map.labels, expected.T)
    assert label_map.source_digest == file_digest(path)


@pytest.mark.parametrize("name", ["mask.nii", "mask.nii.gz"])
def test_labels_and_where_they_lie(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / name)
    assert_labels(path)
    label_map = read_label_map(path)
    for index in [(0, 0, 0), (3, 4, 5), (1, 0, 2)]:
        expected = np.diag([-1, -1, 1, 1]) @ AFFINE @ [*index, 1]
        np.testing.assert_allclose(label_map.grid.to_mm(index[::-1]), expected[:3], atol=1e-5)
        assert label_map.labels[index[::-1]] == LABELS[index]


def test_geometry_equals_another_readers(tmp_path: Path) -> None:
    turned = AFFINE.copy()
    turned[:3, :3] = [[0.0, -0.4, 0.0], [0.0, 0.0, -0.5], [0.8, 0.0, 0.0]]  # ITK refuses shears
    path = saved(tmp_path / "mask.nii", affine=turned)
    image, grid = SimpleITK.ReadImage(str(path)), read_label_map(path).grid
    for index in [(0, 0, 0), (3, 4, 5), (1, 0, 2)]:
        np.testing.assert_allclose(
            grid.to_mm(index[::-1]), image.TransformIndexToPhysicalPoint(index), atol=1e-4
        )


@pytest.mark.parametrize("dtype", ["i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", ">i2", ">f4"])
def test_integers_of_any_real_type_are_read(tmp_path: Path, dtype: str) -> None:
    array = (LABELS % 120).astype(dtype)
    image = nib.Nifti1Image(array, AFFINE, nib.Nifti1Header(endianness=">" if ">" in dtype else "<"))
    image.set_data_dtype(array.dtype)
    nib.save(image, tmp_path / "mask.nii")
    assert_labels(tmp_path / "mask.nii", LABELS % 120)


def test_nifti_2(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(LABELS, AFFINE), tmp_path / "mask.nii")
    assert_labels(tmp_path / "mask.nii")


def test_trailing_axes_of_one_are_dropped(tmp_path: Path) -> None:
    assert_labels(saved(tmp_path / "mask.nii", LABELS[..., None, None]))


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6, 2)])
def test_other_numbers_of_axes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(MaskUnreadable, match="three axes"):
        read_label_map(saved(tmp_path / "mask.nii", np.zeros(shape, np.uint8)))


@pytest.mark.parametrize(("slope", "intercept"), [(np.nan, np.nan), (1, 0), (0, 0), (0, 7)])
def test_no_scaling_is_no_scaling(tmp_path: Path, slope: float, intercept: float) -> None:
    assert_labels(patched(saved(tmp_path / "mask.nii"), 112, np.array([slope, intercept], "<f4").tobytes()))


def test_scaling_to_whole_numbers(tmp_path: Path) -> None:
    path = saved(tmp_path / "mask.nii", (LABELS % 20).astype(np.int16))
    patched(path, 112, np.array([0.1, 3], "<f4").tobytes())
    with pytest.raises(MaskUnreadable, match="not an integer label"):
        read_label_map(path)
    path = saved(tmp_path / "mask.nii", (LABELS % 20).astype(np.int16) * 10)
    assert_labels(patched(path, 112, np.array([0.1, 3], "<f4").tobytes()), LABELS % 20 + 3)


@pytest.mark.parametrize(
    ("value", "dtype", "refusal", "named"),
    [
        (256, np.uint16, LabelUnknown, "256"),
        (-1, np.int16, LabelUnknown, "-1"),
        (1e30, np.float64, LabelUnknown, "1e[+]30"),
        (2.5, np.float32, MaskUnreadable, "2.5"),
        (1e-5, np.float32, MaskUnreadable, "1e-05"),
        (np.nan, np.float32, MaskUnreadable, "finite"),
        (np.inf, np.float64, MaskUnreadable, "finite"),
        (1j, np.complex64, MaskUnreadable, "complex64"),
    ],
)
def test_what_is_no_label_is_refused(
    tmp_path: Path, value: complex, dtype: Any, refusal: type[SpineError], named: str
) -> None:
    array = np.zeros((3, 3, 3), dtype)
    array[1, 2, 1] = value
    with pytest.raises(refusal, match=named):
        read_label_map(saved(tmp_path / "mask.nii", array))


def set_codes(path: Path, qform: int, sform: int) -> Path:
    return patched(path, 252, np.array([qform, sform], "<i2").tobytes())


def test_the_qform_is_taken_where_there_is_no_sform(tmp_path: Path) -> None:
    rigid = nib.affines.from_matvec(np.diag([-0.4, 0.5, 0.8]), [1, 2, 3])
    image = nib.Nifti1Image(LABELS, None)
    image.set_qform(rigid, 1)
    image.set_sform(np.diag([9, 9, 9, 1]), 0)
    nib.save(image, tmp_path / "mask.nii")
    grid = read_label_map(tmp_path / "mask.nii").grid
    np.testing.assert_allclose(grid.to_mm((2, 1, 1)), (0.4 - 1, -0.5 - 2, 1.6 + 3), atol=1e-6)


def test_no_geometry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MaskUnreadable, match="both 0"):
        read_label_map(set_codes(saved(tmp_path / "mask.nii"), 0, 0))


def test_two_geometries_are_refused(tmp_path: Path) -> None:
    rigid = nib.affines.from_matvec(np.diag([-0.4, 0.5, 0.8]), [1, 2, 3])
    for moved, fits in ((0.05, True), (0.2, False)):
        image = nib.Nifti1Image(LABELS, rigid)
        other = rigid.copy()
        other[2, 3] += moved
        image.set_qform(rigid, 1)
        image.set_sform(other, 1)
        nib.save(image, tmp_path / "mask.nii")
        if fits:
            assert read_label_map(tmp_path / "mask.nii").grid.affine[2, 3] == pytest.approx(3.05)  # the sform
        else:
            with pytest.raises(MaskUnreadable, match=r"0\.2 mm apart"):
                read_label_map(tmp_path / "mask.nii")


def test_a_singular_affine_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "mask.nii")
    with pytest.raises(MaskUnreadable, match="invalid sform or qform"):
        read_label_map(patched(path, 280, bytes(48)))


def test_units_are_those_the_header_names(tmp_path: Path) -> None:
    path = saved(tmp_path / "mask.nii")
    in_mm = read_label_map(path).grid
    for unit, factor in ((0, 1.0), (1, 1000.0), (3, 0.001)):
        grid = read_label_map(patched(path, 123, bytes([unit]))).grid
        np.testing.assert_allclose(grid.affine[:3], in_mm.affine[:3] * factor)


@pytest.mark.parametrize("kept", [0, 3, 100, 351, 352 + 119])
def test_a_short_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = saved(tmp_path / "mask.nii")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(MaskUnreadable):
        read_label_map(path)


@pytest.mark.parametrize("offset", [0.0, 200.0, 1e6, 1e30, float("nan"), float("inf")])
def test_voxels_that_begin_nowhere_are_refused(tmp_path: Path, offset: float) -> None:
    path = patched(saved(tmp_path / "mask.nii"), 108, struct.pack("<f", offset))
    with pytest.raises(MaskUnreadable):
        read_label_map(path)


def test_axes_of_negative_length_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MaskUnreadable):
        read_label_map(patched(saved(tmp_path / "mask.nii"), 40, struct.pack("<h", -1)))


def test_an_infinite_slope_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MaskUnreadable, match="scl_slope"):
        read_label_map(patched(saved(tmp_path / "mask.nii"), 112, struct.pack("<f", float("inf"))))


@pytest.mark.parametrize("lost", [1, 4, 8, 30])
def test_a_short_gz_is_refused(tmp_path: Path, lost: int) -> None:
    path = saved(tmp_path / "mask.nii.gz")
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(MaskUnreadable, match="truncated or damaged"):
        read_label_map(path)


def test_every_flipped_byte_of_a_gz_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "mask.nii.gz")
    content = path.read_bytes()
    for at in range(20, len(content), 11):  # beyond the gzip header, which has only a name and a date
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        with pytest.raises(MaskUnreadable):
            read_label_map(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    for name, content in (
        ("a.nii", b"no image" * 99),
        ("a.nii.gz", b"no gzip"),
        ("b.nii.gz", gzip.compress(b"")),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MaskUnreadable, match=name):
            read_label_map(tmp_path / name)
    nib.save(nib.Nifti1Pair(LABELS, AFFINE), tmp_path / "pair.img")
    for name in ("pair.hdr", "pair.img"):
        with pytest.raises(MaskUnreadable, match=name):
            read_label_map(tmp_path / name)
    with pytest.raises(MaskUnreadable, match="cannot be read"):
        read_label_map(tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match=r"absent\.nii does not exist"):
        read_label_map(tmp_path / "absent.nii")


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
def test_what_is_written_is_what_others_read(tmp_path: Path, dtype: Any, name: str) -> None:
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0.01, 0.4], [0.0, 0.5, -0.01], [-0.8, 0, 0]]
    affine[:3, :3] = np.linalg.qr(affine[:3, :3])[0] @ np.diag([0.8, 0.5, 0.4])
    affine[:3, 3] = (-100, 50, 300)
    grid = Grid((4, 5, 6), affine)
    voxels = RNG.integers(-1024, 3000, grid.shape).astype(dtype)
    write_volume(tmp_path / name, Volume(voxels, grid))
    image = SimpleITK.ReadImage(str(tmp_path / name))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), voxels)
    assert SimpleITK.GetArrayFromImage(image).dtype == dtype
    for index in [(0, 0, 0), (3, 4, 5), (1, 0, 2)]:
        place = image.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(place, grid.to_mm(index), atol=1e-3)


def test_a_shear_is_written_to_the_sform_alone(tmp_path: Path) -> None:
    sheared = np.array([[0, 0, 0.4, 1], [0.2, 0.5, 0, 2], [0.8, 0, 0, 3], [0, 0, 0, 1]])
    grid = Grid((4, 5, 6), sheared)
    write_volume(tmp_path / "ct.nii", Volume(np.zeros(grid.shape, np.int16), grid))
    header = nib.load(tmp_path / "ct.nii").header
    assert (header["sform_code"], header["qform_code"]) == (1, 0)
    assert read_label_map(tmp_path / "ct.nii").grid.matches(grid, 1e-4)


def test_what_nifti_cannot_hold_is_refused(tmp_path: Path) -> None:
    grid = Grid((3, 1, 1), np.eye(4))
    volume = Volume(np.zeros(grid.shape, np.int16), grid, slice_coordinates=np.array([0, 0.8, 2]))
    with pytest.raises(GeometryInvalid, match="uneven"):
        write_volume(tmp_path / "ct.nii", volume)
    even = Volume(volume.voxels, grid)
    with pytest.raises(SpineError, match=r"\.nii or \.nii\.gz"):
        write_volume(tmp_path / "ct.mha", even)
    with pytest.raises(SpineError, match="cannot be written"):
        write_volume(tmp_path / "absent" / "ct.nii", even)


@pytest.mark.real_data
def test_48_axis_orders_are_one_image(tmp_path: Path, real_data: Path) -> None:
    reference = nib.load(real_data / "axcodes" / "LPS.nii.gz")
    expected = reference.dataobj.get_unscaled()  # (Left, Posterior, Superior)
    to_lps = np.diag([-1.0, -1, 1, 1]) @ reference.affine
    files = sorted((real_data / "axcodes").glob("*.nii.gz"))
    assert len(files) == 48
    for path in files:
        stored = bytearray(gzip.decompress(path.read_bytes()))
        stored[112:116] = bytes(4)  # grey values scaled by 0.36 are no labels; as they are stored they are
        (tmp_path / path.stem).write_bytes(stored)
        label_map = read_label_map(tmp_path / path.stem)
        index = label_map.grid.to_index((to_lps @ [7, 21, 40, 1])[:3])  # an off-centre voxel of the reference
        whole = np.rint(index).astype(int)
        np.testing.assert_allclose(index, whole, atol=1e-3, err_msg=path.name)
        assert label_map.labels[tuple(whole)] == expected[7, 21, 40], path.name
        # Every voxel of the reference, looked up by where it lies.
        turn = label_map.grid.index_map_to(Grid(expected.shape[::-1], to_lps @ np.eye(4)[[2, 1, 0, 3]]))
        places = np.rint(turn[:3, :3] @ np.indices(label_map.labels.shape).reshape(3, -1) + turn[:3, 3:])
        found = expected.T[tuple(places.astype(int))]
        np.testing.assert_array_equal(label_map.labels.ravel(), found, err_msg=path.name)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_sform_and_qform_may_differ_by_0_1_mm(tmp_path: Path, axis: int) -> None:
    rigid = nib.affines.from_matvec(np.diag([0.4, 0.5, 0.8]), [1, 2, 3])
    for moved, accepted in ((0.099, True), (0.101, False)):
        image = nib.Nifti1Image(LABELS, rigid)
        other = rigid.copy()
        other[axis, 3] -= moved
        image.set_qform(rigid, 1)
        image.set_sform(other, 1)
        nib.save(image, tmp_path / "mask.nii")
        if accepted:
            read_label_map(tmp_path / "mask.nii")
        else:
            with pytest.raises(MaskUnreadable, match="qform"):
                read_label_map(tmp_path / "mask.nii")


def oblique(tilt: float, turn: float) -> np.ndarray:
    """The affine of a CT that is tilted by so many degrees; LPS to RAS alone is half a turn."""
    rotation = np.diag([-1.0, -1.0, 1.0]) @ Rotation.from_euler("xy", [tilt, turn], degrees=True).as_matrix()
    return nib.affines.from_matvec(rotation * [30, 30, 60], [1, 2, 3])


@pytest.mark.parametrize("turn", [0.3, 1.0])
def test_equal_sform_and_qform_are_read_at_any_tilt(tmp_path: Path, turn: float) -> None:
    """nibabel itself reads some of them 0.1 to 0.4 mm apart over the half metre of such a mask."""
    apart = []
    for tilt in range(-20, 21):
        image = nib.Nifti1Image(LABELS, affine := oblique(tilt, turn))
        image.set_qform(affine, 1)
        image.set_sform(affine, 1)
        nib.save(image, tmp_path / "mask.nii")
        read = nib.load(tmp_path / "mask.nii")
        ends = nib.affines.apply_affine(read.get_sform() - read.get_qform(), [(0, 0, 0), LABELS.shape])
        apart.append(np.linalg.norm(ends[1] - ends[0]))
        grid = read_label_map(tmp_path / "mask.nii").grid
        expected = affine @ [3, 2, 1, 1]
        np.testing.assert_allclose(grid.to_mm([1, 2, 3]), expected[:3] * [-1, -1, 1], atol=1e-4)
    assert max(apart) > 0.1


@pytest.mark.parametrize("tilt", [0.0, 1.0, 20.0])
def test_rounding_hides_no_turn_of_0_15_degrees(tmp_path: Path, tilt: float) -> None:
    image = nib.Nifti1Image(LABELS, oblique(tilt, 0))
    image.set_qform(oblique(tilt, 0), 1)
    image.set_sform(oblique(tilt + 0.15, 0), 1)
    nib.save(image, tmp_path / "mask.nii")
    with pytest.raises(MaskUnreadable, match="qform"):
        read_label_map(tmp_path / "mask.nii")


def test_sform_and_qform_are_compared_at_the_far_corner(tmp_path: Path) -> None:
    """The origins are equal; the outer corner along k is 5.5 steps away, 0.094 or 0.105 mm apart."""
    rigid = nib.affines.from_matvec(np.diag([-0.4, 0.5, 0.8]), [1, 2, 3])
    for stretch, accepted in ((0.017, True), (0.019, False)):
        image = nib.Nifti1Image(LABELS, rigid)
        other = rigid.copy()
        other[2, 2] += stretch
        image.set_qform(rigid, 1)
        image.set_sform(other, 1)
        nib.save(image, tmp_path / "mask.nii")
        if accepted:
            read_label_map(tmp_path / "mask.nii")
        else:
            with pytest.raises(MaskUnreadable, match="qform"):
                read_label_map(tmp_path / "mask.nii")


@pytest.mark.parametrize("sign", [1, -1])
def test_scaled_labels_are_whole_to_0_0001(tmp_path: Path, sign: int) -> None:
    """Stored 2.5 and slope 2 are the label 5."""
    for off, accepted in ((0.9e-4, True), (1.1e-4, False)):
        array = np.full((3, 3, 3), 2.5)
        array[1, 1, 1] += sign * off / 2
        path = patched(saved(tmp_path / "mask.nii", array), 112, np.array([2, 0], "<f4").tobytes())
        if accepted:
            assert (read_label_map(path).labels == 5).all()
        else:
            with pytest.raises(MaskUnreadable, match=r"5\.0001|4\.9998"):
                read_label_map(path)


def test_labels_are_0_to_255(tmp_path: Path) -> None:
    for array in (np.array([[[0, 255]]], np.int16), np.array([[[0, 255]]], np.float32)):
        assert read_label_map(saved(tmp_path / "mask.nii", array)).labels.ravel().tolist() == [0, 255]
    for value in (-1, 256):
        with pytest.raises(LabelUnknown, match=str(value)):
            read_label_map(saved(tmp_path / "mask.nii", np.array([[[0, value]]], np.int16)))


@pytest.mark.parametrize("highest", [3, 7, 19, 25])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.int32])
def test_float_labels_that_nibabel_writes_as_integers(tmp_path: Path, highest: int, dtype: type) -> None:
    """Nibabel scales them to the range of the type, so no stored value is a multiple of the slope."""
    labels = np.random.default_rng(0).integers(0, highest + 1, (6, 5, 4))
    labels.flat[:2] = 0, highest
    image = nib.Nifti1Image(labels.T.astype(np.float64), np.eye(4))
    image.set_data_dtype(dtype)
    nib.save(image, tmp_path / "mask.nii")
    slope = float(nib.load(tmp_path / "mask.nii").dataobj.slope)
    assert 0 < slope < 0.2
    np.testing.assert_array_equal(read_label_map(tmp_path / "mask.nii").labels, labels)
    image.dataobj[1, 1, 1] = labels[1, 1, 1] + (0.5 if labels[1, 1, 1] == 0 else -0.5)
    nib.save(image, tmp_path / "interpolated.nii")
    with pytest.raises(MaskUnreadable, match="not an integer label"):
        read_label_map(tmp_path / "interpolated.nii")


@pytest.mark.parametrize(("off", "accepted"), [(0.0, True), (0.05, True), (-0.05, True), (0.0512, False)])
def test_labels_of_stored_integers_are_within_half_a_quantum(
    tmp_path: Path, off: float, accepted: bool
) -> None:
    """Stored 20 with slope 0.1 and this intercept are label 2, or no label."""
    path = saved(tmp_path / "mask.nii", np.full((3, 3, 3), 20, np.uint8))
    patched(path, 112, np.array([0.1, off], "<f4").tobytes())
    if accepted:
        assert (read_label_map(path).labels == 2).all()
    else:
        with pytest.raises(MaskUnreadable, match=r"2\.051"):
            read_label_map(path)


@pytest.mark.parametrize(("slope", "accepted"), [(0.45, True), (0.55, False)])
def test_half_a_quantum_counts_only_if_it_is_less_than_a_quarter(
    tmp_path: Path, slope: float, accepted: bool
) -> None:
    """Stored 1 is 0.2 from the label 1 in both."""
    path = saved(tmp_path / "mask.nii", np.ones((3, 3, 3), np.uint8))
    patched(path, 112, np.array([slope, 0.8 - slope], "<f4").tobytes())
    if accepted:
        assert (read_label_map(path).labels == 1).all()
    else:
        with pytest.raises(MaskUnreadable, match=r"0\.8"):
            read_label_map(path)
