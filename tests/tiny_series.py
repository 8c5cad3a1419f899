"""A tiny series of known numbers, written by pydicom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset

Positions = list[tuple[float, float, float]]
HEAD_TO_FOOT: Positions = [(-10, 20, 100 - 2 * k) for k in range(4)]


def write_series(
    folder: Path,
    positions: Positions,
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    hu: int | None = None,
) -> Path:
    """Files 7.dcm, 8.dcm, ... of 3 rows and 5 columns.

    HU are 10 times the file number plus the column, or ``hu`` everywhere.
    """
    for number, position in enumerate(positions, 7):
        dataset = Dataset()
        dataset.file_meta = meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = f"1.2.3.{number}"
        meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        dataset.SeriesInstanceUID, dataset.Modality, dataset.ImageType = (
            "1.2.3",
            "CT",
            ["ORIGINAL", "PRIMARY"],
        )
        dataset.ImagePositionPatient = [round(value, 10) for value in position]
        dataset.ImageOrientationPatient = [round(value, 10) for value in orientation]
        dataset.PixelSpacing, dataset.SliceThickness, dataset.SpacingBetweenSlices = [0.5, 0.25], 3, 2
        dataset.Rows, dataset.Columns = 3, 5
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelRepresentation, dataset.PixelPaddingValue = 0, 4000
        dataset.RescaleIntercept, dataset.RescaleSlope = -1000, 1
        dataset.WindowCenter, dataset.WindowWidth = [40, 450], [350, 1500]
        pixels = np.tile(np.arange(5) + 10 * number + 1000, (3, 1))
        if hu is not None:
            pixels[...] = hu + 1000
        dataset.PixelData = pixels.astype("<u2").tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return folder
