"""Panels: planes of HU and labels, oriented as radiologists read them. `drawing` draws them.

Axial and coronal panels show the patient's left on the right; sagittal panels show anterior on the left.
Coronal and sagittal panels show the head at the top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from spine_etl.errors import SourceNotFound
from spine_etl.geometry import FloatArray, Grid
from spine_etl.resample import sample_image, sample_labels
from spine_etl.segmentation import label_regions
from spine_etl.volume import FractureBox, LabelMap, Volume

MONTAGE = 18
"""Slices in a montage: 3 rows of 6."""

_OPPOSITE = dict(zip("LPSRAI", "RAILPS", strict=True))
_AXIAL, _CORONAL, _SAGITTAL = 0, 1, 2  # index of the axis that the plane is perpendicular to
_PLANE_NAMES = ("axial", "coronal", "sagittal")

_Plane = npt.NDArray[Any]


@dataclass(frozen=True)
class PanelBox:
    """A fracture box in pixels of a panel: upper left corner and size. Pixel centres are at whole numbers."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, eq=False)
class Panel:
    """One plane.

    ``image`` (HU) and ``mask`` (labels; None without a segmentation) have the same shape (rows, columns).
    ``pixel_mm`` is the distance between rows and between columns. ``edges`` is four letters: the patient's
    side at the top, bottom, left and right of the panel.
    """

    title: str
    image: _Plane
    mask: _Plane | None
    pixel_mm: tuple[float, float]
    edges: str
    boxes: tuple[PanelBox, ...] = ()

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width in mm."""
        rows, columns = self.image.shape
        return rows * self.pixel_mm[0], columns * self.pixel_mm[1]


def choose_slices(
    volume: Volume, boxes: Sequence[FractureBox], mask: LabelMap | None, start: int | None = None
) -> list[int]:
    """Indices of up to `MONTAGE` consecutive slices, from head to foot.

    With ``start``, they begin at the slice with that file number. Otherwise they cover as many slices with
    boxes as possible; without boxes they are centred on the mask, without a mask on the volume.

    Raises
    ------
    SourceNotFound
        If no slice has the file number ``start``.
    """
    order = _head_to_foot(volume)
    if start is not None:
        first = _position_of(start, volume, order)
    else:
        numbers = _file_numbers(volume)[order]
        boxed = np.flatnonzero(np.isin(numbers, [box.slice_number for box in boxes]))
        first = _densest_start(boxed) if boxed.size else _middle_position(volume, mask, order) - MONTAGE // 2
    first = max(0, min(first, len(order) - MONTAGE))
    chosen: list[int] = order[first : first + MONTAGE].tolist()
    return chosen


def slice_panels(
    volume: Volume, indices: Sequence[int], boxes: Sequence[FractureBox], mask: LabelMap | None
) -> list[Panel]:
    """The stored slices at these indices: transposed and mirrored upright, but not resampled."""
    return [_slice_panel(volume, index, boxes, mask) for index in indices]


def reslice_panels(volume: Volume, mask: LabelMap | None) -> list[Panel]:
    """A sagittal and a coronal plane through the centre of the mask (or of the CT), with isotropic pixels."""
    spacing = float(volume.grid.spacing_mm.min())
    canonical = volume.grid.enclosing_canonical(spacing)
    center = volume.grid.center_mm if mask is None else _mask_center(mask)
    panels = []
    for axis in (_SAGITTAL, _CORONAL):
        shape, middle = list(canonical.shape), canonical.center_mm.copy()
        shape[axis], middle[2 - axis] = 1, center[2 - axis]
        plane = Grid.canonical(middle, shape, spacing)
        labels = None if mask is None else sample_labels(mask, plane)
        panel = _block_panel(sample_image(volume, plane), labels, axis, 0, spacing)
        offset = float(middle[2 - axis])
        side = ("LPS" if offset >= 0 else "RAI")[2 - axis]
        panels.append(replace(panel, title=f"{panel.title} at {side} {abs(offset):.1f} mm"))
    return panels


def block_panels(
    image: npt.NDArray[np.int16],
    mask: npt.NDArray[np.uint8],
    spacing_mm: float,
    center: Sequence[int],
    boxes: Sequence[FloatArray] = (),
) -> list[Panel]:
    """Sagittal, coronal and axial planes of a canonical block (z, y, x) through the voxel ``center``.

    ``boxes`` is a list of groups, each (n, 6): z0, y0, x0, z1, y1, x1 in voxels of the block. A fracture has
    a box in each slice, so a plane shows one box that encloses all boxes of a group that it crosses.
    """
    return [
        _block_panel(image, mask, axis, center[axis], spacing_mm, boxes)
        for axis in (_SAGITTAL, _CORONAL, _AXIAL)
    ]


def _block_panel(
    image: npt.NDArray[np.int16],
    mask: npt.NDArray[np.uint8] | None,
    axis: int,
    index: int,
    spacing_mm: float,
    boxes: Sequence[FloatArray] = (),
) -> Panel:
    """The plane of a canonical block at ``index`` of ``axis``: 0 axial, 1 coronal, 2 sagittal."""
    rows = slice(None, None, 1 if axis == _AXIAL else -1)  # +z is Superior, rows of a picture run down
    crossed = [group[(group[:, axis] <= index) & (index <= group[:, axis + 3])] for group in boxes]
    return Panel(
        title=_PLANE_NAMES[axis],
        image=np.take(image, index, axis)[rows],
        mask=None if mask is None else np.take(mask, index, axis)[rows],
        pixel_mm=(spacing_mm, spacing_mm),
        edges=("APRL", "SIRL", "SIAP")[axis],
        boxes=tuple(_enclosing_box(group, axis, image.shape) for group in crossed if len(group)),
    )


def _enclosing_box(boxes: FloatArray, axis: int, shape: tuple[int, ...]) -> PanelBox:
    """The box in a panel that encloses these boxes (n, 6) of a block."""
    low, high = boxes[:, :3].min(axis=0), boxes[:, 3:].max(axis=0)
    down, right = (k for k in range(3) if k != axis)
    top = low[down] if axis == _AXIAL else shape[down] - 1 - high[down]
    width, height = high[right] - low[right], high[down] - low[down]
    return PanelBox(float(low[right]), float(top), float(width), float(height))


def _slice_panel(volume: Volume, index: int, boxes: Sequence[FractureBox], mask: LabelMap | None) -> Panel:
    grid = volume.grid.slice_at(volume.slice_positions[index])
    number = int(_file_numbers(volume)[index])
    upright = _Orientation.upright(grid.axis_codes)
    rows_mm, columns_mm = grid.spacing_mm[1:].tolist()
    return Panel(
        title=f"slice {number}" if number >= 0 else f"index {index}",
        image=upright.plane(volume.voxels[index]),
        mask=None if mask is None else upright.plane(sample_labels(mask, grid)[0]),
        pixel_mm=(columns_mm, rows_mm) if upright.transposed else (rows_mm, columns_mm),
        edges=upright.edges,
        boxes=tuple(upright.box(box, grid.shape[1:]) for box in boxes if box.slice_number == number),
    )


@dataclass(frozen=True)
class _Orientation:
    """The steps that turn a stored slice upright: transpose, then reverse the rows, then the columns."""

    transposed: bool
    rows_reversed: bool
    columns_reversed: bool
    edges: str

    @classmethod
    def upright(cls, axis_codes: str) -> _Orientation:
        """The steps for slices of a grid with these axis codes (z, y, x)."""
        along_y, along_x = axis_codes[1], axis_codes[2]
        # Vertical axis of the picture: superior-inferior if the slice contains it, else anterior-posterior.
        transposed = along_x in "SI" or (along_x in "AP" and along_y not in "SI")
        down, across = (along_x, along_y) if transposed else (along_y, along_x)
        rows_reversed, columns_reversed = down not in "PI", across not in "LP"
        bottom = _OPPOSITE[down] if rows_reversed else down
        right = _OPPOSITE[across] if columns_reversed else across
        edges = _OPPOSITE[bottom] + bottom + _OPPOSITE[right] + right
        return cls(transposed, rows_reversed, columns_reversed, edges)

    def plane(self, stored: _Plane) -> _Plane:
        plane = stored.T if self.transposed else stored
        return plane[:: -1 if self.rows_reversed else 1, :: -1 if self.columns_reversed else 1]

    def box(self, box: FractureBox, stored_shape: Sequence[int]) -> PanelBox:
        x, y, width, height = box.x, box.y, box.width, box.height
        rows, columns = stored_shape
        if self.transposed:
            x, y, width, height, rows, columns = y, x, height, width, columns, rows
        return PanelBox(
            x=columns - 1 - x - width if self.columns_reversed else x,
            y=rows - 1 - y - height if self.rows_reversed else y,
            width=width,
            height=height,
        )


def _file_numbers(volume: Volume) -> npt.NDArray[np.int64]:
    if volume.file_numbers is None:
        return np.full(volume.grid.shape[0], -1, np.int64)
    return volume.file_numbers


def _head_to_foot(volume: Volume) -> npt.NDArray[np.int64]:
    order = np.arange(volume.grid.shape[0])
    step_to_superior = volume.grid.affine[2, 0]
    return order[::-1] if step_to_superior > 0 else order


def _position_of(number: int, volume: Volume, order: npt.NDArray[np.int64]) -> int:
    numbers = _file_numbers(volume)[order]
    positions = np.flatnonzero(numbers == number)
    if not positions.size:
        raise SourceNotFound(
            f"there is no slice {number}: file numbers run from {numbers.min()} to {numbers.max()}.",
            action="Give one of these numbers with --start.",
        )
    return int(positions[0])


def _densest_start(positions: npt.NDArray[np.int64]) -> int:
    """Start of the montage that contains most of these ascending positions, centred on those it contains."""
    counts = np.searchsorted(positions, positions + MONTAGE) - np.arange(len(positions))
    first = int(counts.argmax())
    last = int(positions[first + int(counts[first]) - 1])
    return (int(positions[first]) + last + 1 - MONTAGE) // 2


def _middle_position(volume: Volume, mask: LabelMap | None, order: npt.NDArray[np.int64]) -> int:
    if mask is None:
        return len(order) // 2
    index = int(np.rint(volume.grid.to_index(_mask_center(mask))[0]))
    return int(np.abs(order - index).argmin())


def _mask_center(mask: LabelMap) -> FloatArray:
    """LPS centroid of the labelled voxels; the centre of the grid if there are none."""
    regions = label_regions(mask).values()
    if not regions:
        return mask.grid.center_mm
    centroids = np.array([region.centroid_mm for region in regions])
    center: FloatArray = np.average(centroids, axis=0, weights=[region.voxel_count for region in regions])
    return center
