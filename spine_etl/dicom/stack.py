"""Order and position of a series' slices, from ImagePositionPatient along the slice normal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spine_etl.dicom.decode import Slice
from spine_etl.dicom.header import Header
from spine_etl.errors import DuplicatePosition, GeometryInvalid, MixedSeries, NoSlices, SliceGap, StudyWarning
from spine_etl.geometry import FloatArray, Grid

# Positions in headers are often rounded to 2 decimals, which moves a slice by up to 0.01 mm against the line
# through its (rounded) neighbours: far below what a voxel resolves.
_TOLERANCE_MM = 0.01
# No CT has slices closer than this; closer ones are one slice twice, with differently rounded positions.
_SAME_POSITION_MM = 0.05
_MAX_LINE_OFFSET_MM = 0.1
_COSINE_TOLERANCE = 1e-3  # cosines are written with 6 digits and fewer
_GAP_FACTOR = 1.9  # one missing slice makes a step of 2; real series step from 4 to 7 mm
_OBLIQUE = np.cos(np.pi / 4)


@dataclass(frozen=True)
class Dropped:
    """A slice that is not in the volume: its file, and the reason, ``localizer`` or ``duplicate``."""

    file: str
    reason: str


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices in storage order with their grid; ``slice_coordinates`` as in `Volume`."""

    slices: tuple[Slice, ...]
    grid: Grid
    slice_coordinates: FloatArray | None
    dropped: tuple[Dropped, ...]
    warnings: tuple[StudyWarning, ...]


def stack_slices(slices: Sequence[Slice]) -> Stack:
    """Order the slices of one series and compute their grid.

    File order is kept if it is monotonic along the normal; otherwise slices are sorted in ascending order.
    The z column of the affine is (last - first position) / (n - 1), so that a gantry tilt is an exact shear.

    Raises
    ------
    NoSlices
        If all slices are localizers.
    MixedSeries
        If the slices differ in series, size, spacing or orientation.
    DuplicatePosition
        If two slices have the same position and different pixels.
    SliceGap
        If a step is over 1.9 times the median step.
    GeometryInvalid
        If the orientation is not orthonormal, or the positions are not on one line.
    """
    rest, localizers = _without_localizers(slices)
    _require_one_series(rest)
    axes = _axes(rest)[0]
    distinct, duplicates = _without_duplicates(rest, axes[0])
    ordered = _in_order(distinct, axes[0])
    dropped = (*localizers, *duplicates)
    warnings = tuple(
        StudyWarning("SLICE_LEFT_OUT", f"{drop.file} was left out: {drop.reason}.") for drop in dropped
    )
    if len(ordered) == 1:
        grid, warning = _single_grid(ordered[0], axes)
        return Stack(tuple(ordered), grid, None, dropped, (*warnings, warning))
    _require_no_gap(ordered, axes[0])
    grid = _grid(ordered, axes)
    coordinates, found = _coordinates(ordered, axes[0])
    return Stack(tuple(ordered), grid, coordinates, dropped, (*warnings, *found))


def _positions(slices: Sequence[Slice]) -> FloatArray:
    return np.array([s.header.image_position_patient for s in slices], dtype=np.float64)


def _axes(slices: Sequence[Slice]) -> FloatArray:
    """(n, 3, 3): unit vectors of the normal, of a step to the next row, and to the next column, in LPS."""
    cosines = np.array([s.header.image_orientation_patient for s in slices]).reshape(-1, 2, 3)
    lengths = np.linalg.norm(cosines, axis=2)
    skew = np.abs((cosines[:, 0] * cosines[:, 1]).sum(axis=1))
    askew = (np.abs(lengths - 1).max(axis=1) > _COSINE_TOLERANCE) | (skew > _COSINE_TOLERANCE)
    if askew.any():
        raise GeometryInvalid(
            f"{slices[int(askew.argmax())].name}: ImageOrientationPatient is not orthonormal."
        )
    to_column, to_row = np.moveaxis(cosines / lengths[..., None], 1, 0)
    normal = np.cross(to_column, to_row)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return np.stack([normal, to_row, to_column], axis=1)


def _without_localizers(slices: Sequence[Slice]) -> tuple[list[Slice], list[Dropped]]:
    """Drop slices whose ImageType includes LOCALIZER, and a single slice that crosses all others."""
    localizers = {s.name for s in slices if "LOCALIZER" in s.header.image_type}
    rest = [s for s in slices if s.name not in localizers]
    if not rest:
        raise NoSlices(f"all {len(slices)} DICOM files are localizer images.")
    if (crossing := _find_crossing_slice(rest)) is not None:
        localizers.add(crossing.name)
        rest.remove(crossing)
    return rest, [Dropped(s.name, "localizer") for s in slices if s.name in localizers]


def _find_crossing_slice(slices: Sequence[Slice]) -> Slice | None:
    """The one slice, among at least four, whose normal is over 45 degrees from that of all the others."""
    normals = _axes(slices)[:, 0]
    parallel = (np.abs(normals @ normals.T) >= _OBLIQUE).sum(axis=1)  # each slice counts itself
    crossing = np.flatnonzero(parallel == 1)
    if len(slices) < 4 or len(crossing) != 1 or sorted(parallel)[1] != len(slices) - 1:
        return None
    return slices[int(crossing[0])]


def _require_one_series(slices: Sequence[Slice]) -> None:
    first = slices[0]
    for other in slices[1:]:
        difference = _difference(first.header, other.header)
        if difference:
            raise MixedSeries(f"{first.name} and {other.name} differ in {difference}.")


def _difference(a: Header, b: Header) -> str | None:
    """The first difference that rules out one series; rounding that moves no voxel by 0.01 mm is ignored."""
    if a.series_instance_uid != b.series_instance_uid:
        return "SeriesInstanceUID"
    if (a.rows, a.columns) != (b.rows, b.columns):
        return f"Rows and Columns: {a.rows}x{a.columns} and {b.rows}x{b.columns}"
    voxels, width = max(a.rows, a.columns), max(a.pixel_spacing)
    if _max_difference(a.pixel_spacing, b.pixel_spacing) * voxels > _TOLERANCE_MM:
        return f"PixelSpacing: {a.pixel_spacing} and {b.pixel_spacing}"
    turn = _max_difference(a.image_orientation_patient, b.image_orientation_patient)
    return f"ImageOrientationPatient, by {turn:.6f}" if turn * voxels * width > _TOLERANCE_MM else None


def _max_difference(a: Sequence[float], b: Sequence[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def _without_duplicates(slices: Sequence[Slice], normal: FloatArray) -> tuple[list[Slice], list[Dropped]]:
    """Drop slices with the position and the HU of another slice; file order is kept."""
    depths = (_positions(slices) @ normal).tolist()
    kept, *others = sorted(range(len(slices)), key=depths.__getitem__)
    dropped: set[int] = set()
    for index in others:
        if depths[index] - depths[kept] > _SAME_POSITION_MM:
            kept = index
            continue
        _require_identical(slices[kept], slices[index])
        dropped.add(index)
    rest = [s for i, s in enumerate(slices) if i not in dropped]
    return rest, [Dropped(slices[i].name, "duplicate") for i in sorted(dropped)]


def _require_identical(a: Slice, b: Slice) -> None:
    distance = float(
        np.linalg.norm(np.subtract(a.header.image_position_patient, b.header.image_position_patient))
    )
    if distance > 2 * _SAME_POSITION_MM:
        raise GeometryInvalid(f"{a.name} and {b.name} are in one plane, {distance:.3f} mm apart.")
    if not np.array_equal(a.hu, b.hu):
        raise DuplicatePosition(f"{a.name} and {b.name} have the same position and different pixels.")


def _in_order(slices: list[Slice], normal: FloatArray) -> list[Slice]:
    depths = _positions(slices) @ normal
    steps = np.diff(depths)
    if (steps > 0).all() or (steps < 0).all():
        return slices
    return [slices[i] for i in np.argsort(depths)]


def _require_no_gap(slices: Sequence[Slice], normal: FloatArray) -> None:
    steps = np.abs(np.diff(_positions(slices) @ normal))
    widest, median = int(steps.argmax()), float(np.median(steps))
    if steps[widest] > _GAP_FACTOR * median:
        raise SliceGap(
            f"{slices[widest].name} and {slices[widest + 1].name} are {steps[widest]:.3f} mm apart, "
            f"the median step is {median:.3f} mm."
        )


def _affine_grid(slices: Sequence[Slice], axes: FloatArray, step: npt.ArrayLike) -> Grid:
    """The grid from a step to the next slice (3,) in LPS mm (PS3.3 C.7.6.2.1.1)."""
    header = slices[0].header
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = axes[1] * header.pixel_spacing[0]
    affine[:3, 2] = axes[2] * header.pixel_spacing[1]
    affine[:3, 3] = header.image_position_patient
    try:
        return Grid((len(slices), header.rows, header.columns), affine)
    except ValueError as error:
        raise GeometryInvalid(f"{slices[0].name}: positions and spacing do not span a volume.") from error


def _grid(slices: Sequence[Slice], axes: FloatArray) -> Grid:
    positions = _positions(slices)
    return _affine_grid(slices, axes, (positions[-1] - positions[0]) / (len(slices) - 1))


def _single_grid(only: Slice, axes: FloatArray) -> tuple[Grid, StudyWarning]:
    """The grid of a single slice; SliceThickness or SpacingBetweenSlices replaces the missing step."""
    header = only.header
    for keyword, step in (
        ("SliceThickness", header.slice_thickness),
        ("SpacingBetweenSlices", header.spacing_between_slices),
    ):
        if step is not None and step > 0:
            text = f"There is only one slice; its step is {keyword}, {step:g} mm."
            return _affine_grid([only], axes, axes[0] * step), StudyWarning("SINGLE_SLICE", text)
    raise GeometryInvalid(
        f"{only.name} is the only slice and has neither SliceThickness nor SpacingBetweenSlices."
    )


def _coordinates(slices: Sequence[Slice], normal: FloatArray) -> tuple[FloatArray | None, list[StudyWarning]]:
    """The slices' z indices on the grid, None if they are even; and warnings."""
    positions, last = _positions(slices), len(slices) - 1
    line = positions[-1] - positions[0]
    share = (positions - positions[0]) @ normal / (line @ normal)
    share[0], share[-1] = 0.0, 1.0
    offset = np.linalg.norm(positions - positions[0] - share[:, None] * line, axis=1)
    worst = int(offset.argmax())
    warnings: list[StudyWarning] = []
    if offset[worst] > _MAX_LINE_OFFSET_MM:
        raise GeometryInvalid(
            f"{slices[worst].name} is {offset[worst]:.3f} mm off the line from the first slice to the last."
        )
    if offset[worst] > _TOLERANCE_MM:
        text = f"Slices are up to {offset[worst]:.3f} mm off the line from the first to the last."
        warnings.append(StudyWarning("SLICES_OFF_LINE", text))
    uneven_mm = np.abs(share - np.arange(last + 1) / last).max() * np.linalg.norm(line)
    if uneven_mm <= _TOLERANCE_MM * (1 + 1e-6):
        return None, warnings
    steps = np.abs(np.diff(positions @ normal))
    text = f"Slices are uneven: steps of {steps.min():.3f} to {steps.max():.3f} mm."
    warnings.append(StudyWarning("SLICES_UNEVEN", text))
    return share * last, warnings
