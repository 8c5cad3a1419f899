"""Write a study in the format of RSNA 2022: DICOM slices, NIfTI segmentation, CSV tables.

The DICOM files have exactly the attributes of the real ones: no Modality, no SOPClassUID, no PatientPosition,
and no group length in the file meta information.
"""

from __future__ import annotations

import csv
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import imagecodecs
import nibabel as nib
import numpy as np
import numpy.typing as npt
from pydicom.encaps import encapsulate

from spine_etl.geometry import FloatArray
from spine_etl.phantom.scanner import IMPLICIT, JPEG_LOSSLESS, Scan

Pixels = npt.NDArray[np.uint16] | npt.NDArray[np.int16]


def _element(tag: int, vr: str, value: bytes, implicit: bool = False) -> bytes:
    """One data element (PS3.5 7.1), padded to an even length."""
    if len(value) % 2:
        value += b"\0" if vr in ("UI", "OB") else b" "
    tag_bytes = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if implicit:
        return tag_bytes + struct.pack("<I", len(value)) + value
    if vr in ("OB", "OW"):
        return tag_bytes + vr.encode() + struct.pack("<HI", 0, len(value)) + value
    return tag_bytes + vr.encode() + struct.pack("<H", len(value)) + value


def _file_meta(instance_uid: str, transfer_syntax: str) -> bytes:
    elements = [
        (0x00020001, "OB", b"\0\1"),
        (0x00020002, "UI", b"1.2.840.10008.5.1.4.1.1.2"),  # CT Image Storage
        (0x00020003, "UI", instance_uid.encode()),
        (0x00020010, "UI", transfer_syntax.encode()),
        (0x00020012, "UI", b"1.2.40.0.13.1.1.1"),
        (0x00020013, "SH", b"PYDICOM 2.3.0"),
    ]
    return b"".join(_element(*element) for element in elements)


def _header(uid: str, scan: Scan, index: int) -> list[tuple[int, str, str | int]]:
    """Tag, VR and value (a string, or an integer if the VR is US) of the attributes before PixelData."""
    number, pixels = scan.first_file + index, scan.pixels
    study = uid.rsplit(".", 1)[1]
    return [
        (0x00080018, "UI", f"{uid}.1.{number}"),  # SOPInstanceUID
        (0x00080023, "DA", "20220727"),  # ContentDate
        (0x00080033, "TM", "180000.000000"),  # ContentTime
        (0x00100010, "PN", study),
        (0x00100020, "LO", study),
        (0x00180050, "DS", scan.thickness_string),  # SliceThickness
        (0x0020000D, "UI", uid),  # StudyInstanceUID
        (0x0020000E, "UI", f"{uid}.1"),  # SeriesInstanceUID
        (0x00200013, "IS", str(number)),  # InstanceNumber
        (0x00200032, "DS", "\\".join(scan.position_strings[index])),  # ImagePositionPatient
        (0x00200037, "DS", "\\".join(scan.orientation_strings)),  # ImageOrientationPatient
        (0x00280002, "US", 1),  # SamplesPerPixel
        (0x00280004, "CS", "MONOCHROME2"),
        (0x00280010, "US", scan.size),  # Rows
        (0x00280011, "US", scan.size),  # Columns
        (0x00280030, "DS", f"{scan.spacing_string}\\{scan.spacing_string}"),  # PixelSpacing
        (0x00280100, "US", 16),  # BitsAllocated
        (0x00280101, "US", pixels.bits_stored),
        (0x00280102, "US", pixels.bits_stored - 1),  # HighBit
        (0x00280103, "US", int(pixels.signed)),  # PixelRepresentation
        (0x00281050, "DS", "\\".join(scan.windows[0])),  # WindowCenter
        (0x00281051, "DS", "\\".join(scan.windows[1])),  # WindowWidth
        (0x00281052, "DS", f"{pixels.intercept}.0"),  # RescaleIntercept
        (0x00281053, "DS", "1.0"),  # RescaleSlope
    ]


def _pixel_data(scan: Scan, pixels: Pixels) -> bytes:
    """PixelData, raw or as JPEG Lossless, Process 14, Selection Value 1 (ITU-T T.81 annex H; PS3.5 A.4)."""
    if scan.transfer_syntax != JPEG_LOSSLESS:
        raw = pixels.astype("<u2", copy=False).tobytes()
        return _element(0x7FE00010, "OW", raw, scan.transfer_syntax == IMPLICIT)
    bits = scan.pixels.bits_stored
    stream = imagecodecs.jpeg8_encode(pixels.view(np.uint16), lossless=True, predictor=1, bitspersample=bits)
    tag_bytes = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
    items: bytes = encapsulate([stream])
    return tag_bytes + items + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)  # Sequence Delimitation Item


def write_slice(path: Path, uid: str, scan: Scan, index: int, pixels: Pixels) -> None:
    """Write the slice at ``index`` in file order; ``pixels`` (rows, columns) are its stored values."""
    implicit = scan.transfer_syntax == IMPLICIT
    elements = [
        _element(tag, vr, struct.pack("<H", value) if isinstance(value, int) else value.encode(), implicit)
        for tag, vr, value in _header(uid, scan, index)
    ]
    meta = _file_meta(f"{uid}.1.{scan.first_file + index}", scan.transfer_syntax)
    path.write_bytes(b"".join([b"\0" * 128, b"DICM", meta, *elements, _pixel_data(scan, pixels)]))


def mask_affine(scan: Scan) -> FloatArray:
    """(4, 4): NIfTI voxel (i, j, k) to RAS mm; i along a row, j up a column, k from foot to head.

    Pixel (row, column) of the k-th slice from the foot is voxel (column, rows - 1 - row, k).
    """
    foot, head = scan.positions_mm[[0, -1]] if scan.foot_to_head else scan.positions_mm[[-1, 0]]
    lps = np.eye(4)
    lps[:3, 0] = scan.along_row * scan.pixel_spacing_mm
    lps[:3, 1] = -scan.along_column * scan.pixel_spacing_mm
    lps[:3, 2] = (head - foot) / (len(scan.positions_mm) - 1)
    lps[:3, 3] = foot - lps[:3, 1] * (scan.size - 1)
    affine: FloatArray = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
    return affine


def write_mask(path: Path, scan: Scan, labels: npt.NDArray[np.uint16]) -> None:
    """Write labels (file order, row, column) as an uncompressed uint16 NIfTI-1, axcodes LAS."""
    ascending = labels if scan.foot_to_head else labels[::-1]
    voxels = ascending[:, ::-1].transpose(2, 1, 0)
    image = nib.Nifti1Image(voxels, mask_affine(scan))
    image.set_qform(image.affine, code=2)
    image.set_sform(image.affine, code=1)
    header = image.header
    header.set_xyzt_units("mm")
    header["regular"] = b"r"
    header["pixdim"][4:] = 0
    nib.save(image, path)


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file with Unix line endings."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
