"""What a device lends: memory, events and graphs, each given back once, by whoever comes first."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..errors import DeviceError

if TYPE_CHECKING:
    from typing_extensions import Self

    from .interface import Device


class Closing(ABC):
    """``with`` for what has a ``close``."""

    @abstractmethod
    def close(self) -> None:
        """Give back what is held; nothing the second time."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.close()
        except DeviceError:
            # After a failed kernel every later call fails too: the first error is the one that says what happened.
            if error is None:
                raise


class Resource(Closing):
    """Something held on a device until :meth:`close`, or until the device closes.

    ``held`` is what ``free`` and the device's implementation know it by, None once it is closed.
    """

    def __init__(self, device: Device, held: Any, free: Callable[[Any], None]) -> None:
        self.held = held
        self._device = device
        self._free = free
        device.resources.append(self)

    def in_use(self) -> Any:
        """``held``; :class:`DeviceError` once closed."""
        if self.held is None:
            raise DeviceError(f"this {type(self).__name__} is closed; make another on an open device")
        return self.held

    def close(self) -> None:
        """Wait for the stream, which may still be using it, and give it back; nothing where that was done before."""
        if self not in self._device.resources:
            return
        self._device.resources.remove(self)
        # All of it, whatever fails on the way.
        with ExitStack() as steps:
            steps.callback(setattr, self, "held", None)
            steps.callback(self._free, self)
            steps.callback(self._device.settle)


class Buffer(Resource):
    """``size`` bytes of GPU memory."""

    def __init__(self, device: Device, held: Any, free: Callable[[Any], None], size: int) -> None:
        super().__init__(device, held, free)
        self.size = size

    @property
    def address(self) -> int:
        """Where the memory starts, as the GPU counts."""
        return int(self.in_use())


class Pinned(Resource):
    """Page-locked host memory, which the GPU copies from and to while the CPU goes on."""

    @property
    def array(self) -> NDArray[Any]:
        """The memory itself, C-contiguous, not initialised. Views of it must not be used after :meth:`close`."""
        return self.in_use()


class Event(Resource):
    """A moment of the stream."""

    def record(self) -> None:
        """Put the event on the stream: it happens when all that was put there before is done."""
        self._device.record(self)

    def milliseconds_until(self, other: Event) -> float:
        """GPU time from this event to ``other``, both recorded; waits for ``other``."""
        return self._device.elapsed(self, other)


class Graph(Resource):
    """Captured work, which one launch repeats with what now lies at the addresses it was captured with.

    ``arrays`` are those it copies from and to, kept alive with it.
    """

    def __init__(self, device: Device, held: Any, free: Callable[[Any], None], arrays: list[NDArray[Any]]) -> None:
        super().__init__(device, held, free)
        self.arrays = arrays

    def launch(self) -> None:
        """Put the captured work on the stream."""
        self._device.launch(self.in_use())
