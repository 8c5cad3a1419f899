"""Transfers: nothing is copied on the CPU, the clock measures waiting alone, other devices are refused."""

from __future__ import annotations

import time

import pytest
import torch

from model.data.transfer import WaitClock, transfer_to
from spine_etl.errors import DeviceUnavailable


def test_cpu_gives_the_host_buffers_themselves() -> None:
    transfer = transfer_to(torch.device("cpu"))
    host = {"image": torch.arange(6).view(2, 3)}
    buffers = transfer.batch_buffers(host)
    buffers.wait_until_copied()
    buffers.start_copy(2)
    buffers.acquire()
    assert buffers.device["image"].data_ptr() == host["image"].data_ptr()
    host["image"][1, 2] = 42
    assert buffers.device["image"][1, 2] == 42
    assert not transfer.pin_memory


def test_clock_counts_the_time_between_request_and_batch_only() -> None:
    clock = WaitClock()
    started = time.perf_counter()
    for _ in range(2):
        time.sleep(0.03)  # work
        clock.start_wait()
        time.sleep(0.02)
        clock.stop_wait()
    waited, elapsed, measured = clock.wait_seconds(), clock.elapsed_seconds(), time.perf_counter() - started
    assert 0.04 <= waited <= elapsed - 0.06
    assert 0.1 <= elapsed <= measured + 0.01
    clock.start()
    assert clock.wait_seconds() == 0
    assert clock.elapsed_seconds() < elapsed


@pytest.mark.parametrize(
    ("device", "message"),
    [("mps", "to cpu or cuda, not to mps"), ("cuda:63", "cuda:63 does not exist: this machine has")],
)
def test_other_devices_are_refused(device: str, message: str) -> None:
    with pytest.raises(DeviceUnavailable, match=message):
        transfer_to(torch.device(device))
