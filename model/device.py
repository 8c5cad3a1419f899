"""The compute device: chosen by name, and a full device memory reported as our own error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from spine_etl.errors import DeviceMemoryFull, DeviceUnavailable


def choose_device(name: str) -> torch.device:
    """The device of that name: ``auto`` (this rank's GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    DeviceUnavailable
        If this machine has no such device.
    """
    gpus = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceUnavailable(f"there is no device named {name!r}.") from error
    if device.type not in ("cpu", "cuda"):
        raise DeviceUnavailable(f"{name} is neither cpu nor cuda.")
    if device.type == "cuda":
        index = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
        if index >= gpus:
            raise DeviceUnavailable(f"cuda:{index} was requested; this machine has {gpus} CUDA devices.")
        device = torch.device("cuda", index)
    return device


@contextmanager
def within_memory(device: torch.device) -> Iterator[None]:
    """In this context, running out of the device's memory raises DeviceMemoryFull."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryFull(f"the memory of {device} is full.") from error
