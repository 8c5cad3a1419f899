"""Segmentations: the vertebrae they show, the slices that show these, and checks against the CT."""

from __future__ import annotations

from spine_etl.segmentation import bone, completeness, components, slices, structure, translation
from spine_etl.segmentation.alignment import check_alignment
from spine_etl.segmentation.completeness import check_complete
from spine_etl.segmentation.components import Islands, Vertebrae, VertebraRegion, find_vertebrae
from spine_etl.segmentation.plausibility import check_plausible, check_structure
from spine_etl.segmentation.regions import LabelRegion, check_labels, label_regions, label_share
from spine_etl.segmentation.slices import shown_labels, slice_range, slice_runs
from spine_etl.segmentation.translation import combine_classes, translate_labels

__all__ = [
    "Islands",
    "LabelRegion",
    "VertebraRegion",
    "Vertebrae",
    "check_alignment",
    "check_complete",
    "check_labels",
    "check_plausible",
    "check_structure",
    "combine_classes",
    "find_vertebrae",
    "label_regions",
    "label_share",
    "shown_labels",
    "slice_range",
    "slice_runs",
    "translate_labels",
    "warm_up",
]


def warm_up() -> None:
    """Compile the kernels, or load them from numba's cache, before the first study needs them."""
    components.warm_up()
    completeness.warm_up()
    slices.warm_up()
    structure.warm_up()
    bone.warm_up()
    translation.warm_up()
