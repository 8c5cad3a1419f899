"""Shared by both MONAI peers: reading, and the crops from a resampled volume."""

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
from tests.benchmarks.peers.blocks import block_start, padded_block

KEYS = ("image", "label")


def configure() -> None:
    """Set the number of threads and silence MONAI's warnings."""
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
    """Canonical image and label crops (level, z, y, x) from (1, R, A, S) volumes at the crops' spacing."""
    image, labels = item["image"].numpy()[0], item["label"].numpy()[0]
    shape = recipe.crop.shape[::-1]
    crops = np.full((len(recipe.levels), *recipe.crop.shape), AIR_HU, np.int16)
    masks = np.zeros(crops.shape, np.uint8)
    for index, label in enumerate(recipe.levels.values()):
        start = block_start(labels == label, shape)
        crops[index] = _canonical(padded_block(image, start, shape, AIR_HU))
        masks[index] = _canonical(padded_block(labels, start, shape, 0))
    return np.maximum(crops, AIR_HU, out=crops), masks


def _canonical(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A block (R, A, S) as (z, y, x) with x to Left and y to Posterior."""
    return block[::-1, ::-1].transpose(2, 1, 0)
