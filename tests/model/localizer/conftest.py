"""A level order fitted to synthetic necks."""

from __future__ import annotations

import pytest

from model.localizer.level_order import LevelOrder
from tests.model.localizer.necks import random_neck


@pytest.fixture(scope="session")
def order() -> LevelOrder:
    """Fitted to whole necks, all of which start above the first level."""
    return LevelOrder.fit([random_neck(seed) for seed in range(100, 140)])
