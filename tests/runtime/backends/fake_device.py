"""A device made of host memory, on which work is done at once, or noted while a graph is captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from copgen_edge.runtime.errors import BackendError, CaptureError
from numpy.typing import NDArray

Work = Callable[[], None]


class FakeBuffer:
    def __init__(self, device: FakeDevice, address: int, size: int) -> None:
        self._device, self.address, self.size = device, address, size

    def close(self) -> None:
        self._device.blocks.pop(self.address, None)

    def __enter__(self) -> FakeBuffer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class FakeGraph:
    def __init__(self, device: FakeDevice, work: list[Work]) -> None:
        self._device, self._work, self.closed = device, work, False

    def launch(self) -> None:
        assert not self.closed
        self._device.log.append("launch")
        for piece in self._work:
            piece()

    def close(self) -> None:
        self.closed = True


class FakeEvent:
    """Ten milliseconds after the one before, by the device's clock."""

    def __init__(self, device: FakeDevice) -> None:
        self._device = device
        self.at = -1

    def record(self) -> None:
        self._device.clock += 10
        self.at = self._device.clock

    def milliseconds_until(self, other: FakeEvent) -> float:
        return float(other.at - self.at)

    def __enter__(self) -> FakeEvent:
        return self

    def __exit__(self, *error: object) -> None:
        self.at = -1


class FakeDevice:
    """Memory is filled with NaN: what is read before it was written shows."""

    name, kind, reason, stream = "NVIDIA Test", "fake", "made up", 7

    def __init__(self, *, total: int = 1 << 33, captures: bool = True) -> None:
        self.blocks: dict[int, NDArray[np.uint8]] = {}
        self.log: list[str] = []
        self.total, self.captures = total, captures
        self.clock = 0
        self._next = 4096
        self._captured: list[Work] | None = None

    def activate(self) -> None:
        pass

    def allocate(self, size: int) -> FakeBuffer:
        if size > self.memory()[0]:
            raise BackendError(f"no memory for {size} bytes")
        assert self._captured is None, "allocated while capturing"
        address = self._next
        self._next += size + 4096
        self.blocks[address] = np.full(size, 0xFF, np.uint8)
        return FakeBuffer(self, address, size)

    def at(self, address: int, size: int) -> NDArray[np.uint8]:
        for start, block in self.blocks.items():
            if start <= address and address + size <= start + len(block):
                return block[address - start : address - start + size]
        raise AssertionError(f"{size} bytes at {address} are not allocated")

    def floats(self, address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return self.at(address, 4 * int(np.prod(shape))).view(np.float32).reshape(shape)

    def put(self, work: Work) -> None:
        """Put ``work`` on the stream."""
        if self._captured is None:
            work()
        else:
            self._captured.append(work)

    def upload(self, address: int, array: NDArray[Any]) -> None:
        held = array.copy()
        self.put(lambda: self.at(address, held.nbytes).__setitem__(slice(None), held.view(np.uint8).reshape(-1)))

    def download(self, array: NDArray[Any], address: int) -> None:
        assert self._captured is None
        array.view(np.uint8).reshape(-1)[:] = self.at(address, array.nbytes)

    def copy(self, target: int, source: int, size: int) -> None:
        self.put(lambda: self.at(target, size).__setitem__(slice(None), self.at(source, size)))

    def zero(self, address: int, size: int) -> None:
        self.put(lambda: self.at(address, size).fill(0))

    def event(self) -> FakeEvent:
        return FakeEvent(self)

    def synchronize(self) -> None:
        assert self._captured is None, "waited while capturing"

    def memory(self) -> tuple[int, int]:
        return self.total - sum(len(block) for block in self.blocks.values()), self.total

    def capture(self, enqueue: Work) -> FakeGraph:
        self.log.append("capture")
        self._captured = []
        try:
            enqueue()
            work = self._captured
        finally:
            self._captured = None
        if not self.captures:
            raise CaptureError("cuStreamEndCapture: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
        return FakeGraph(self, work)

    def close(self) -> None:
        self.blocks.clear()
