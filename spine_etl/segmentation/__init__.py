"""Segmentations: the regions of their labels, their vertebrae, and checks of the labels against the CT."""

from __future__ import annotations

from spine_etl.segmentation.alignment import check_overlap, check_slices
from spine_etl.segmentation.components import Islands, Vertebrae, VertebraRegion, find_vertebrae, warm_up
from spine_etl.segmentation.regions import (
    LabelRegion,
    check_labels,
    label_regions,
    level_centers_mm,
    slice_range,
)

__all__ = [
    "Islands",
    "LabelRegion",
    "VertebraRegion",
    "Vertebrae",
    "check_labels",
    "check_overlap",
    "check_slices",
    "find_vertebrae",
    "label_regions",
    "level_centers_mm",
    "slice_range",
    "warm_up",
]
