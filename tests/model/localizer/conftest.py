"""A level order fitted to synthetic necks; one torch thread."""

from __future__ import annotations

import pytest
import torch

from model.localizer.level_order import LevelOrder
from tests.model.localizer.necks import K, random_neck


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def order() -> LevelOrder:
    """Fitted to whole necks, all of which start above the first level."""
    return LevelOrder.fit([random_neck(seed) for seed in range(100, 140)], K)
