"""What lines of voxels through a label map show: scattered labels, ramps of interpolation, contacts."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from spine_etl.geometry import FloatArray, Grid
from spine_etl.jit import compiled, read_only
from spine_etl.volume import LabelMap

Bytes = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]

_LINE_VOXELS = 200_000  # visited along each axis
_RAMP_MM = 3.2  # the longest run that counts as thin; never more than 4 voxels


@dataclass(frozen=True)
class Structure:
    """Runs of equal labels along the three axes of a map.

    Attributes
    ----------
    run_mm, run_voxels
        Mean length of the runs of a label, along the axis where they are longest.
    ramps
        Along the axis where it is largest: of the borders between label and background, the share at which a
        thin run of a smaller number precedes the label, less the share with a thin run of a larger one. In a
        map that was drawn both are equally rare; interpolating label numbers makes only the first.
    contacts_mm2
        (256, 256), symmetric: area in which two labels touch.
    """

    run_mm: float
    run_voxels: float
    ramps: float
    contacts_mm2: FloatArray


def label_structure(label_map: LabelMap, low: Indices, high: Indices) -> Structure:
    """Measure lines through the index box ``low`` to ``high`` of a map, which contains all its labels."""
    box = label_map.labels[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))]
    spacing = label_map.grid.spacing_mm
    contacts = np.zeros((256, 256))
    runs, ramps = [], []
    for axis in range(3):
        lines, area = _lines(box, axis, spacing)
        counted = np.zeros((256, 256), np.int64)
        thin = max(1, min(4, int(_RAMP_MM / spacing[axis])))
        labelled, pieces, borders, up, down = _measure_lines(lines, thin, counted)
        runs.append(labelled / max(1, pieces))
        ramps.append((up - down) / max(1, borders))
        contacts += counted * area
    longest = int(np.argmax(np.array(runs) * spacing))
    return Structure(
        run_mm=float(runs[longest] * spacing[longest]),
        run_voxels=float(runs[longest]),
        ramps=float(max(ramps)),
        contacts_mm2=contacts + contacts.T,
    )


def _lines(box: Bytes, axis: int, spacing: FloatArray) -> tuple[Bytes, float]:
    """(lines, voxels): evenly chosen lines along an axis, and the area in mm2 that each represents."""
    across = [k for k in range(3) if k != axis]
    step = ceil(np.sqrt(max(1.0, box.size / _LINE_VOXELS)))
    part: list[slice] = [slice(None)] * 3
    for k in across:
        part[k] = slice(None, None, step)
    lines = read_only(np.moveaxis(box[tuple(part)], axis, 2)).reshape(-1, box.shape[axis])
    return lines, float(np.prod(spacing[across])) * step * step


def warm_up() -> None:
    """Compile the kernel, or load it from numba's cache."""
    label_map = LabelMap(np.ones((1, 1, 1), np.uint8), Grid((1, 1, 1), np.eye(4)))
    label_structure(label_map, np.zeros(3, np.int64), np.zeros(3, np.int64))


@compiled
def _measure_lines(lines: Bytes, thin: int, contacts: Indices) -> tuple[int, int, int, int, int]:
    """Labelled voxels, runs of a label, borders with background, thin runs on an upward and a downward step.

    A line begins and ends at the background. A thin run counts if background is on one side of it and another
    label on the other: upward if that label's number is larger. ``contacts`` (256, 256) is filled with the
    number of places where the second label follows the first.
    """
    labelled = pieces = borders = up = down = 0
    for n in range(lines.shape[0]):
        line = lines[n]
        before = 0
        start = 0
        while start < line.size:
            label = line[start]
            end = start + 1
            while end < line.size and line[end] == label:
                end += 1
            if label > 0:
                after = int(line[end]) if end < line.size else 0
                labelled += end - start
                pieces += 1
                borders += int(before == 0) + int(after == 0)
                if before > 0:
                    contacts[before, label] += 1
                if end - start <= thin and (before == 0) != (after == 0):
                    if max(before, after) > label:
                        up += 1
                    else:
                        down += 1
            before = label
            start = end
    return labelled, pieces, borders, up, down
