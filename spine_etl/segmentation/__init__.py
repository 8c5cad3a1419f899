"""Segmentations: the regions of their labels, their vertebrae, and checks of the labels against the CT."""

from __future__ import annotations

from spine_etl.segmentation import bone, components, structure, translation
from spine_etl.segmentation.alignment import check_alignment
from spine_etl.segmentation.components import Islands, Vertebrae, VertebraRegion, find_vertebrae
from spine_etl.segmentation.plausibility import check_plausible, check_structure
from spine_etl.segmentation.regions import (
    LabelRegion,
    check_labels,
    label_regions,
    level_centers_mm,
    slice_range,
)
from spine_etl.segmentation.translation import combine_classes, translate_labels

__all__ = [
    "Islands",
    "LabelRegion",
    "VertebraRegion",
    "Vertebrae",
    "check_alignment",
    "check_labels",
    "check_plausible",
    "check_structure",
    "combine_classes",
    "find_vertebrae",
    "label_regions",
    "level_centers_mm",
    "slice_range",
    "translate_labels",
    "warm_up",
]


def warm_up() -> None:
    """Compile the kernels, or load them from numba's cache, before the first study needs them."""
    components.warm_up()
    structure.warm_up()
    bone.warm_up()
    translation.warm_up()
