"""The device on cuda-bindings alone."""

from __future__ import annotations

import ctypes
from contextlib import ExitStack
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .driver import Driver
from .interface import Device
from .resources import Buffer, Event, Pinned


class BindingsDevice(Device):
    """A GPU driven by ``cuda.bindings.driver``; ``handle`` is its CUdevice."""

    kind = "cuda-bindings"

    def __init__(self, driver: Driver, handle: Any, name: str, reason: str) -> None:
        self._handle = handle
        super().__init__(driver, name, reason)

    def _retain_context(self, undo: ExitStack) -> Any:
        context = self._driver.call("cuDevicePrimaryCtxRetain", self._handle)
        undo.callback(self._driver.call, "cuDevicePrimaryCtxRelease", self._handle)
        return context

    def _create_stream(self, undo: ExitStack) -> int:
        # Without this flag the stream would wait for whatever another library puts on the default stream.
        flag = self._driver.module.CUstream_flags.CU_STREAM_NON_BLOCKING
        stream = int(self._driver.call("cuStreamCreate", flag.value))
        undo.callback(self._driver.call, "cuStreamDestroy", stream)
        return stream

    def _allocate(self, size: int) -> int:
        return int(self._driver.call("cuMemAlloc", size))

    def _free(self, buffer: Buffer) -> None:
        self._driver.call("cuMemFree", buffer.held)

    def _pin(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        size = prod(shape) * dtype.itemsize
        address = int(self._driver.call("cuMemHostAlloc", size, 0))
        return np.ndarray(shape, dtype, memoryview((ctypes.c_ubyte * size).from_address(address)))

    def _unpin(self, pinned: Pinned) -> None:
        self._driver.call("cuMemFreeHost", pinned.held.ctypes.data)

    def _upload(self, address: int, array: NDArray[Any]) -> None:
        self._driver.call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, self.stream)

    def _download(self, array: NDArray[Any], address: int) -> None:
        self._driver.call("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, self.stream)

    def _copy(self, target: int, source: int, size: int) -> None:
        self._driver.call("cuMemcpyDtoDAsync", target, source, size, self.stream)

    def _zero(self, address: int, size: int) -> None:
        self._driver.call("cuMemsetD8Async", address, 0, size, self.stream)

    def _synchronize(self) -> None:
        self._driver.call("cuStreamSynchronize", self.stream)

    def _memory(self) -> tuple[int, int]:
        free, total = self._driver.call("cuMemGetInfo")
        return free, total

    def _create_event(self) -> Any:
        return self._driver.call("cuEventCreate", 0)

    def _destroy_event(self, event: Event) -> None:
        self._driver.call("cuEventDestroy", event.held)

    def record(self, event: Event) -> None:
        self._driver.call("cuEventRecord", event.in_use(), self.stream)

    def elapsed(self, start: Event, end: Event) -> float:
        self._driver.call("cuEventSynchronize", end.in_use())
        return float(self._driver.call("cuEventElapsedTime", start.in_use(), end.in_use()))
