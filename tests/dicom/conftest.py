"""A writer of tiny series, by pydicom."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag

ROWS, COLUMNS = 16, 12
BIG_ENDIAN = "1.2.840.10008.1.2.2"


class SeriesWriter:
    """Writes slices with the attributes of the RSNA 2022 headers and no others, 1 mm apart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def stored(self, seed: int = 0, high: int = 4096) -> npt.NDArray[np.uint16]:
        return np.random.default_rng(seed).integers(0, high, (ROWS, COLUMNS)).astype(np.uint16)

    def add(
        self,
        name: str,
        pixels: npt.NDArray[Any] | bytes | None = None,
        *,
        z: float = 0.0,
        syntax: str = "1.2.840.10008.1.2.1",
        without: str = "",
        raw: Mapping[str, bytes] | None = None,
        **attributes: Any,
    ) -> Path:
        """Write one file; ``raw`` gives values byte by byte, ``attributes`` replaces or adds."""
        dataset = self._dataset(self.stored() if pixels is None else pixels, z, syntax)
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        for keyword, content in (raw or {}).items():
            self._set_raw(dataset, keyword, content, syntax)
        if without:
            delattr(dataset, without)
        path = self.folder / name
        dataset.save_as(path, enforce_file_format=True)
        return path

    def add_many(self, count: int, **attributes: Any) -> list[Path]:
        """1.dcm, 2.dcm, ... from head to foot, each with pixels of its own."""
        return [self.add(f"{i + 1}.dcm", self.stored(i), z=-float(i), **attributes) for i in range(count)]

    @staticmethod
    def _set_raw(dataset: Dataset, keyword: str, content: bytes, syntax: str) -> None:
        tag, vr = Tag(keyword), dataset[keyword].VR if keyword in dataset else "DS"
        value = content + b" " * (len(content) % 2)
        implicit = syntax == "1.2.840.10008.1.2"
        dataset[tag] = RawDataElement(tag, vr, len(value), value, 0, implicit, syntax != BIG_ENDIAN, True)

    @staticmethod
    def _dataset(pixels: npt.NDArray[Any] | bytes, z: float, syntax: str) -> Dataset:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.SOPInstanceUID = "1.2.3.4"
        dataset.SliceThickness = "3"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.1"
        dataset.InstanceNumber = "1"
        dataset.ImagePositionPatient = [-10, -20, z]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Rows, dataset.Columns = ROWS, COLUMNS
        dataset.PixelSpacing = [0.5, 0.25]
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelRepresentation = 0
        dataset.WindowCenter, dataset.WindowWidth = ["450", "40"], ["1500", "350"]
        dataset.RescaleIntercept, dataset.RescaleSlope = "-1024", "1"
        if isinstance(pixels, bytes):
            dataset.PixelData = pixels
            dataset["PixelData"].VR = "OB"
        else:
            dataset.Rows, dataset.Columns = pixels.shape
            order = ">" if syntax == BIG_ENDIAN else "<"
            dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
            dataset["PixelData"].VR = "OW"
        return dataset


@pytest.fixture
def series(tmp_path: Path) -> SeriesWriter:
    folder = tmp_path / "series"
    folder.mkdir()
    return SeriesWriter(folder)
