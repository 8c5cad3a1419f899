"""MONAI as in its tutorials: load, orient, resample the volume to the spacing of the crops, cache, then crop.

Its output is the cache files of PersistentDataset. It makes no overview, which favours it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from monai.data import PersistentDataset
from monai.transforms import Compose, Spacingd

from spine_etl.recipe import Recipe
from spine_etl.source.layout import Study
from tests.benchmarks.peers import Crops
from tests.benchmarks.peers.monai_parts import KEYS, configure, cut, files, loading


def prepare(study: Study, recipe: Recipe, out: Path) -> Callable[[], Crops]:
    configure()
    spacing = Spacingd(keys=KEYS, pixdim=[recipe.crop.spacing_mm] * 3, mode=("bilinear", "nearest"))

    def run() -> Crops:
        dataset = PersistentDataset([files(study)], Compose([*loading(), spacing]), cache_dir=out)
        crops, _ = cut(dataset[0], recipe)
        return lambda: dict(zip(recipe.levels, crops, strict=True))

    return run
