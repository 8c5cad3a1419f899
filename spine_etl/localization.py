"""The interface between the build and a localizer, which finds the levels of a study without a segmentation.

The networks are in `model.localizer`; any object that satisfies `Localizer` will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from spine_etl.recipe import Recipe

MIN_CONFIDENCE = 0.5
"""A level with less confidence is marked missing: a crop in the wrong position is worse than no crop."""


@dataclass(frozen=True, eq=False)
class Localization:
    """Where the levels are.

    ``labels`` is uint8 (z, y, x) on the recipe's overview grid: the levels' label numbers, 0 elsewhere.
    ``confidence`` is that of each level, 0 to 1; 0 if the level was not found.
    """

    labels: npt.NDArray[np.uint8]
    confidence: Mapping[str, float]

    def confident_labels(self, recipe: Recipe) -> npt.NDArray[np.uint8]:
        """``labels`` without the levels whose confidence is below `MIN_CONFIDENCE`."""
        keep = [number for name, number in recipe.levels.items() if self.confidence[name] >= MIN_CONFIDENCE]
        return np.where(np.isin(self.labels, keep), self.labels, 0).astype(np.uint8)


class Localizer(Protocol):
    """Finds the levels in overviews."""

    @property
    def digest(self) -> str:
        """Changes whenever a result of `localize` could."""
        ...

    def localize(self, image: npt.NDArray[np.int16], recipe: Recipe) -> Localization:
        """The levels in an overview: int16 HU (z, y, x) on the recipe's overview grid."""
        ...
