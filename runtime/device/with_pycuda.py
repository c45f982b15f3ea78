"""The device on pycuda, with cuda-bindings for what pycuda lacks: capture, graphs, and a context for other libraries.

pycuda makes its calls on a stack of contexts of its own, one a thread, that other libraries do not see, and aborts the
process where a thread ends with that stack not empty. So the context is pushed for each call and popped after it; what
pycuda then makes current may be a context of the caller's, so ours is made current again for the other libraries.
pycuda prints a failure to free and does not raise it: that is the one return code that is seen but cannot be checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceError, one_line
from .driver import ADVICE, Driver, OutOfMemoryError
from .interface import Device
from .resources import Buffer, Event, Pinned


class PycudaDevice(Device):
    """A GPU driven by ``pycuda.driver`` (2025.1 and later), given as ``pycuda``."""

    kind = "pycuda"

    def __init__(self, driver: Driver, pycuda: Any, ordinal: int, name: str) -> None:
        self._pycuda = pycuda
        self._ordinal = ordinal
        super().__init__(driver, name, "pycuda is installed")

    @contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except self._pycuda.Error as error:
            kind = OutOfMemoryError if isinstance(error, self._pycuda.MemoryError) else DeviceError
            raise kind(f"{one_line(error)} (pycuda); {ADVICE}") from error

    @contextmanager
    def _pushed(self) -> Iterator[None]:
        with self._checked():
            self._primary.push()
            try:
                yield
            finally:
                self._pycuda.Context.pop()
                self._make_current()

    def _retain_context(self, undo: ExitStack) -> int:
        with self._checked():
            self._pycuda.init()
            self._primary = self._pycuda.Device(self._ordinal).retain_primary_context()
        undo.callback(self._detach)
        return int(self._primary.handle)

    def _detach(self) -> None:
        with self._checked():
            # Pushed, since pycuda releases nothing in another thread than the first; detaching pops pycuda's stack.
            try:
                self._primary.push()
            finally:
                self._primary.detach()

    def _create_stream(self, undo: ExitStack) -> int:
        # Without this flag the stream would wait for whatever another library puts on the default stream.
        flag = self._driver.module.CUstream_flags.CU_STREAM_NON_BLOCKING
        self._stream: Any = None
        undo.callback(self._drop_stream)
        with self._pushed():
            self._stream = self._pycuda.Stream(flag.value)
        return int(self._stream.handle)

    def _drop_stream(self) -> None:
        # pycuda destroys streams and events with their last reference, and only where their context is on its stack.
        try:
            with self._pushed():
                self._stream = None
        finally:
            self._stream = None

    def _allocate(self, size: int) -> Any:
        with self._pushed():
            return self._pycuda.mem_alloc(size)

    def _free(self, buffer: Buffer) -> None:
        with self._pushed():
            buffer.held.free()

    def _pin(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        with self._pushed():
            return self._pycuda.pagelocked_empty(shape, dtype)

    def _unpin(self, pinned: Pinned) -> None:
        with self._pushed():
            pinned.held.base.free()

    def _upload(self, address: int, array: NDArray[Any]) -> None:
        with self._pushed():
            self._pycuda.memcpy_htod_async(address, array, self._stream)

    def _download(self, array: NDArray[Any], address: int) -> None:
        with self._pushed():
            self._pycuda.memcpy_dtoh_async(array, address, self._stream)

    def _copy(self, target: int, source: int, size: int) -> None:
        with self._pushed():
            self._pycuda.memcpy_dtod_async(target, source, size, self._stream)

    def _zero(self, address: int, size: int) -> None:
        with self._pushed():
            self._pycuda.memset_d8_async(address, 0, size, self._stream)

    def _synchronize(self) -> None:
        with self._pushed():
            self._stream.synchronize()

    def _memory(self) -> tuple[int, int]:
        with self._pushed():
            free, total = self._pycuda.mem_get_info()
        return int(free), int(total)

    def _create_event(self) -> Any:
        with self._pushed():
            return self._pycuda.Event()

    def _destroy_event(self, event: Event) -> None:
        with self._pushed():
            event.held = None

    # No variable here holds the pycuda event: the traceback of an error would, beyond the life of the context.
    def record(self, event: Event) -> None:
        with self._pushed():
            event.in_use().record(self._stream)

    def elapsed(self, start: Event, end: Event) -> float:
        with self._pushed():
            end.in_use().synchronize()
            return float(start.in_use().time_till(end.in_use()))
