"""What passes between the stages: frozen values, each an array with the `Grid` that places it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from spine_etl.geometry import FloatArray, Grid

AIR_HU = -1024
"""What lies outside the field of view, and the floor of every HU value."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT volume in Hounsfield units.

    Parameters
    ----------
    voxels
        (z, y, x), int16 where every value is whole (slope 1), else float32; HU, never below `AIR_HU`.
    grid
        Where the voxels lie. With uneven slices this is the even lattice from the first slice to the last.
    slice_coordinates
        (z,) strictly rising from 0 to shape[0] - 1: the grid's z index at which each stored slice really
        lies; None where the slices are even.
    warnings
        What was tolerated while reading, one sentence each, no patient data.
    facts
        Small facts for the study's record (transfer syntax, slices dropped, decoder used, ...).
    file_numbers
        (z,) the number in each slice's file name, -1 where it has none: RSNA's ``slice_number``.
    source_digest
        Digest of the files that were read (`spine_etl.source.digest`), empty where there were none.
    """

    voxels: npt.NDArray[np.int16] | npt.NDArray[np.float32]
    grid: Grid
    slice_coordinates: FloatArray | None = None
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    file_numbers: npt.NDArray[np.int64] | None = None
    source_digest: str = ""


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A segmentation: one unsigned label per voxel, 0 for background, on a grid of its own.

    ``labels`` is (z, y, x), uint8; the axes need not be those of the patient nor of the CT.
    ``source_digest`` is the digest of the file (`spine_etl.source.digest`), empty where there was none.
    """

    labels: npt.NDArray[np.uint8]
    grid: Grid
    source_digest: str = ""


@dataclass(frozen=True, eq=False)
class VertebraCrop:
    """One vertebra on its isotropic canonical grid.

    ``image`` int16 HU and ``mask`` uint8 source labels share the grid's shape (z, y, x). ``coverage`` is
    the share of the crop's voxels whose centres lie inside the CT's field of view, 0 to 1; the rest is air.
    """

    level: str
    image: npt.NDArray[np.int16]
    mask: npt.NDArray[np.uint8]
    grid: Grid
    coverage: float


@dataclass(frozen=True, slots=True)
class FractureBox:
    """A fracture marked in one source slice.

    ``x`` (column) and ``y`` (row) are the upper-left corner in pixels, pixel centres at whole numbers;
    ``slice_number`` is the number in the name of the DICOM file.
    """

    x: float
    y: float
    width: float
    height: float
    slice_number: int
