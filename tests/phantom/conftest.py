"""One small phantom for all tests of this folder: eight studies, which include every common kind."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest

from spine_etl.phantom import PhantomStudy, write_phantom

SEED, STUDIES, SLICES, SIZE = 4, 8, 72, 112


@dataclass
class WrittenStudy:
    """A phantom study on disk, read with pydicom."""

    root: Path
    truth: PhantomStudy

    @property
    def files(self) -> list[Path]:
        folder = self.root / "train_images" / self.truth.uid
        return sorted(folder.glob("*.dcm"), key=lambda file: int(file.stem))

    @property
    def mask(self) -> Path:
        return self.root / "segmentations" / f"{self.truth.uid}.nii"

    @cached_property
    def datasets(self) -> list[pydicom.FileDataset]:
        return [pydicom.dcmread(file) for file in self.files]

    @cached_property
    def hu(self) -> npt.NDArray[np.float64]:
        """(files, rows, columns) in HU."""
        return np.stack(
            [ds.pixel_array * ds.RescaleSlope + float(ds.RescaleIntercept) for ds in self.datasets]
        )

    def to_mm(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """(n, 3): file, row and column to LPS mm, by PS3.3 C.7.6.2.1.1 from the headers only."""
        position = np.array([ds.ImagePositionPatient for ds in self.datasets], float)
        along_row, along_column = np.array(self.datasets[0].ImageOrientationPatient, float).reshape(2, 3)
        row_step, column_step = map(float, self.datasets[0].PixelSpacing)
        file, row, column = index.T
        return (
            position[file]
            + np.outer(column * column_step, along_row)
            + np.outer(row * row_step, along_column)
        )


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[WrittenStudy]:
    root = tmp_path_factory.mktemp("phantom") / "source"
    return [
        WrittenStudy(root, truth) for truth in write_phantom(root, STUDIES, SEED, slices=SLICES, size=SIZE)
    ]
