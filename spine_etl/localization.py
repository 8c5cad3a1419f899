"""What a localizer says of a study without a segmentation: the face that the build knows it by.

The networks themselves live elsewhere; whatever has a digest and answers `localize` will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from spine_etl.recipe import Recipe

LEAST_CONFIDENCE = 0.5
"""Below it a level is marked missing: a crop in the wrong place is worse than none."""


@dataclass(frozen=True, eq=False)
class Localization:
    """Where the levels are.

    ``labels`` uint8 (z, y, x) on the recipe's overview grid: the levels' numbers in a segmentation, 0
    elsewhere. ``confidence`` of each level, 0 to 1; 0 where it was not seen.
    """

    labels: npt.NDArray[np.uint8]
    confidence: Mapping[str, float]

    def sure(self, recipe: Recipe) -> npt.NDArray[np.uint8]:
        """The labels of those levels alone whose confidence is enough."""
        keep = [number for name, number in recipe.levels.items() if self.confidence[name] >= LEAST_CONFIDENCE]
        return np.where(np.isin(self.labels, keep), self.labels, 0).astype(np.uint8)


class Localizer(Protocol):
    """Finds the levels in overviews."""

    @property
    def digest(self) -> str:
        """What changes whenever an answer could."""
        ...

    def localize(self, image: npt.NDArray[np.int16], recipe: Recipe) -> Localization:
        """The levels in int16 HU (z, y, x) on the recipe's overview grid."""
        ...
