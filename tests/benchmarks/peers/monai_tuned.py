"""MONAI tuned for speed: only the labelled part is resampled, and only the crops are written.

It makes no overview, which favours it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from monai.transforms import Compose, CropForegroundd, Spacingd

from spine_etl.recipe import Recipe
from spine_etl.source.layout import Study
from tests.benchmarks.peers import Crops
from tests.benchmarks.peers.monai_parts import KEYS, configure, cut, files, loading


def prepare(study: Study, recipe: Recipe, out: Path) -> Callable[[], Crops]:
    configure()
    z, y, x = (n * recipe.crop.spacing_mm / 2 for n in recipe.crop.shape)
    spacing = Spacingd(
        keys=KEYS, pixdim=[recipe.crop.spacing_mm] * 3, mode=("bilinear", "nearest"), dtype=np.float32
    )
    # As many voxels around the labels as a crop reaches at the finest spacing of the source, 0.4 mm.
    margin = [int(x / 0.4), int(y / 0.4), int(z / 0.4)]
    foreground = CropForegroundd(keys=KEYS, source_key="label", margin=margin, allow_smaller=True)

    def run() -> Crops:
        crops, masks = cut(Compose([*loading(), foreground, spacing])(files(study)), recipe)
        np.save(out / "crops.npy", crops)
        np.save(out / "masks.npy", masks)
        return lambda: dict(zip(recipe.levels, crops, strict=True))

    return run
