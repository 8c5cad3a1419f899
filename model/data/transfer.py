"""How a batch gets from the host's buffers to the device, and how long the device waited for it.

On the CPU there is nothing to do. On CUDA each slot of the loader has page-locked buffers and its own
buffers on the device; a side stream copies, and events keep three orders: the copy begins when the work that
used the device's buffers is done, that work begins when the copy is done, and the host's buffers are
filled anew when the copy has left them. Buffers live as long as the loader; that the side stream uses the
device's is told to the allocator once, for the moment when they are given back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

import torch

from spine_etl.errors import DeviceUnavailable

Buffers = Mapping[str, torch.Tensor]


class Clock:
    """Seconds that the consumer was blocked between asking for a batch and receiving it."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self._began = time.perf_counter()
        self._waited = 0.0

    def ask(self) -> None:
        self._asked = time.perf_counter()

    def receive(self) -> None:
        self._waited += time.perf_counter() - self._asked

    def waited(self) -> float:
        return self._waited

    def elapsed(self) -> float:
        return time.perf_counter() - self._began


class Passage(Protocol):
    """One batch's way to the device; ``device`` holds the buffers that the consumer sees."""

    device: Buffers

    def wait_until_sent(self) -> None:
        """Return when the host's buffers may be filled anew."""

    def send(self, samples: int) -> None:
        """Begin to copy the first samples of the filled buffers."""

    def receive(self) -> None:
        """Let what the consumer does next see the copy."""

    def release(self) -> None:
        """Let the buffers go: the consumer has asked its last of them."""


class Lane(Protocol):
    """What a loader's slots have in common on one kind of device."""

    pinned: bool

    def passage(self, host: Buffers) -> Passage: ...

    def clock(self) -> Clock: ...


def lane(device: torch.device) -> Lane:
    """The lane to a device.

    Raises
    ------
    DeviceUnavailable
        If it is neither the cpu nor a CUDA device that is there.
    """
    if device.type == "cpu":
        return CpuLane()
    if device.type != "cuda":
        raise DeviceUnavailable(f"batches go to cpu or cuda, not to {device}.")
    if (device.index or 0) >= torch.cuda.device_count():
        raise DeviceUnavailable(f"{device} is not there: {torch.cuda.device_count()} CUDA devices are.")
    return CudaLane(device)


class CpuLane:
    """The consumer sees the buffers that the threads filled."""

    pinned = False

    def passage(self, host: Buffers) -> Passage:
        return _CpuPassage(host)

    def clock(self) -> Clock:
        return Clock()


class _CpuPassage:
    def __init__(self, host: Buffers) -> None:
        self.device = host

    def wait_until_sent(self) -> None: ...

    def send(self, samples: int) -> None: ...

    def receive(self) -> None: ...

    def release(self) -> None: ...


class CudaLane:
    """Page-locked buffers, copied on one side stream."""

    pinned = True

    def __init__(self, device: torch.device) -> None:
        index = torch.cuda.current_device() if device.index is None else device.index
        self.device = torch.device("cuda", index)
        self.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def passage(self, host: Buffers) -> Passage:
        return _CudaPassage(host, self)

    def clock(self) -> Clock:
        return _CudaClock(self.device)


class _CudaPassage:
    def __init__(self, host: Buffers, lane: CudaLane) -> None:
        self.lane = lane
        self.host = host
        self.device: Buffers = {
            name: torch.empty_like(buffer, device=lane.device) for name, buffer in host.items()
        }
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._released = torch.cuda.Event()  # type: ignore[no-untyped-call]
        for buffer in self.device.values():
            buffer.record_stream(lane.stream)
        # The allocator may have given memory that earlier work on the consumer's stream still uses.
        self.release()

    def wait_until_sent(self) -> None:
        self._copied.synchronize()

    def send(self, samples: int) -> None:
        with torch.cuda.stream(self.lane.stream):
            self._released.wait(self.lane.stream)
            for name, buffer in self.host.items():
                self.device[name][:samples].copy_(buffer[:samples], non_blocking=True)
            self._copied.record(self.lane.stream)

    def receive(self) -> None:
        self._copied.wait(torch.cuda.current_stream(self.lane.device))

    def release(self) -> None:
        self._released.record(torch.cuda.current_stream(self.lane.device))


class _CudaClock(Clock):
    """Seconds that the device stood still between the work before and the batch's arrival.

    The host runs ahead of the device, so its own waiting says little. Two events on the consumer's stream
    do: the first passes when all earlier work is done, the second when the copy has arrived as well.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        super().__init__()

    def start(self) -> None:
        super().start()
        self._open: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def ask(self) -> None:
        self._idle = self._mark()

    def receive(self) -> None:
        self._open.append((self._idle, self._mark()))
        while self._open and self._open[0][1].query():  # type: ignore[no-untyped-call]
            self._settle()

    def waited(self) -> float:
        while self._open:
            self._open[0][1].synchronize()
            self._settle()
        return self._waited

    def _settle(self) -> None:
        idle, arrived = self._open.pop(0)
        self._waited += idle.elapsed_time(arrived) / 1000

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event
