"""The overviews that a localizer is trained and scored on: those of studies with their own segmentation."""

from __future__ import annotations

import numpy as np
import torch

from model.data.targets import Indices
from model.localizer.network import class_of_label
from spine_etl.store import Store
from spine_etl.store.schema import LEVEL_STATUS, MASK_SOURCE


def segmented_studies(store: Store) -> Indices:
    """Indices of the studies whose mask is their own segmentation, not predicted, without ambiguous levels.

    Of an ambiguous level the overview has two parts, of which one is wrong.
    """
    is_given = store.table["mask_source"] == MASK_SOURCE.index("given")
    is_ambiguous = (store.table["level_status"] == LEVEL_STATUS.index("ambiguous")).any(axis=1)
    return np.flatnonzero(is_given & ~is_ambiguous)


class Overviews:
    """Overviews in memory, for ``studies`` of a store: int16 HU and uint8 class maps, (z, y, x) each."""

    def __init__(self, store: Store, studies: Indices) -> None:
        classes = class_of_label(store.recipe)
        self.studies = studies
        self.images = [torch.from_numpy(store.read("overview/image", int(i))) for i in studies]
        self.classes = [torch.from_numpy(classes[store.read("overview/mask", int(i))]) for i in studies]
