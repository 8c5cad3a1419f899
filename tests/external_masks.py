"""Write a phantom's segmentation as other tools do: renumbered, as class files, or as DICOM."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from spine_etl.recipe import load_recipe
from spine_etl.source.label_names import LabelNames

RECIPE = load_recipe("quick")
LEVELS = {number: level for level, number in {**RECIPE.levels, **RECIPE.other_labels}.items()}
"""The phantom's label numbers, which are those of the recipe."""


def phantom_masks(source: Path) -> dict[str, Path]:
    """The segmentations of a source by UID."""
    return {path.name.removesuffix(".nii"): path for path in sorted((source / "segmentations").iterdir())}


def load(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    image = nib.load(path)
    return np.asarray(image.dataobj).astype(np.uint8), image.affine


def save(path: Path, labels: npt.NDArray[np.uint8], affine: npt.NDArray[np.float64]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, affine), path)


def renumber(labels: npt.NDArray[np.uint8], numbers: Mapping[str, int]) -> npt.NDArray[np.uint8]:
    """The phantom's labels with other numbers; those without one become background."""
    table = np.zeros(256, np.uint8)
    for own, level in LEVELS.items():
        table[own] = numbers.get(level, 0)
    return table[labels]


def write_multi_label(mask: Path, out: Path, names: LabelNames) -> None:
    labels, affine = load(mask)
    save(out, renumber(labels, names.labels), affine)


def write_classes(mask: Path, out: Path, pattern: str = "vertebrae_{}.nii.gz") -> None:
    """One binary file for every vertebra from C1 to T12; those that are not in the scan are empty."""
    labels, affine = load(mask)
    for number, level in LEVELS.items():
        save(out / pattern.format(level), (labels == number).astype(np.uint8), affine)


def ct_datasets(folder: Path) -> list[pydicom.Dataset]:
    """The slices of a phantom study from foot to head, with the attributes that a segmentation refers to."""
    slices = [pydicom.dcmread(path) for path in folder.iterdir()]
    for dataset in slices:
        dataset.SOPClassUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.2", "CT"
        dataset.FrameOfReferenceUID, dataset.SeriesNumber = f"{dataset.StudyInstanceUID}.9", 1
        dataset.PatientName = "Phantom^Phantom"
        for keyword in ("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName"):
            setattr(dataset, keyword, None)
        for keyword in ("PatientBirthDate", "PatientSex"):
            setattr(dataset, keyword, None)
    return sorted(slices, key=lambda dataset: float(dataset.ImagePositionPatient[2]))


def coded(level: str, number: int) -> tuple[str, object]:
    """A segment with the SNOMED code of its vertebra, and a label without meaning."""
    return f"segment {number}", getattr(codes.SCT, f"{level}Vertebra")


def labelled(level: str, number: int) -> tuple[str, object]:
    """A segment with a general code, and the vertebra in its label."""
    return f"vertebrae_{level}", codes.SCT.Bone


def write_dicom_seg(
    folder: Path,
    labels: npt.NDArray[np.uint8],
    out: Path,
    *,
    kind: str = "BINARY",
    describe: Callable[[str, int], tuple[str, object]] = coded,
    numbers: Mapping[str, int] | None = None,
    overlap: bool = False,
) -> None:
    """Write a DICOM segmentation of a study.

    ``labels`` are the phantom's, (z, y, x) from foot to head on the CT's own voxels. ``describe`` gives the
    label and the code of a level's segment; ``numbers`` its SegmentNumber in a label map.
    """
    import highdicom as hd

    present = [int(label) for label in np.unique(labels) if label]
    chosen = {label: index for index, label in enumerate(present, 1)}
    if numbers:
        chosen = {label: numbers[LEVELS[label]] for label in present}
    descriptions = []
    for label, number in sorted(chosen.items(), key=lambda item: item[1]):
        text, code = describe(LEVELS[label], number)
        descriptions.append(
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=text,
                segmented_property_category=codes.SCT.AnatomicalStructure,
                segmented_property_type=code,
                algorithm_type="MANUAL",
            )
        )
    pixels = np.zeros(labels.shape, np.uint8)
    for label, number in chosen.items():
        pixels[labels == label] = number
    if overlap:  # one segment per channel, the second with a slab of the first
        pixels = np.stack([pixels == number for number in chosen.values()], axis=-1).astype(np.uint8)
        pixels[..., 1] |= pixels[..., 0]
    out.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hd.seg.Segmentation(
            source_images=ct_datasets(folder),
            pixel_array=pixels,
            segmentation_type=kind,
            segment_descriptions=descriptions,
            series_instance_uid=generate_uid(),
            series_number=2,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="spine-etl",
            manufacturer_model_name="tests",
            software_versions="1",
            device_serial_number="1",
        ).save_as(out)
