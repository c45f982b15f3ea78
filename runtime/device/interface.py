"""The device as its users see it; what an implementation adds is named with a leading underscore."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..errors import BackendError, DeviceError
from .capture import capture
from .checks import refuse_gaps, refuse_nothing
from .driver import Driver, OutOfMemoryError
from .resources import Buffer, Closing, Event, Graph, Pinned, Resource


class Device(Closing):
    """A GPU's primary context, one stream of its own, and all that is held on them until :meth:`close`.

    ``name`` is the driver's name of the GPU, ``kind`` what drives it, ``reason`` why that was chosen, ``stream`` the
    handle of the stream that all work is put on. Copies return before they are done: what an array holds must stay as
    it is until :meth:`synchronize`. Any method raises :class:`DeviceError` where CUDA fails, or once closed.
    """

    kind: ClassVar[str]

    def __init__(self, driver: Driver, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        self.resources: list[Resource] = []
        self._driver = driver
        self._closed = False
        # Arrays that copies not yet waited for read and write: their memory must not go before.
        self._lent: list[NDArray[Any]] = []
        with ExitStack() as undo:
            self._context = self._retain_context(undo)
            self._make_current()
            self.stream = self._create_stream(undo)
            self._last = undo.pop_all()

    def close(self) -> None:
        """Give back what is still held, graphs first, the newest first; all of it whatever fails on the way, once."""
        if self._closed:
            return
        self._closed = True
        with self._last as last:
            last.callback(self._lent.clear)
            for resource in sorted(self.resources, key=lambda resource: isinstance(resource, Graph)):
                last.callback(resource.close)
            last.callback(self._make_current)

    def activate(self) -> None:
        """Make the primary context current in the calling thread: each thread needs it before any other method."""
        self._in_use()
        self._make_current()

    def allocate(self, size: int) -> Buffer:
        """``size`` bytes on the GPU, not initialised; :class:`BackendError` where there is not enough memory."""
        self._in_use()
        refuse_nothing(size)
        try:
            held = self._allocate(size)
        except OutOfMemoryError as error:
            free, total = self._memory()
            raise BackendError(
                f"{self.name} has no room for {size} bytes, {free} of its {total} are free; "
                "ask for fewer samples at once, or close other programs on the GPU"
            ) from error
        return Buffer(self, held, self._free, size)

    def pinned(self, shape: Sequence[int], dtype: DTypeLike) -> Pinned:
        """A page-locked array on the host; :class:`BackendError` where there is not enough memory to lock."""
        self._in_use()
        size = prod(shape) * np.dtype(dtype).itemsize
        refuse_nothing(size)
        try:
            held = self._pin(tuple(int(length) for length in shape), np.dtype(dtype))
        except OutOfMemoryError as error:
            raise BackendError(
                f"the driver could not lock {size} bytes of host memory; "
                "ask for fewer samples at once, or close other programs on this machine"
            ) from error
        return Pinned(self, held, self._unpin)

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Put a copy of the C-contiguous ``array`` to ``address`` on the stream."""
        self._in_use()
        refuse_gaps(array)
        self._lent.append(array)
        self._upload(address, array)

    def download(self, array: NDArray[Any], address: int) -> None:
        """Put a copy of what lies at ``address`` into the C-contiguous, writable ``array`` on the stream."""
        self._in_use()
        refuse_gaps(array)
        if not array.flags.writeable:
            raise DeviceError("a read-only array cannot take a copy from the GPU; expected a writable one, pass a copy")
        self._lent.append(array)
        self._download(array, address)

    def copy(self, target: int, source: int, size: int) -> None:
        """Put a copy of ``size`` bytes from ``source`` to ``target``, both on the GPU, on the stream."""
        self._in_use()
        self._copy(target, source, size)

    def zero(self, address: int, size: int) -> None:
        """Put the filling of ``size`` bytes at ``address`` with zeros on the stream."""
        self._in_use()
        self._zero(address, size)

    def synchronize(self) -> None:
        """Wait until all that was put on the stream is done."""
        self._in_use()
        self._synchronize()
        self._lent.clear()

    def memory(self) -> tuple[int, int]:
        """Bytes of GPU memory: free now, and in total."""
        self._in_use()
        return self._memory()

    def event(self) -> Event:
        """A new event, not recorded."""
        self._in_use()
        return Event(self, self._create_event(), self._destroy_event)

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        """What ``enqueue`` puts on the stream, as a graph; it does not run. Needs the same work done once before.

        Raises what ``enqueue`` raises, :class:`CaptureError` where CUDA refuses. ``enqueue`` must not allocate, close
        or synchronise. The buffers and pinned memory that it names must stay open as long as the graph.
        """
        self._in_use()
        before = len(self._lent)
        executable = capture(self._driver, self.stream, enqueue)
        return Graph(self, executable, self._destroy_graph, self._lent[before:])

    def settle(self) -> None:
        """Wait for the stream from whichever thread; for :class:`Resource`, also while the device closes."""
        with ExitStack() as steps:
            steps.callback(self._synchronize)
            steps.callback(self._make_current)

    def launch(self, executable: Any) -> None:
        """Put an executable graph on the stream; for :class:`Graph`."""
        self._driver.call("cuGraphLaunch", executable, self.stream)

    def _destroy_graph(self, graph: Graph) -> None:
        self._driver.call("cuGraphExecDestroy", graph.held)

    def _in_use(self) -> None:
        if self._closed:
            raise DeviceError(f"the device {self.name} is closed; open it again")

    def _make_current(self) -> None:
        self._driver.call("cuCtxSetCurrent", self._context)

    # What _retain_context and _create_stream made is undone by what they leave in ``undo``.
    @abstractmethod
    def _retain_context(self, undo: ExitStack) -> Any: ...
    @abstractmethod
    def _create_stream(self, undo: ExitStack) -> int: ...
    @abstractmethod
    def _allocate(self, size: int) -> Any: ...
    @abstractmethod
    def _free(self, buffer: Buffer) -> None: ...
    @abstractmethod
    def _pin(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]: ...
    @abstractmethod
    def _unpin(self, pinned: Pinned) -> None: ...
    @abstractmethod
    def _upload(self, address: int, array: NDArray[Any]) -> None: ...
    @abstractmethod
    def _download(self, array: NDArray[Any], address: int) -> None: ...
    @abstractmethod
    def _copy(self, target: int, source: int, size: int) -> None: ...
    @abstractmethod
    def _zero(self, address: int, size: int) -> None: ...
    @abstractmethod
    def _synchronize(self) -> None: ...
    @abstractmethod
    def _memory(self) -> tuple[int, int]: ...
    @abstractmethod
    def _create_event(self) -> Any: ...
    @abstractmethod
    def _destroy_event(self, event: Event) -> None: ...
    @abstractmethod
    def record(self, event: Event) -> None:
        """Put an event on the stream; for :class:`Event`."""

    @abstractmethod
    def elapsed(self, start: Event, end: Event) -> float:
        """Wait for the event ``end``; milliseconds from ``start`` to it; for :class:`Event`."""
