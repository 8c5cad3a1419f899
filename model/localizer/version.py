"""What the answers of a trained localizer depend on besides its files: part of its digest.

A study whose levels were predicted is built again when the digest changes, so every constant that can
change a label or a confidence is listed here, and here only.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from model.localizer import hmm, level_order, network, relabel
from spine_etl import localization, volume

ANSWERS_VERSION = 1
"""Raise it when the code changes an answer without changing a constant; a golden test notices."""

CONSTANTS: Mapping[str, float] = MappingProxyType(
    {
        "AIR_HU": volume.AIR_HU,
        "AIR_LIMIT_HU": network.AIR_LIMIT_HU,
        "BACKGROUND_VOXELS": level_order.BACKGROUND_VOXELS,
        "BOUNDARY_WEIGHT": level_order.BOUNDARY_WEIGHT,
        "CENTRE_HU": network.CENTRE_HU,
        "CUT_SHARE": relabel.CUT_SHARE,
        "DURATION_SPREAD": hmm.DURATION_SPREAD,
        "MAX_FRAGMENT_MM3": relabel.MAX_FRAGMENT_MM3,
        "MAX_GAP_MM": relabel.MAX_GAP_MM,
        "MAX_HU": network.MAX_HU,
        "MIN_COMPONENT_MM3": relabel.MIN_COMPONENT_MM3,
        "MIN_CONFIDENCE": localization.MIN_CONFIDENCE,
        "MIN_HU": network.MIN_HU,
        "OUTLIER_SHARE": hmm.OUTLIER_SHARE,
        "RELABELLED_WEIGHT": relabel.RELABELLED_WEIGHT,
        "SCALE_HU": network.SCALE_HU,
        "SLICE_WEIGHT": level_order.SLICE_WEIGHT,
    }
)
"""The constants behind an answer. Those of `LevelOrder.fit` (``P_SKIP``, ``P_CORRECT`` ...) are missing on
purpose: they act in training only, and the fitted probabilities are in each fold's metadata."""
