"""Segmentations: the regions of their labels, and checks of the labels against the CT."""

from __future__ import annotations

from spine_etl.segmentation.alignment import check_overlap, check_slices
from spine_etl.segmentation.regions import (
    LabelRegion,
    check_labels,
    label_regions,
    level_centers_mm,
    slice_range,
    warm_up,
)

__all__ = [
    "LabelRegion",
    "check_labels",
    "check_overlap",
    "check_slices",
    "label_regions",
    "level_centers_mm",
    "slice_range",
    "warm_up",
]
