"""What the order of levels adds to the network, on overviews made worse on purpose; time and memory a study.

Needs a store and a localizer that `python -m model.localize train` made on it, named by SPINE_STORE and
SPINE_LOCALIZER. Each study is scored by the network that held its fold out. What is taken out of the picture
is taken out of the truth as well.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.localizer.localizer import Localizer
from model.localizer.network import class_of_label
from model.localizer.overviews import segmented_studies
from model.localizer.score import score_volume, summary
from spine_etl.store import Store, open_store

Volume = np.ndarray[Any, np.dtype[Any]]
Disturbance = Callable[[Volume, Volume, np.random.Generator], tuple[Volume, Volume]]
_SOFT_TISSUE_HU, _METAL_HU, _AIR_HU = 50, 3000, -1024


def unchanged(image: Volume, truth: Volume, random: np.random.Generator) -> tuple[Volume, Volume]:
    return image, truth


def noisy(image: Volume, truth: Volume, random: np.random.Generator) -> tuple[Volume, Volume]:
    """White noise of 150 HU: at 3 mm, averaged over its voxels, a very poor scan."""
    return np.where(image > _AIR_HU, image + random.normal(0, 150, image.shape), image), truth


def without_a_level(image: Volume, truth: Volume, random: np.random.Generator) -> tuple[Volume, Volume]:
    """One of C2 to C6 is soft tissue."""
    gone = truth == random.integers(2, 7)
    return np.where(gone, _SOFT_TISSUE_HU, image), np.where(gone, 0, truth)


def truncated(image: Volume, truth: Volume, random: np.random.Generator) -> tuple[Volume, Volume]:
    """The field of view starts within C2 or C3, or ends within C5 or C6."""
    level = int(random.choice([2, 3, 5, 6]))
    middle = int(np.argwhere(truth == level)[:, 0].mean()) if (truth == level).any() else 0
    beyond = slice(middle, None) if level < 4 else slice(0, middle)
    image, truth = image.copy(), truth.copy()
    image[beyond], truth[beyond] = _AIR_HU, 0
    return image, truth


def with_metal(image: Volume, truth: Volume, random: np.random.Generator) -> tuple[Volume, Volume]:
    """A screw in one vertebra, and in its slices streaks of up to 600 HU that fade with the distance."""
    level = int(random.integers(2, 8))
    voxels = np.argwhere(truth == level)
    if not len(voxels):
        return image, truth
    z, y, x = voxels.mean(axis=0)
    zz, yy, xx = np.indices(image.shape)
    far = np.hypot(yy - y, xx - x)
    streaks = 600 * np.cos(12 * np.arctan2(yy - y, xx - x)) / (1 + far / 6)
    worse = np.where((np.abs(zz - z) <= 2) & (image > _AIR_HU), image + streaks, image)
    return np.where((far < 1.5) & (np.abs(zz - z) <= 2), _METAL_HU, worse), truth


@pytest.fixture(scope="module")
def trained() -> tuple[Store, Localizer]:
    try:
        store, localizer = os.environ["SPINE_STORE"], os.environ["SPINE_LOCALIZER"]
    except KeyError:
        pytest.skip("SPINE_STORE and SPINE_LOCALIZER name no trained localizer")
    return open_store(store), Localizer(Path(localizer))


@pytest.mark.benchmark
def test_what_the_order_adds(trained: tuple[Store, Localizer]) -> None:
    store, localizer = trained
    classes = class_of_label(store.recipe)
    print("\n                  identified         Dice           centre, mm     levels that are not there")
    print("                  with   without   with   without   with  without   with  without")
    for disturb in (unchanged, noisy, without_a_level, truncated, with_metal):
        scores = []
        for study in segmented_studies(store).tolist():
            image, truth = disturb(
                store.read("overview/image", study),
                classes[store.read("overview/mask", study)],
                np.random.default_rng(study),
            )
            image = np.clip(np.round(image), -1024, 32767).astype(np.int16)
            fold = int(store.table["fold"][study])
            scores.append(score_volume(localizer, store.recipe, image, truth, fold=fold))
        figures = summary(scores)
        plain = figures["without_hmm"]
        cells = [
            f"{figures[name]:6} {plain[name]:7}"
            for name in ("identification_rate", "dice_mean", "centre_error_mm", "false_levels")
        ]
        print(f"  {disturb.__name__:15} {'   '.join(cells)}")
        if disturb is unchanged:
            assert figures["identification_rate"] > 0.9


@pytest.mark.benchmark
def test_time_and_memory_of_a_study(trained: tuple[Store, Localizer]) -> None:
    store, localizer = trained
    torch.set_num_threads(2)
    studies = segmented_studies(store)[:8].tolist()
    images = [store.read("overview/image", study) for study in studies]
    localizer.localize(images[0], store.recipe)
    wall, cpu = time.perf_counter(), time.process_time()
    for image in images:
        localizer.localize(image, store.recipe)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        f"\n  {len(localizer.folds)} networks, 2 threads: {wall / len(images):.2f} s a study"
        f" ({cpu / len(images):.2f} s CPU), process at most {peak:.0f} MB"
    )
