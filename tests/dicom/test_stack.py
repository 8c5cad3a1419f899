"""Order and geometry, compared with positions that pydicom and SimpleITK read, or that were written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK

from spine_etl.dicom import read_series, series_files
from spine_etl.errors import DuplicatePosition, GeometryInvalid, MixedSeries, NoSlices, SliceGap, StudyWarning
from spine_etl.volume import Volume

if TYPE_CHECKING:
    from .conftest import SeriesWriter


def header_points(paths: list[Path], rows: list[int], columns: list[int]) -> npt.NDArray[np.float64]:
    """(files, corners, 3): LPS of pixels by the equation of PS3.3 C.7.6.2.1.1, as pydicom reads its terms."""
    points = []
    for path in paths:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        along_row, along_column = np.reshape(list(map(float, dataset.ImageOrientationPatient)), (2, 3))
        between_rows, between_columns = map(float, dataset.PixelSpacing)
        origin = np.array(list(map(float, dataset.ImagePositionPatient)))
        points.append(
            [
                origin + column * between_columns * along_row + row * between_rows * along_column
                for row, column in zip(rows, columns, strict=True)
            ]
        )
    return np.array(points)


def volume_points(volume: Volume, rows: list[int], columns: list[int]) -> npt.NDArray[np.float64]:
    coordinates = volume.slice_coordinates
    z = np.arange(len(volume.voxels)) if coordinates is None else coordinates
    index = [[(k, row, column) for row, column in zip(rows, columns, strict=True)] for k in z]
    return volume.grid.to_mm(index)


def itk_volume(paths: list[Path]) -> SimpleITK.Image:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in paths])
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # it warns of uneven slices
    return reader.Execute()


@pytest.mark.real_data
def test_gantry_tilt_and_uneven_steps(real_data: Path) -> None:
    paths = sorted((real_data / "ct_head_gantry_tilt").glob("*.dcm"))
    volume = read_series(paths[0].parent)
    corners: tuple[list[int], list[int]] = ([0, 0, 511, 511, 200], [0, 511, 0, 511, 300])
    apart = np.linalg.norm(volume_points(volume, *corners) - header_points(paths, *corners), axis=-1)
    assert apart.max() < 0.01
    itk = np.maximum(SimpleITK.GetArrayFromImage(itk_volume(paths)), -1024)
    np.testing.assert_array_equal(volume.voxels, itk)
    assert volume.file_numbers is not None
    assert volume.file_numbers.tolist() == list(range(1, 29))
    assert volume.facts["uneven"] is True
    assert len(volume.warnings) == 1


@pytest.mark.real_data
def test_rotated_orientation(real_data: Path) -> None:
    paths = sorted((real_data / "rotated_orientation").glob("*.dcm"))
    volume, itk = read_series(paths[0].parent), itk_volume(paths)
    np.testing.assert_array_equal(volume.voxels, np.maximum(SimpleITK.GetArrayFromImage(itk), -1024))
    for index in [(0, 0, 0), (16, 127, 87), (16, 0, 5), (3, 100, 0)]:
        truth = itk.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(volume.grid.to_mm(index), truth, atol=0.01)
    assert volume.slice_coordinates is None
    assert volume.warnings == ()


@pytest.mark.real_data
def test_real_gap_is_refused(real_data: Path) -> None:
    with pytest.raises(SliceGap, match=r"7106 and 7136 are 202\.500 mm apart, the median step is 1\.250 mm"):
        read_series(real_data / "slice_gap")


@pytest.mark.real_data
def test_real_duplicates_are_dropped_and_their_gaps_refused(real_data: Path) -> None:
    """CT26 and CT28 hold the same pixels at one position; the gaps remain."""
    with pytest.raises(SliceGap, match=r"CT29\.dcm and CT24\.dcm are 115\.000 mm apart"):
        read_series(real_data / "duplicate_positions")


@pytest.mark.real_data
def test_real_duplicates_that_differ_are_refused(real_data: Path, tmp_path: Path) -> None:
    for path in (real_data / "duplicate_positions").glob("*.dcm"):
        content = bytearray(path.read_bytes())
        if path.name == "CT28.dcm":
            content[-300_000] ^= 1  # a pixel of the middle
        (tmp_path / path.name).write_bytes(content)
    with pytest.raises(DuplicatePosition, match=r"CT26\.dcm and CT28\.dcm"):
        read_series(tmp_path)


@pytest.mark.parametrize("direction", [1, -1])
def test_file_order_is_kept_where_it_runs_steadily(series: SeriesWriter, direction: int) -> None:
    for i in range(12):  # 10.dcm comes after 9.dcm
        series.add(f"{i + 1}.dcm", series.stored(i), z=direction * i * 0.8)
    volume = read_series(series.folder)
    np.testing.assert_array_equal(volume.voxels, [series.stored(i).astype(int) - 1024 for i in range(12)])
    affine = [[0, 0, 0.25, -10], [0, 0.5, 0, -20], [direction * 0.8, 0, 0, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(volume.grid.affine, affine, atol=1e-12)
    assert volume.slice_coordinates is None
    assert volume.file_numbers is not None
    assert volume.file_numbers.tolist() == list(range(1, 13))


def test_shuffled_files_are_put_in_ascending_order(series: SeriesWriter) -> None:
    heights = [3, 0, 4, 1, 2]
    for i, z in enumerate(heights):
        series.add(f"CT{i}.dcm", series.stored(z), z=z)
    volume = read_series(series.folder)
    np.testing.assert_array_equal(volume.voxels, [series.stored(z).astype(int) - 1024 for z in range(5)])
    np.testing.assert_allclose(volume.grid.to_mm((4, 0, 0)), [-10, -20, 4])
    assert volume.file_numbers is not None
    assert volume.file_numbers.tolist() == [1, 3, 4, 0, 2]


def test_shear_of_a_tilted_gantry(series: SeriesWriter) -> None:
    for i in range(4):
        series.add(f"{i}.dcm", series.stored(i), ImagePositionPatient=[i * 0.1, -i * 0.4, i * 1.5])
    volume = read_series(series.folder)
    np.testing.assert_allclose(volume.grid.affine[:3, 0], [0.1, -0.4, 1.5], atol=1e-12)
    assert volume.slice_coordinates is None
    assert volume.warnings == ()


def test_oblique_orientation(series: SeriesWriter) -> None:
    """Study 8693 of RSNA 2022, with its ways of writing numbers and a falling position."""
    orientation = rb"0.997007\-2.5917e-002\7.2834e-002\2.2466e-002\0.998604\4.7813e-002"
    row, column = np.reshape([float(v) for v in orientation.split(b"\\")], (2, 3))
    normal = np.cross(row, column)
    for i in range(5):
        place = np.array([-120.5788, -95.09078, 53.59906]) - 2.626 * i * normal
        position = "\\".join(f"{v:.5f}" for v in place).encode()
        series.add(
            f"{i + 1}.dcm", raw={"ImageOrientationPatient": orientation, "ImagePositionPatient": position}
        )
    volume = read_series(series.folder)
    paths = [file.path for file in series_files(series.folder)]
    corners: tuple[list[int], list[int]] = ([0, 15, 15], [0, 0, 11])
    apart = np.linalg.norm(volume_points(volume, *corners) - header_points(paths, *corners), axis=-1)
    assert apart.max() < 1e-4
    assert volume.grid.spacing_mm[0] == pytest.approx(2.626, abs=1e-4)


def test_positions_rounded_to_two_decimals_are_even(series: SeriesWriter) -> None:
    for i in range(30):
        series.add(f"{i}.dcm", z=round(100 - 0.625 * i, 2))
    volume = read_series(series.folder)
    assert volume.slice_coordinates is None
    assert volume.warnings == ()


def test_uneven_slices_keep_their_positions(series: SeriesWriter) -> None:
    heights = [0.0, 0.764, 2.001, 3.0, 4.1, 5.0]
    for i, z in enumerate(heights):
        series.add(f"{i}.dcm", z=z)
    volume = read_series(series.folder)
    assert volume.slice_coordinates is not None
    assert (volume.slice_coordinates[0], volume.slice_coordinates[-1]) == (0, 5)
    indices = [(z, 0, 0) for z in volume.slice_coordinates]
    np.testing.assert_allclose(volume.grid.to_mm(indices)[:, 2], heights, atol=1e-12)
    assert volume.warnings == (
        StudyWarning("SLICES_UNEVEN", "Slices are uneven: steps of 0.764 to 1.237 mm."),
    )


@pytest.mark.parametrize(("step", "refused"), [(1.85, False), (1.95, True), (2.0, True)])
def test_gap(series: SeriesWriter, step: float, refused: bool) -> None:
    for i, z in enumerate([0, 1, 2, 2 + step, 3 + step, 4 + step]):
        series.add(f"{i}.dcm", z=z)
    if not refused:
        assert read_series(series.folder).slice_coordinates is not None
        return
    with pytest.raises(SliceGap, match=rf"2.dcm and 3.dcm are {step:.3f} mm apart, the median step is 1.000"):
        read_series(series.folder)


def test_slice_off_the_line_is_refused(series: SeriesWriter) -> None:
    for i, x in enumerate([0, 0, 0.2, 0, 0]):
        series.add(f"{i}.dcm", ImagePositionPatient=[x, 0, i])
    with pytest.raises(GeometryInvalid, match=r"2.dcm is 0.200 mm off the line"):
        read_series(series.folder)


def test_slice_slightly_off_the_line_gives_a_warning(series: SeriesWriter) -> None:
    for i, x in enumerate([0, 0, 0.05, 0, 0]):
        series.add(f"{i}.dcm", ImagePositionPatient=[x, 0, i])
    assert read_series(series.folder).warnings == (
        StudyWarning("SLICES_OFF_LINE", "Slices are up to 0.050 mm off the line from the first to the last."),
    )


@pytest.mark.parametrize(
    "orientation", [[1, 0, 0, 0, 0.99, 0], [1, 0, 0, 0.01, 1, 0], [1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0]]
)
def test_orientation_that_is_not_orthonormal(series: SeriesWriter, orientation: list[float]) -> None:
    series.add_many(2, ImageOrientationPatient=orientation)
    with pytest.raises(GeometryInvalid, match=r"1.dcm: ImageOrientationPatient"):
        read_series(series.folder)


def test_spacing_without_volume_is_refused(series: SeriesWriter) -> None:
    series.add_many(2, PixelSpacing=["1E-14", "1E-14"])
    with pytest.raises(GeometryInvalid, match="do not span a volume"):
        read_series(series.folder)


def test_single_slice_takes_its_thickness(series: SeriesWriter) -> None:
    series.add("1.dcm", z=7)
    volume = read_series(series.folder)
    np.testing.assert_allclose(volume.grid.affine[:3, 0], [0, 0, 3])
    assert volume.warnings == (
        StudyWarning("SINGLE_SLICE", "There is only one slice; its step is SliceThickness, 3 mm."),
    )


def test_single_slice_without_thickness(series: SeriesWriter) -> None:
    series.add("1.dcm", without="SliceThickness", SpacingBetweenSlices="2.5")
    np.testing.assert_allclose(read_series(series.folder).grid.affine[:3, 0], [0, 0, 2.5])
    series.add("1.dcm", without="SliceThickness")
    with pytest.raises(GeometryInvalid, match="only slice"):
        read_series(series.folder)


@pytest.mark.parametrize("name", ["0.dcm", "3b.dcm", "9.dcm"])
def test_identical_duplicates_are_dropped(series: SeriesWriter, name: str) -> None:
    series.add_many(5)
    series.add(name, series.stored(2), z=-2)
    volume = read_series(series.folder)
    # 0.dcm is the one that stays; the file order is steady no more, so slices ascend.
    order = range(4, -1, -1) if name == "0.dcm" else range(5)
    np.testing.assert_array_equal(volume.voxels, [series.stored(i).astype(int) - 1024 for i in order])
    assert [volume.grid.to_mm((k, 0, 0))[2] for k in range(5)] == [-i for i in order]
    assert volume.facts["slices"] == 5
    dropped = "3.dcm" if name == "0.dcm" else name
    assert volume.facts["slices_dropped"] == [{"file": dropped, "reason": "duplicate"}]
    assert volume.warnings == (StudyWarning("SLICE_LEFT_OUT", f"{dropped} was left out: duplicate."),)


@pytest.mark.parametrize("apart", [0.0005, 0.004, 0.04])
def test_positions_that_differ_by_rounding_are_equal(series: SeriesWriter, apart: float) -> None:
    series.add_many(5)
    series.add("6.dcm", series.stored(2), z=-2 - apart)
    volume = read_series(series.folder)
    assert volume.facts["slices_dropped"] == [
        {"file": volume.warnings[0].text.split()[0], "reason": "duplicate"}
    ]
    np.testing.assert_array_equal(volume.voxels[2], series.stored(2).astype(int) - 1024)
    series.add("6.dcm", series.stored(6), z=-2 - apart)
    with pytest.raises(DuplicatePosition, match=r"3\.dcm.*6\.dcm|6\.dcm.*3\.dcm"):
        read_series(series.folder)


def test_the_thinnest_slices_are_places_of_their_own(series: SeriesWriter) -> None:
    for i in range(5):
        series.add(f"{i}.dcm", series.stored(i), z=i * 0.06)
    volume = read_series(series.folder)
    assert volume.facts["slices_dropped"] == []
    assert volume.grid.spacing_mm[0] == pytest.approx(0.06)


def test_duplicates_with_another_rescale_are_refused(series: SeriesWriter) -> None:
    series.add_many(5)
    series.add("6.dcm", series.stored(2), z=-2, RescaleIntercept=-1000)
    with pytest.raises(DuplicatePosition, match=r"3.dcm and 6.dcm"):
        read_series(series.folder)


def test_duplicates_are_found_before_gaps(series: SeriesWriter) -> None:
    for i, z in enumerate([0, 1, 1, 20]):
        series.add(f"{i}.dcm", series.stored(i), z=z)
    with pytest.raises(DuplicatePosition):
        read_series(series.folder)


def test_two_places_in_one_plane(series: SeriesWriter) -> None:
    series.add_many(3)
    series.add("4.dcm", ImagePositionPatient=[0, 0, -1])
    with pytest.raises(GeometryInvalid, match=r"in one plane, 22.361 mm apart"):
        read_series(series.folder)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("SeriesInstanceUID", "1.2.3.2"),
        ("PixelSpacing", [0.5, 0.26]),
        ("ImageOrientationPatient", [0.998, 0.063, 0, -0.063, 0.998, 0]),
    ],
)
def test_mixed_series_names_what_differs(series: SeriesWriter, keyword: str, value: object) -> None:
    series.add_many(3)
    series.add("4.dcm", z=-3, **{keyword: value})
    with pytest.raises(MixedSeries, match=rf"1.dcm and 4.dcm differ in {keyword}"):
        read_series(series.folder)


def test_mixed_sizes(series: SeriesWriter) -> None:
    series.add_many(3)
    series.add("4.dcm", np.zeros((16, 14), np.uint16), z=-3)
    with pytest.raises(MixedSeries, match=r"Rows and Columns: 16x12 and 16x14"):
        read_series(series.folder)


def test_two_axial_halves_of_equal_share_are_mixed(series: SeriesWriter) -> None:
    series.add_many(3)
    for i in range(3):
        series.add(f"s{i}.dcm", ImagePositionPatient=[i, 0, 0], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    with pytest.raises(MixedSeries, match="ImageOrientationPatient"):
        read_series(series.folder)


@pytest.mark.parametrize("name", ["0.dcm", "2b.dcm", "9.dcm"])
@pytest.mark.parametrize("tagged", [True, False])
def test_localizer_is_dropped(series: SeriesWriter, name: str, tagged: bool) -> None:
    series.add_many(5)
    across = [0, 1, 0, 0, 0, -1]
    image_type = ["ORIGINAL", "PRIMARY", "LOCALIZER" if tagged else "OTHER"]
    scout = np.full((30, 20), 7, np.uint16)
    series.add(name, scout, ImageOrientationPatient=across, ImageType=image_type, SeriesInstanceUID="1.9")
    volume = read_series(series.folder)
    np.testing.assert_array_equal(volume.voxels, [series.stored(i).astype(int) - 1024 for i in range(5)])
    assert volume.facts["slices_dropped"] == [{"file": name, "reason": "localizer"}]


def test_nothing_but_localizers(series: SeriesWriter) -> None:
    series.add_many(3, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    with pytest.raises(NoSlices, match="localizer"):
        read_series(series.folder)


def test_whole_series_of_an_unusual_shape(series: SeriesWriter) -> None:
    for i in range(3):
        series.add(f"{i}.dcm", np.full((16, 19), i, np.uint16), z=i)
    assert read_series(series.folder).voxels.shape == (3, 16, 19)


def test_positions_agree_with_simpleitk_in_a_plain_series(series: SeriesWriter) -> None:
    paths = series.add_many(4, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    for i, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        dataset.ImagePositionPatient = [3.5 + 1.25 * i, -7, 11]
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        dataset.save_as(path)
    volume, itk = read_series(series.folder), itk_volume(paths)
    for index in [(0, 0, 0), (3, 15, 11), (2, 0, 11)]:
        np.testing.assert_allclose(
            volume.grid.to_mm(index), itk.TransformIndexToPhysicalPoint(index[::-1]), atol=1e-6
        )
