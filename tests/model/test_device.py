"""Choosing a device, and what happens when its memory is full."""

from __future__ import annotations

import pytest
import torch

from model.device import choose_device, within_memory
from spine_etl.errors import DeviceMemoryFull, DeviceUnavailable


def test_full_device_memory_names_the_device() -> None:
    with pytest.raises(DeviceMemoryFull, match="cuda:1"), within_memory(torch.device("cuda:1")):
        raise torch.OutOfMemoryError("tried to allocate")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gpu", "no device named 'gpu'"),
        ("meta", "neither cpu nor cuda"),
        ("cuda:99", "cuda:99 was requested"),
    ],
)
def test_absent_device_is_refused(name: str, reason: str) -> None:
    with pytest.raises(DeviceUnavailable, match=reason):
        choose_device(name)
