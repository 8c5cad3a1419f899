"""What both MONAI contenders share: reading, and seven crops out of a resampled volume."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import EnsureChannelFirstd, LoadImaged, Orientationd

from spine_etl.recipe import Recipe
from spine_etl.source.layout import Study
from spine_etl.volume import AIR_HU
from tests.benchmarks.peers import THREADS

KEYS = ("image", "label")


def settle() -> None:
    """Threads as for everyone; MONAI's many warnings are not the subject here."""
    torch.set_num_threads(THREADS)
    warnings.simplefilter("ignore")


def files(study: Study) -> dict[str, str]:
    return {"image": str(study.folder.path), "label": str(study.mask.path)}


def loading() -> list[Any]:
    return [
        LoadImaged(keys="image", reader="PydicomReader"),
        LoadImaged(keys="label", reader="NibabelReader"),
        EnsureChannelFirstd(keys=KEYS),
        Orientationd(keys=KEYS, axcodes="RAS", labels=None),
    ]


def cut(item: Mapping[str, Any], recipe: Recipe) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """(level, z, y, x) image and labels, canonical, from (1, R, A, S) volumes at the crops' spacing."""
    image, labels = item["image"].numpy()[0], item["label"].numpy()[0]
    shape = recipe.crop.shape[::-1]
    crops = np.full((len(recipe.levels), *recipe.crop.shape), AIR_HU, np.int16)
    masks = np.zeros(crops.shape, np.uint8)
    for index, label in enumerate(recipe.levels.values()):
        where = np.nonzero(labels == label)
        middle = [(axis.min() + axis.max() + 1) / 2 for axis in where]
        start = [round(m - n / 2) for m, n in zip(middle, shape, strict=True)]
        crops[index] = _block(image, start, shape, AIR_HU)
        masks[index] = _block(labels, start, shape, 0)
    return np.maximum(crops, AIR_HU, out=crops), masks


def _block(volume: npt.NDArray[Any], start: list[int], shape: tuple[int, ...], fill: int) -> npt.NDArray[Any]:
    """A block as (z, y, x) to Left and Posterior, padded where it leaves the volume."""
    block = np.full(shape, fill, volume.dtype)
    here = tuple(
        slice(max(s, 0), max(min(s + n, m), 0)) for s, n, m in zip(start, shape, volume.shape, strict=True)
    )
    there = tuple(slice(h.start - s, h.stop - s) for h, s in zip(here, start, strict=True))
    block[there] = volume[here]
    return block[::-1, ::-1].transpose(2, 1, 0)
