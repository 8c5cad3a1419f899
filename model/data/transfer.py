"""Copies batches from host buffers to the device, and measures how long the device waited for them.

On the CPU there is nothing to copy. On CUDA each slot of the loader has page-locked host buffers and its own
device buffers. A side stream copies, and events enforce three orders: the copy starts after the work that
used the device buffers; the work that uses the new batch starts after the copy; the host buffers are
refilled after the copy. The buffers exist as long as the loader. ``record_stream`` tells the allocator once
that the side stream uses the device buffers, which matters when they are freed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

import torch

from spine_etl.errors import DeviceUnavailable

Buffers = Mapping[str, torch.Tensor]


class WaitClock:
    """Measures how long the consumer is blocked between requesting a batch and receiving it."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Reset the clock."""
        self._started = time.perf_counter()
        self._waited = 0.0

    def start_wait(self) -> None:
        """The consumer requests a batch."""
        self._requested = time.perf_counter()

    def stop_wait(self) -> None:
        """The consumer receives the batch."""
        self._waited += time.perf_counter() - self._requested

    def wait_seconds(self) -> float:
        """Seconds waited since `start`."""
        return self._waited

    def elapsed_seconds(self) -> float:
        """Seconds since `start`."""
        return time.perf_counter() - self._started


class BatchBuffers(Protocol):
    """The buffers of one batch: host buffers that threads fill, and ``device`` buffers for the consumer."""

    device: Buffers

    def wait_until_copied(self) -> None:
        """Block the calling thread until the host buffers may be refilled."""

    def start_copy(self, samples: int) -> None:
        """Start to copy the first ``samples`` samples of the filled host buffers to the device."""

    def acquire(self) -> None:
        """Make the consumer's later work on the device wait for the copy."""

    def release(self) -> None:
        """Mark the end of the consumer's work on the device buffers, which may then be overwritten."""


class DeviceTransfer(Protocol):
    """Makes the buffers and the clock of a loader for one device; ``pin_memory`` is for host buffers."""

    pin_memory: bool

    def batch_buffers(self, host: Buffers) -> BatchBuffers: ...

    def wait_clock(self) -> WaitClock: ...


def transfer_to(device: torch.device) -> DeviceTransfer:
    """The transfer to a device.

    Raises
    ------
    DeviceUnavailable
        If the device is neither the CPU nor a CUDA device of this machine.
    """
    if device.type == "cpu":
        return CpuTransfer()
    if device.type != "cuda":
        raise DeviceUnavailable(f"batches can be loaded to cpu or cuda, not to {device}.")
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise DeviceUnavailable(f"{device} does not exist: this machine has {count} CUDA devices.")
    return CudaTransfer(device)


class CpuTransfer:
    """Nothing is copied: the consumer gets the host buffers."""

    pin_memory = False

    def batch_buffers(self, host: Buffers) -> BatchBuffers:
        return CpuBuffers(host)

    def wait_clock(self) -> WaitClock:
        return WaitClock()


class CpuBuffers:
    """Host buffers that are also the consumer's."""

    def __init__(self, host: Buffers) -> None:
        self.device = host

    def wait_until_copied(self) -> None: ...

    def start_copy(self, samples: int) -> None: ...

    def acquire(self) -> None: ...

    def release(self) -> None: ...


class CudaTransfer:
    """Page-locked host buffers, copied on one side stream."""

    pin_memory = True

    def __init__(self, device: torch.device) -> None:
        index = torch.cuda.current_device() if device.index is None else device.index
        self.device = torch.device("cuda", index)
        self.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def batch_buffers(self, host: Buffers) -> BatchBuffers:
        return _CudaBuffers(host, self)

    def wait_clock(self) -> WaitClock:
        return _CudaWaitClock(self.device)


class _CudaBuffers:
    def __init__(self, host: Buffers, transfer: CudaTransfer) -> None:
        self.transfer = transfer
        self.host = host
        self.device: Buffers = {
            name: torch.empty_like(buffer, device=transfer.device) for name, buffer in host.items()
        }
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._released = torch.cuda.Event()  # type: ignore[no-untyped-call]
        for buffer in self.device.values():
            buffer.record_stream(transfer.stream)
        # The allocator may return memory that earlier work on the consumer's stream still uses.
        self.release()

    def wait_until_copied(self) -> None:
        self._copied.synchronize()

    def start_copy(self, samples: int) -> None:
        with torch.cuda.stream(self.transfer.stream):
            self._released.wait(self.transfer.stream)
            for name, buffer in self.host.items():
                self.device[name][:samples].copy_(buffer[:samples], non_blocking=True)
            self._copied.record(self.transfer.stream)

    def acquire(self) -> None:
        self._copied.wait(torch.cuda.current_stream(self.transfer.device))

    def release(self) -> None:
        self._released.record(torch.cuda.current_stream(self.transfer.device))


class _CudaWaitClock(WaitClock):
    """Measures how long the device is idle between the end of earlier work and a batch's arrival.

    The host runs ahead of the device, so the host's waiting time does not measure this. Two events on the
    consumer's stream do: the first passes when all earlier work is done, the second when the copy has
    arrived as well.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        super().__init__()

    def start(self) -> None:
        super().start()
        self._pending: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def start_wait(self) -> None:
        self._idle = self._record_event()

    def stop_wait(self) -> None:
        self._pending.append((self._idle, self._record_event()))
        while self._pending and self._pending[0][1].query():  # type: ignore[no-untyped-call]
            self._add_oldest()

    def wait_seconds(self) -> float:
        while self._pending:
            self._pending[0][1].synchronize()
            self._add_oldest()
        return self._waited

    def _add_oldest(self) -> None:
        idle, arrived = self._pending.pop(0)
        self._waited += idle.elapsed_time(arrived) / 1000

    def _record_event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event
