"""NIfTI files: read segmentations, write volumes. RAS, the frame of NIfTI, is converted to LPS only here.

A file is opened once, read to its end and hashed; a ``.nii.gz`` must end with its checksum. Of the two
transforms in a header (NIfTI-1, section "3D image orientation and location in space") the sform is used if
set, else the qform. If both are set and map a corner of the image more than 0.1 mm apart, one of them puts
every label in the wrong position and nothing shows which, so the file is refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import igzip
from isal.igzip_lib import IsalError
from nibabel.spatialimages import HeaderDataError

from spine_etl.errors import (
    GeometryInvalid,
    LabelUnknown,
    MaskUnreadable,
    SourceError,
    SourceNotFound,
    SpineError,
)
from spine_etl.geometry import FloatArray, Grid
from spine_etl.source.digest import HashingReader
from spine_etl.source.files import FileOrPath, MemoryContent, as_file, unchanged_while_reading
from spine_etl.volume import LabelMap, Volume

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_REVERSED = np.eye(4)[[2, 1, 0, 3]]  # index (z, y, x) to (i, j, k): a transposed array

_HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}  # by their first field, sizeof_hdr
_MM_PER_UNIT = {"unknown": 1.0, "meter": 1000.0, "mm": 1.0, "micron": 0.001}
_MAX_CORNER_DISTANCE_MM = 0.1
_LABEL_TABLE_ENTRY = re.compile(
    rb"""<Label\s[^>]{0,300}?\bKey=["'](\d{1,9})["'][^>]{0,300}>\s{0,9}(?:<!\[CDATA\[)?([^<\]]{1,64})"""
)
_MAX_FRACTION = 1e-4  # float32 scaling leaves a label of 255 within 2e-5 of an integer
_MAX_QUANTUM = 0.5  # with a coarser scl_slope a fraction could be taken for the label beside it


def read_label_map(path: FileOrPath) -> LabelMap:
    """Read a segmentation from ``.nii`` or ``.nii.gz``, in any axis order and any real voxel type.

    The labels are the file's (i, j, k) array transposed to (k, j, i), without flips: `LabelMap.grid` maps
    each voxel to LPS.

    Raises
    ------
    SourceNotFound
        If the file does not exist.
    SourceChanged, SourceUnreachable
        If it changes while it is read, or its archive or bucket cannot be reached.
    MaskUnreadable
        If the file is truncated or damaged, is not a single-file 3D NIfTI, contains values that are not
        integers, or has no usable affine.
    LabelUnknown
        If it contains an integer outside 0 to 255.
    """
    file = as_file(path)
    try:
        with unchanged_while_reading(file), file.open() as content:
            return _read(HashingReader(content, file.listed_digest), file.name)
    except SourceError:
        raise
    except FileNotFoundError as error:
        raise SourceNotFound(f"{file.name} does not exist.") from error
    except OSError as error:
        raise MaskUnreadable(f"{file.name} cannot be read: {error.strerror}.") from error


def write_volume(path: str | Path, volume: Volume) -> None:
    """Write HU as ``.nii`` or ``.nii.gz``, in the volume's own axis order and type.

    The sform contains the geometry. So does the qform, unless the volume is sheared, which it cannot express.

    Raises
    ------
    GeometryInvalid
        If the slices are uneven, which NIfTI cannot express.
    SpineError
        If the name has another suffix, or the file cannot be written.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise SpineError(
            f"{path.name} is not the name of a NIfTI file.", action="End it with .nii or .nii.gz."
        )
    if volume.slice_coordinates is not None:
        raise GeometryInvalid(
            f"{path.name} cannot contain unevenly spaced slices.",
            action="Resample it first: --isotropic MM does, or spine_etl.resample.resample_isotropic.",
        )
    affine = _RAS_TO_LPS @ volume.grid.affine @ _REVERSED
    image = nib.Nifti1Image(volume.voxels.T, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=0 if _sheared(affine) else 1)
    try:
        nib.save(image, path)
    except OSError as error:
        raise SpineError(
            f"{path.name} cannot be written: {error.strerror}.",
            action="Free some space or fix the permissions.",
        ) from error


def _read(file: HashingReader, name: str) -> LabelMap:
    content, size = _decompress(file, name) if name.lower().endswith(".gz") else (file, file.size)
    header = _header(content, name)
    shape, stored = _layout(header, size, name)
    extensions = content.read(int(header.get_data_offset()) - header.sizeof_hdr)
    grid, scaling = _grid(header, shape, name), _scaling(header, name)
    labels = _labels(content, shape, stored, scaling, name)
    file.read()  # what follows the voxels belongs to the digest
    return LabelMap(labels, grid, file.digest, _label_names(extensions))


def _label_names(extensions: bytes) -> dict[int, str]:
    """Names of the labels in a header extension, in the form of Connectome Workbench and TotalSegmentator."""
    if b"<LabelTable" not in extensions:
        return {}
    # Not parsed as XML: the file may be hostile, and only these two values are needed.
    entries = _LABEL_TABLE_ENTRY.findall(extensions)
    return {int(number): name.decode("utf-8", "replace") for number, name in entries}


def _decompress(file: HashingReader, name: str) -> tuple[HashingReader, int]:
    """The content of a gzip file, and its length in bytes."""
    try:
        content = igzip.decompress(file.read())  # to the end of the stream: verifies checksum and length
    except (OSError, EOFError, IsalError) as error:  # type: ignore[misc]  # its stub calls IsalError a value
        raise MaskUnreadable(f"{name} is truncated or damaged: its gzip stream is invalid.") from error
    return HashingReader(MemoryContent(content)), len(content)


def _header(content: HashingReader, name: str) -> Any:
    """The header, with its size, shape and offset checked."""
    first = content.read(4)
    sizes = [int.from_bytes(first, order) for order in ("little", "big")]
    size = next((size for size in sizes if size in _HEADERS), None)
    block = first + content.read(size - len(first)) if size else first
    if size is None or len(block) < size:
        raise MaskUnreadable(f"{name} does not start with a NIfTI header.")
    try:
        header = _HEADERS[size](block)
        offset, _ = int(header.get_data_offset()), header.get_data_shape()
    except (HeaderDataError, ValueError, OverflowError) as error:
        raise MaskUnreadable(f"{name} has a damaged NIfTI header.") from error
    if not header["magic"].item().startswith(b"n+"):
        raise MaskUnreadable(f"{name} is half of an .hdr/.img pair; a single .nii or .nii.gz is needed.")
    if offset < size:
        raise MaskUnreadable(f"{name} has a vox_offset inside its header.")
    return header


def _layout(header: Any, size: int, name: str) -> tuple[tuple[int, int, int], np.dtype[Any]]:
    """Shape (k, j, i) and type of the stored voxels, which must fit into the ``size`` bytes of the file."""
    shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), header.get_data_offset()
    if len(shape) < 3 or min(shape) < 1 or any(n != 1 for n in shape[3:]):
        raise MaskUnreadable(f"{name} has the shape {tuple(map(int, shape))}; a label map has three axes.")
    if dtype.kind not in "iuf":
        raise MaskUnreadable(f"{name} has the unsupported label type {dtype}.")
    i, j, k = map(int, shape[:3])
    needed = offset + i * j * k * dtype.itemsize
    if size < needed:
        raise MaskUnreadable(f"{name} is truncated: {size} of {needed} bytes.")
    return (k, j, i), dtype


def _scaling(header: Any, name: str) -> tuple[float, float] | None:
    """Slope and intercept, or None if the stored values are the labels."""
    try:
        slope, intercept = header.get_slope_inter()
        if np.isinf(float(header["scl_slope"])):  # nibabel treats it like NaN, as no scaling
            raise HeaderDataError("scl_slope is infinite")
    except HeaderDataError as error:
        raise MaskUnreadable(f"{name} has an scl_slope or scl_inter that is not a number.") from error
    return None if slope is None or (slope, intercept) == (1.0, 0.0) else (slope, intercept)


def _labels(
    content: HashingReader,
    shape: tuple[int, int, int],
    stored: np.dtype[Any],
    scaling: tuple[float, float] | None,
    name: str,
) -> npt.NDArray[np.uint8]:
    labels = np.empty(shape, np.uint8)
    values = np.empty(shape[1:], stored)
    # Plane by plane: float64 voxels take eight times the memory of labels, and their rounding twice that.
    for plane in labels:
        if content.read_into(values.reshape(-1).view(np.uint8).data) < values.nbytes:
            raise MaskUnreadable(f"{name} is truncated in its voxels.")
        plane[...] = _integer_labels(values, scaling, name)
    return labels


def _integer_labels(
    values: npt.NDArray[Any], scaling: tuple[float, float] | None, name: str
) -> npt.NDArray[Any]:
    """The scaled values, checked to be integers from 0 to 255, in their own type or float64."""
    tolerance = 0.0
    if scaling is not None:
        tolerance = _tolerance(values.dtype, scaling[0])
        values = values.astype(np.float64) * scaling[0] + scaling[1]
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise MaskUnreadable(f"{name} contains values that are not finite.")
        exact, values = values, np.rint(values)
        fraction = np.abs(exact - values)
        if fraction.max() > tolerance:
            value = exact.flat[fraction.argmax()]
            raise MaskUnreadable(f"{name} contains {value:g}, which is not an integer label.")
    beyond = [value for value in (values.min(), values.max()) if not 0 <= value <= 255]
    if beyond:
        raise LabelUnknown(
            f"{name} contains the label {beyond[0]:g}.", action="Renumber the labels to 0 to 255."
        )
    return values


def _tolerance(stored: np.dtype[Any], slope: float) -> float:
    """How far a scaled value may be from its label.

    A tool that writes float labels as integers rounds them to multiples of scl_slope, one of which is within
    half a slope of each label.
    """
    if stored.kind == "f" or abs(slope) >= _MAX_QUANTUM:
        return _MAX_FRACTION
    return abs(slope) / 2 + _MAX_FRACTION


def _qform_rounding(header: Any) -> float:
    """Largest angle in radians by which rounding turns the axes of a qform.

    Three parts of the quaternion are stored, and the fourth is the root of 1 minus their squares. Near half a
    turn, such as from LPS to RAS, that is almost the root of their rounding error.
    """
    parts = np.array([header[f"quatern_{axis}"] for axis in "bcd"])
    error = float(np.finfo(parts.dtype).eps)
    square = max(1 - float(np.square(parts, dtype=float).sum()), 0.0)
    lowest, highest = np.sqrt([max(square - error, 0.0), square + error])
    read = 0.0 if square < 3 * error else square**0.5  # nibabel's rule
    return 2 * float(max(highest - read, read - lowest))


def _grid(header: Any, shape: tuple[int, ...], name: str) -> Grid:
    try:
        coded = [header.get_sform(coded=True), header.get_qform(coded=True)]
        grids = [_grid_from_affine(affine, header, shape) for affine, code in coded if code]
    except (HeaderDataError, ValueError, KeyError) as error:
        raise MaskUnreadable(f"{name} has an invalid sform or qform.") from error
    if not grids:
        raise MaskUnreadable(f"{name} has no affine: sform_code and qform_code are both 0.")
    corners = grids[0].corners_mm()
    distance = np.linalg.norm(corners - grids[-1].corners_mm(), axis=1).max()
    diagonal = float(np.linalg.norm(np.ptp(corners, axis=0)))
    if distance > _MAX_CORNER_DISTANCE_MM + _qform_rounding(header) * diagonal:
        raise MaskUnreadable(
            f"{name} has a qform and an sform that are {distance:.1f} mm apart.",
            action="Set the code of the wrong one to 0, or make both equal.",
        )
    return grids[0]


def _grid_from_affine(affine: FloatArray, header: Any, shape: tuple[int, ...]) -> Grid:
    to_mm = np.diag([_MM_PER_UNIT[header.get_xyzt_units()[0]]] * 3 + [1.0])
    z, y, x = shape
    return Grid((z, y, x), _RAS_TO_LPS @ to_mm @ affine @ _REVERSED)


def _sheared(affine: FloatArray) -> bool:
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(directions.T @ directions - np.eye(3)).max() > 1e-6)
