"""Each tolerance of a stack, from both sides: what is accepted just below it and refused just above."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from spine_etl.dicom import read_series
from spine_etl.errors import GeometryInvalid, MixedSeries, SliceGap
from spine_etl.volume import Volume

if TYPE_CHECKING:
    from .conftest import SeriesWriter


def read_at(series: SeriesWriter, *positions: tuple[float, float, float]) -> Volume:
    """Slices at these LPS positions, each with pixels of its own."""
    for i, position in enumerate(positions):
        series.add(f"{i}.dcm", series.stored(i), ImagePositionPatient=list(position))
    return read_series(series.folder)


def dropped(volume: Volume) -> list[str]:
    entries = volume.facts["slices_dropped"]
    assert isinstance(entries, list)
    return [entry["reason"] for entry in entries]


def test_step_up_to_1_9_medians_is_no_gap(series: SeriesWriter) -> None:
    heights = np.array([0, 1, 2, 3.899, 4.899, 5.899])
    assert read_at(series, *[(0, 0, z) for z in heights]).voxels.shape[0] == 6
    heights[3:] += 0.002
    with pytest.raises(SliceGap, match=r"2\.dcm and 3\.dcm .* 1\.901 mm apart"):
        read_at(series, *[(0, 0, z) for z in heights])


def test_gap_is_measured_against_the_median_step(series: SeriesWriter) -> None:
    """Three steps of 1 and two of 1.85: the mean, 1.34, would allow a step of 2.5."""
    heights = np.cumsum([0, 1, 1.85, 1, 1.85, 1])
    assert read_at(series, *[(0, 0, z) for z in heights]).voxels.shape[0] == 6
    heights = np.cumsum([0, 1, 1.85, 1, 2.2, 1])
    with pytest.raises(SliceGap, match=r"3\.dcm and 4\.dcm .* 2\.200 mm apart, the median step is 1\.000"):
        read_at(series, *[(0, 0, z) for z in heights])


@pytest.mark.parametrize("sign", [1, -1])
def test_slices_within_0_01_mm_of_even_are_even(series: SeriesWriter, sign: int) -> None:
    volume = read_at(series, (0, 0, 0), (0, 0, 1 + sign * 0.0099), (0, 0, 2), (0, 0, 3))
    assert volume.slice_coordinates is None
    assert volume.warnings == ()
    volume = read_at(series, (0, 0, 0), (0, 0, 1 + sign * 0.0101), (0, 0, 2), (0, 0, 3))
    assert volume.slice_coordinates is not None
    np.testing.assert_allclose(volume.slice_coordinates, [0, 1 + sign * 0.0101, 2, 3], atol=1e-12)


def test_evenness_is_in_millimetres_not_in_slices(series: SeriesWriter) -> None:
    """0.015 mm, a 200th of a step of 3 mm, is uneven; 0.009 mm, a seventh of 0.0625 mm, is even."""
    assert read_at(series, (0, 0, 0), (0, 0, 3.015), (0, 0, 6)).slice_coordinates is not None
    assert read_at(series, (0, 0, 0), (0, 0, 0.0715), (0, 0, 0.125)).slice_coordinates is None


def test_slice_up_to_0_1_mm_beside_the_line_is_accepted(series: SeriesWriter) -> None:
    assert read_at(series, (0, 0, 0), (0, 0.009, 1), (0, 0, 2)).warnings == ()
    assert len(read_at(series, (0, 0, 0), (0, 0.011, 1), (0, 0, 2)).warnings) == 1
    assert len(read_at(series, (0, 0, 0), (0, 0.099, 1), (0, 0, 2)).warnings) == 1
    with pytest.raises(GeometryInvalid, match=r"1\.dcm .* 0\.101 mm .* the line"):
        read_at(series, (0, 0, 0), (0, 0.101, 1), (0, 0, 2))


def test_line_of_a_tilted_gantry_is_not_the_normal(series: SeriesWriter) -> None:
    """All slices are up to 2 mm beside the normal through the first, and on one line."""
    assert read_at(series, *[(0, 0.5 * i, i) for i in range(5)]).warnings == ()


def test_slices_up_to_0_05_mm_apart_have_one_position(series: SeriesWriter) -> None:
    for i in range(5):
        series.add(f"{i}.dcm", series.stored(i), z=i)
    series.add("5.dcm", series.stored(2), z=2.0499)
    assert dropped(read_series(series.folder)) == ["duplicate"]
    series.add("5.dcm", series.stored(2), z=2.0501)
    volume = read_series(series.folder)
    assert dropped(volume) == []
    assert volume.voxels.shape[0] == 6


def test_duplicates_up_to_0_1_mm_apart_within_the_plane(series: SeriesWriter) -> None:
    for i in range(5):
        series.add(f"{i}.dcm", series.stored(i), z=i)
    series.add("5.dcm", series.stored(2), ImagePositionPatient=[-10.0999, -20, 2])
    assert dropped(read_series(series.folder)) == ["duplicate"]
    series.add("5.dcm", series.stored(2), ImagePositionPatient=[-10.1001, -20, 2])
    with pytest.raises(GeometryInvalid, match="in one plane"):
        read_series(series.folder)


@pytest.mark.parametrize(
    ("accepted", "refused"),
    [
        ([1.0009, 0, 0, 0, 1, 0], [1.0011, 0, 0, 0, 1, 0]),
        ([0.9991, 0, 0, 0, 1, 0], [0.9989, 0, 0, 0, 1, 0]),
        ([1, 0, 0, 0, 1.0009, 0], [1, 0, 0, 0, 1.0011, 0]),
        ([1, 0.0009, 0, 0, 1, 0], [1, 0.0011, 0, 0, 1, 0]),
        ([1, 0, 0, -0.0009, 1, 0], [1, 0, 0, -0.0011, 1, 0]),
    ],
)
def test_orientation_is_orthonormal_to_0_001(
    series: SeriesWriter, accepted: list[float], refused: list[float]
) -> None:
    series.add_many(3, ImageOrientationPatient=accepted)
    # The spacing stays that of PixelSpacing, whatever the length of the cosines.
    np.testing.assert_allclose(read_series(series.folder).grid.spacing_mm, (1, 0.5, 0.25), rtol=1e-6)
    series.add_many(3, ImageOrientationPatient=refused)
    with pytest.raises(GeometryInvalid, match="not orthonormal"):
        read_series(series.folder)


def test_pixel_spacing_may_move_the_last_voxel_by_0_01_mm(series: SeriesWriter) -> None:
    """16 rows: 0.0006 mm for each make 0.0096 mm."""
    series.add_many(3)
    series.add("4.dcm", series.stored(9), z=-3, PixelSpacing=[0.5006, 0.25])
    assert read_series(series.folder).voxels.shape[0] == 4
    series.add("4.dcm", series.stored(9), z=-3, PixelSpacing=[0.50065, 0.25])
    with pytest.raises(MixedSeries, match="PixelSpacing"):
        read_series(series.folder)


def test_orientation_may_move_the_last_voxel_by_0_01_mm(series: SeriesWriter) -> None:
    """16 rows of 0.5 mm: cosines that differ by 0.0012 move the last one by 0.0096 mm."""
    series.add_many(3)
    for sine, accepted in ((0.0012, True), (0.0013, False)):
        cosine = np.sqrt(1 - sine**2)
        turned = [cosine, sine, 0, -sine, cosine, 0]
        series.add("4.dcm", series.stored(9), z=-3, ImageOrientationPatient=[f"{v:.12f}" for v in turned])
        if accepted:
            assert read_series(series.folder).voxels.shape[0] == 4
        else:
            with pytest.raises(MixedSeries, match=r"ImageOrientationPatient, by 0\.0013"):
                read_series(series.folder)


def turned_about_x(degrees: float) -> list[str]:
    angle = np.deg2rad(degrees)
    return [f"{v:.12f}" for v in (1, 0, 0, 0, np.cos(angle), np.sin(angle))]


def test_untagged_localizer_is_over_45_degrees_from_the_others(series: SeriesWriter) -> None:
    series.add_many(3)
    series.add("4.dcm", ImageOrientationPatient=turned_about_x(45.5))
    assert dropped(read_series(series.folder)) == ["localizer"]
    series.add("4.dcm", ImageOrientationPatient=turned_about_x(44.5))
    with pytest.raises(MixedSeries):
        read_series(series.folder)


def test_untagged_localizer_needs_three_other_slices(series: SeriesWriter) -> None:
    series.add_many(2)
    series.add("4.dcm", ImageOrientationPatient=turned_about_x(90))
    with pytest.raises(MixedSeries):
        read_series(series.folder)
