"""Studies on disk: the slices of a `Case` as DICOM files and a mask as NIfTI."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

from spine_etl.errors import SpineError
from spine_etl.phantom.files import write_slice
from spine_etl.pipeline import crop_study
from spine_etl.recipe import Recipe, load_recipe
from spine_etl.source.files import open_source
from spine_etl.source.files.local import LocalFile
from spine_etl.source.layout import Study
from tests.faults.necks import Array, Case

_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_REVERSED = np.eye(4)[[2, 1, 0, 3]]

RECIPE = load_recipe("quick").model_copy(
    update={
        "crop": load_recipe("quick").crop.model_copy(update={"spacing_mm": 4.0, "shape": (16, 24, 24)}),
        "overview": load_recipe("quick").overview.model_copy(
            update={"spacing_mm": 8.0, "shape": (48, 32, 32)}
        ),
    }
)


@dataclass(frozen=True, eq=False)
class Mask:
    """Labels of any type (slice, row, column), and the affine from that index to LPS mm."""

    labels: npt.NDArray[np.generic]
    affine: Array

    def __post_init__(self) -> None:
        assert self.affine.shape == (4, 4)


def mask_of(one: Case, labels: npt.NDArray[np.generic] | None = None) -> Mask:
    """Labels on the CT's own lattice, by default the true ones."""
    return Mask(one.labels if labels is None else labels, one.affine)


def write_mask(path: Path, mask: Mask, slope: float = 1.0) -> Path:
    """Write a mask with nibabel, (i, j, k) being (column, row, slice)."""
    image = nib.Nifti1Image(mask.labels.T, _RAS @ mask.affine @ _REVERSED)
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=0)
    nib.save(image, path)
    return path


class Folder:
    """Writes each CT once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._written: dict[int, tuple[Case, Path]] = {}
        self._masks = 0

    def study(self, one: Case, mask: Mask) -> Study:
        if id(one) not in self._written:
            folder = self._root / f"ct{len(self._written)}"
            folder.mkdir(parents=True)
            for k, plane in enumerate(one.hu):
                write_slice(folder / f"{k + 1}.dcm", "1.2.3", one.scan, k, plane)
            self._written[id(one)] = (one, folder)
        self._masks += 1
        path = write_mask(self._root / f"mask{self._masks}.nii", mask)
        return Study("1.2.3", open_source(self._written[id(one)][1]), LocalFile(str(path)))


def outcome(study: Study, recipe: Recipe = RECIPE) -> tuple[str, tuple[str, ...], str]:
    """Code of the refusal or an empty string, codes of the warnings, and their texts."""
    try:
        record = crop_study(study, recipe).record
    except SpineError as error:
        return error.code, (), error.reason
    return "", tuple(w.code for w in record.warnings), " ".join(w.text for w in record.warnings)
