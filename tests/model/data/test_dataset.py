"""The map-style dataset, on its own and in torch's DataLoader."""

from __future__ import annotations

import multiprocessing
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from model.data.dataset import StudyDataset
from model.data.loader import Batches
from spine_etl.store import Store


def test_item_equals_the_stored_arrays(tiny_store: Store) -> None:
    item = StudyDataset(tiny_store, [4, 7])[1]
    np.testing.assert_array_equal(item["image"].numpy(), tiny_store.image(7))
    np.testing.assert_array_equal(item["mask"].numpy(), tiny_store.mask(7))
    assert (int(item["study"]), item["labels"].tolist()) == (7, [1, 0, 1])


def test_torch_data_loader_gives_the_same_batches(tiny_store: Store) -> None:
    dataset = StudyDataset(tiny_store, range(12))
    context = multiprocessing.get_context("forkserver")  # pickles the dataset, as spawn does
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=6, num_workers=1, multiprocessing_context=context
    )
    for batch, ours in zip(loader, Batches(tiny_store, range(12), batch_size=6, shuffle=False), strict=True):
        for name, values in batch.items():
            torch.testing.assert_close(getattr(ours, name), values, rtol=0, atol=0)
