"""Recipes of small trainings in a file; one torch thread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.model.training.runs import (
    AUGMENTED,
    JOINT,
    TWO_STAGES,
    recipe,
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors this small are slower with two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def joint(tmp_path: Path) -> str:
    return recipe(tmp_path, JOINT.format(dropout=0.3, augment=AUGMENTED))


@pytest.fixture
def two_stages(tmp_path: Path) -> str:
    return recipe(tmp_path, TWO_STAGES)
