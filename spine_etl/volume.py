"""The types that the stages exchange: frozen values, each an array and its `Grid`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from spine_etl.errors import StudyWarning
from spine_etl.geometry import FloatArray, Grid

AIR_HU = -1024
"""HU outside the field of view, and the lower limit of all HU values."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT volume in Hounsfield units.

    Parameters
    ----------
    voxels
        (z, y, x), HU, never below `AIR_HU`; int16 if every value is a whole number (slope 1), else float32.
    grid
        Positions of the voxels. With uneven slices this is the even lattice from the first to the last slice.
    slice_coordinates
        (z,) strictly rising from 0 to shape[0] - 1: the real position of each stored slice, as a z index of
        the grid. None if the slices are even.
    warnings
        Irregularities tolerated while reading.
    facts
        Small facts for the study's record (transfer syntax, slices dropped, decoder used, ...).
    file_numbers
        (z,) the number in each slice's file name, -1 if there is none: RSNA's ``slice_number``.
    source_digest
        Digest of the files that were read (`spine_etl.source.digest`), empty if there were none.
    """

    voxels: npt.NDArray[np.int16] | npt.NDArray[np.float32]
    grid: Grid
    slice_coordinates: FloatArray | None = None
    warnings: tuple[StudyWarning, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    file_numbers: npt.NDArray[np.int64] | None = None
    source_digest: str = ""

    @property
    def slice_positions(self) -> FloatArray:
        """(z,): the position of each slice as a z index of the grid; 0, 1, 2, ... if they are even."""
        if self.slice_coordinates is None:
            return np.arange(self.voxels.shape[0], dtype=np.float64)
        return self.slice_coordinates

    def slice_bounds(self, slice_index: int) -> tuple[float, float]:
        """The z indices of the grid halfway to the slices before and after.

        The first and the last slice extend as far outwards as inwards; a single slice is one step thick.
        """
        neighbours = self.slice_positions[max(slice_index - 1, 0) : slice_index + 2]
        steps = np.diff(neighbours) if len(neighbours) > 1 else np.ones(1)
        position = float(self.slice_positions[slice_index])
        return position - float(steps[0]) / 2, position + float(steps[-1]) / 2


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A segmentation: one unsigned label per voxel, 0 for background, on a grid of its own.

    ``labels`` is uint8 (z, y, x); its axes may differ from those of the patient and of the CT.
    ``source_digest`` is the digest of the file (`spine_etl.source.digest`) or of the localizer that predicted
    the labels, empty if there is neither. ``label_names`` are the names that the file itself
    gives its labels; ``warnings`` are irregularities tolerated while reading.
    """

    labels: npt.NDArray[np.uint8]
    grid: Grid
    source_digest: str = ""
    label_names: Mapping[int, str] = field(default_factory=dict)
    warnings: tuple[StudyWarning, ...] = ()


@dataclass(frozen=True, slots=True)
class FractureBox:
    """A fracture marked in one source slice.

    ``x`` (column) and ``y`` (row) are the upper-left corner in pixels, with pixel centres at whole numbers;
    ``slice_number`` is the number in the name of the DICOM file.
    """

    x: float
    y: float
    width: float
    height: float
    slice_number: int
