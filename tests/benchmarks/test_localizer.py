"""What the hidden Markov model adds to the network on degraded overviews; time and memory for each study.

Needs a store (SPINE_STORE) and a localizer trained on it by `python -m model.localize train`
(SPINE_LOCALIZER). Each study is scored by the network trained without its fold. A level that is removed from
the image is removed from the truth as well.
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
Degradation = Callable[[Volume, Volume, np.random.Generator], tuple[Volume, Volume]]
_SOFT_TISSUE_HU, _METAL_HU, _AIR_HU = 50, 3000, -1024


def unchanged(image: Volume, truth: Volume, random: np.random.Generator) -> tuple[Volume, Volume]:
    return image, truth


def noisy(image: Volume, truth: Volume, random: np.random.Generator) -> tuple[Volume, Volume]:
    """White noise of 150 HU. At 3 mm, where each voxel averages many, this is a very poor scan."""
    return np.where(image > _AIR_HU, image + random.normal(0, 150, image.shape), image), truth


def without_a_level(image: Volume, truth: Volume, random: np.random.Generator) -> tuple[Volume, Volume]:
    """One of C2 to C6 is replaced by soft tissue."""
    removed = truth == random.integers(2, 7)
    return np.where(removed, _SOFT_TISSUE_HU, image), np.where(removed, 0, truth)


def truncated(image: Volume, truth: Volume, random: np.random.Generator) -> tuple[Volume, Volume]:
    """The field of view starts within C2 or C3, or ends within C5 or C6."""
    level = int(random.choice([2, 3, 5, 6]))
    middle = int(np.argwhere(truth == level)[:, 0].mean()) if (truth == level).any() else 0
    outside = slice(middle, None) if level < 4 else slice(0, middle)
    image, truth = image.copy(), truth.copy()
    image[outside], truth[outside] = _AIR_HU, 0
    return image, truth


def with_metal(image: Volume, truth: Volume, random: np.random.Generator) -> tuple[Volume, Volume]:
    """A screw in one vertebra, and streaks in its slices of up to 600 HU that fade with distance."""
    level = int(random.integers(2, 8))
    voxels = np.argwhere(truth == level)
    if not len(voxels):
        return image, truth
    z, y, x = voxels.mean(axis=0)
    zz, yy, xx = np.indices(image.shape)
    distance = np.hypot(yy - y, xx - x)
    streaks = 600 * np.cos(12 * np.arctan2(yy - y, xx - x)) / (1 + distance / 6)
    in_slices = np.abs(zz - z) <= 2
    degraded = np.where(in_slices & (image > _AIR_HU), image + streaks, image)
    return np.where((distance < 1.5) & in_slices, _METAL_HU, degraded), truth


@pytest.fixture(scope="module")
def trained() -> tuple[Store, Localizer]:
    try:
        store, localizer = os.environ["SPINE_STORE"], os.environ["SPINE_LOCALIZER"]
    except KeyError:
        pytest.skip("needs SPINE_STORE and SPINE_LOCALIZER")
    return open_store(store), Localizer(Path(localizer))


@pytest.mark.benchmark
def test_accuracy_with_and_without_the_hidden_markov_model(trained: tuple[Store, Localizer]) -> None:
    store, localizer = trained
    classes = class_of_label(store.recipe)
    print("\n                  identified         Dice           centre, mm     false levels")
    print("                  with   without   with   without   with  without   with  without")
    for degrade in (unchanged, noisy, without_a_level, truncated, with_metal):
        scores = []
        for study in segmented_studies(store).tolist():
            image, truth = degrade(
                store.read("overview/image", study),
                classes[store.read("overview/mask", study)],
                np.random.default_rng(study),
            )
            image = np.clip(np.round(image), -1024, 32767).astype(np.int16)
            fold = int(store.table["fold"][study])
            scores.append(score_volume(localizer, store.recipe, image, truth, fold=fold))
        figures = summary(scores)
        without_hmm = figures["without_hmm"]
        cells = [
            f"{_cell(figures[name]):>6} {_cell(without_hmm[name]):>7}"
            for name in ("identification_rate", "dice_mean", "centre_error_mm", "false_levels")
        ]
        print(f"  {degrade.__name__:15} {'   '.join(cells)}")
        if degrade is unchanged:
            assert figures["identification_rate"] > 0.9


def _cell(figure: float | None) -> str:
    """A figure is None where no level has it, as the distance of centres is where nothing is found."""
    return "none" if figure is None else str(figure)


@pytest.mark.benchmark
def test_time_and_memory_for_each_study(trained: tuple[Store, Localizer]) -> None:
    store, localizer = trained
    torch.set_num_threads(2)
    studies = segmented_studies(store)[:8].tolist()
    images = [store.read("overview/image", study) for study in studies]
    localizer.localize(images[0], store.recipe)
    wall_start_s, cpu_start_s = time.perf_counter(), time.process_time()
    for image in images:
        localizer.localize(image, store.recipe)
    wall_s, cpu_s = time.perf_counter() - wall_start_s, time.process_time() - cpu_start_s
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        f"\n  {len(localizer.folds)} networks, 2 threads: {wall_s / len(images):.2f} s a study"
        f" ({cpu_s / len(images):.2f} s CPU), peak memory of the process {peak_mb:.0f} MB"
    )
