"""A GPU that is none: the CUDA driver as documented, seen through fakes of cuda-bindings and of pycuda.

It works on host memory, runs what is on the stream when the stream is waited for, wants a current context as the driver
does, and keeps account: what is live, what was freed twice or while in use, every call in order. A call can be made to
fail.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


class CodeError(Exception):
    """The code that a call returns in place of its result."""


class Mode(IntEnum):
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1


class Flags(IntEnum):
    CU_STREAM_NON_BLOCKING = 1


# Each result needs a current context; these do not.
ANYWHERE = {"cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName", "cuGetErrorString", "cuCtxSetCurrent"}
ANYWHERE |= {"cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease", "cuCtxPushCurrent", "cuCtxPopCurrent"}
# What spoils a capture of the same thread.
UNSAFE = {"cuMemAlloc", "cuMemFree", "cuMemHostAlloc", "cuMemFreeHost", "cuStreamSynchronize", "cuEventSynchronize"}
CONTEXT = 77


class Machine:
    """One GPU of a mebibyte. ``failing``: (name, which time it is called, code)."""

    def __init__(self) -> None:
        self.total = 1 << 20
        self.gpus = 1
        self.calls: list[tuple[Any, ...]] = []
        self.failing: tuple[str, int, CUresult] | None = None
        self.live: dict[tuple[str, int], Any] = {}
        self.mistakes: list[str] = []
        self.printed: list[str] = []
        self.queue: list[Callable[[], None]] = []
        self.captured: list[Callable[[], None]] | None = None
        self.spoilt = False
        self.ticks = 0
        self._thread = threading.local()
        self._next = 1000

    @property
    def stack(self) -> list[int]:
        return self._thread.__dict__.setdefault("contexts", [])

    @property
    def names(self) -> list[str]:
        return [name for name, *_ in self.calls]

    def call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        if name != "cuGetErrorString":
            self.calls.append((name, *arguments))
        try:
            if name not in ANYWHERE and not self.stack:
                raise CodeError(CUresult.CUDA_ERROR_INVALID_CONTEXT)
            if self.captured is not None and name in UNSAFE:
                self.spoilt = True
                raise CodeError(CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
            failing = self.failing is not None and self.failing[:2] == (name, self.names.count(name))
            # What gives something back has done so even where it tells of an error, of earlier work for instance.
            if failing and not any(word in name for word in ("Free", "Destroy", "Release", "EndCapture")):
                raise CodeError(self.failing[2])  # type: ignore[index]
            result = getattr(self, name)(*arguments)
            if failing:
                if name == "cuStreamEndCapture":
                    del self.live["graph", result]
                raise CodeError(self.failing[2])  # type: ignore[index]
        except CodeError as failed:
            return failed.args[0], None
        if result is None:
            return (CUresult.CUDA_SUCCESS,)
        return (CUresult.CUDA_SUCCESS, *(result if isinstance(result, tuple) else (result,)))

    def _new(self, kind: str, what: Any = None) -> int:
        self._next += 1
        self.live[kind, self._next] = what
        return self._next

    def _end(self, kind: str, handle: Any) -> None:
        if self.live.pop((kind, int(handle)), self) is self:
            self.mistakes.append(f"{kind} {handle} freed and not live")
        elif self.queue and kind != "graph":
            self.mistakes.append(f"{kind} {handle} freed while the stream was busy")

    def _put(self, work: Callable[[], None]) -> None:
        (self.queue if self.captured is None else self.captured).append(work)

    def cuInit(self, flags: int) -> None: ...  # noqa: N802

    def cuDeviceGetCount(self) -> int:  # noqa: N802
        return self.gpus

    def cuDeviceGet(self, ordinal: int) -> int:  # noqa: N802
        return ordinal

    def cuDeviceGetName(self, length: int, device: int) -> bytes:  # noqa: N802
        return b"NVIDIA Fake".ljust(length, b"\0")

    def cuGetErrorString(self, code: CUresult) -> bytes:  # noqa: N802
        return f"words for {code.value}".encode()

    def cuDevicePrimaryCtxRetain(self, device: int) -> int:  # noqa: N802
        self.live["context", CONTEXT] = None
        return CONTEXT

    def cuDevicePrimaryCtxRelease(self, device: int) -> None:  # noqa: N802
        self._end("context", CONTEXT)

    def cuCtxSetCurrent(self, context: int) -> None:  # noqa: N802
        self.stack[-1:] = [context]

    def cuCtxPushCurrent(self, context: int) -> None:  # noqa: N802
        self.stack.append(context)

    def cuCtxPopCurrent(self) -> int:  # noqa: N802
        return self.stack.pop()

    def cuStreamCreate(self, flags: int) -> int:  # noqa: N802
        return self._new("stream", flags)

    def cuStreamDestroy(self, stream: int) -> None:  # noqa: N802
        self._end("stream", stream)

    def cuStreamSynchronize(self, stream: int) -> None:  # noqa: N802
        while self.queue:
            self.queue.pop(0)()

    def cuMemGetInfo(self) -> tuple[int, int]:  # noqa: N802
        return self.total - sum(len(what) for (kind, _), what in self.live.items() if kind == "memory"), self.total

    def cuMemAlloc(self, size: int) -> int:  # noqa: N802
        if size > self.cuMemGetInfo()[0]:
            raise CodeError(CUresult.CUDA_ERROR_OUT_OF_MEMORY)
        return self._host("memory", size)

    def _host(self, kind: str, size: int) -> int:
        memory = ctypes.create_string_buffer(b"\xa5" * size, size)
        self.live[kind, ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory)

    def cuMemFree(self, address: int) -> None:  # noqa: N802
        self._end("memory", address)

    def cuMemHostAlloc(self, size: int, flags: int) -> int:  # noqa: N802
        return self._host("pinned", size)

    def cuMemFreeHost(self, address: int) -> None:  # noqa: N802
        self._end("pinned", address)

    def cuMemcpyHtoDAsync(self, target: int, source: int, size: int, stream: int) -> None:  # noqa: N802
        self._put(lambda: ctypes.memmove(target, source, size))  # type: ignore[arg-type, return-value]

    def cuMemcpyDtoHAsync(self, target: int, source: int, size: int, stream: int) -> None:  # noqa: N802
        self._put(lambda: ctypes.memmove(target, source, size))  # type: ignore[arg-type, return-value]

    def cuMemcpyDtoDAsync(self, target: int, source: int, size: int, stream: int) -> None:  # noqa: N802
        self._put(lambda: ctypes.memmove(target, source, size))  # type: ignore[arg-type, return-value]

    def cuMemsetD8Async(self, target: int, value: int, size: int, stream: int) -> None:  # noqa: N802
        self._put(lambda: ctypes.memset(target, value, size))  # type: ignore[arg-type, return-value]

    def cuEventCreate(self, flags: int) -> int:  # noqa: N802
        return self._new("event")

    def cuEventDestroy(self, event: int) -> None:  # noqa: N802
        self._end("event", event)

    def cuEventRecord(self, event: int, stream: int) -> None:  # noqa: N802
        def happen() -> None:
            self.ticks += 1
            self.live["event", event] = self.ticks

        self._put(happen)

    def cuEventSynchronize(self, event: int) -> None:  # noqa: N802
        self.cuStreamSynchronize(0)

    def cuEventElapsedTime(self, start: int, end: int) -> float:  # noqa: N802
        return float(self.live["event", end] - self.live["event", start])

    def cuStreamBeginCapture(self, stream: int, mode: Mode) -> None:  # noqa: N802
        if self.captured is not None or mode is not Mode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL:
            raise CodeError(CUresult.CUDA_ERROR_INVALID_VALUE)
        self.captured, self.spoilt = [], False

    def cuStreamEndCapture(self, stream: int) -> int:  # noqa: N802
        captured, self.captured = self.captured, None
        if self.spoilt:
            raise CodeError(CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
        return self._new("graph", captured)

    def cuGraphInstantiate(self, graph: int, flags: int) -> int:  # noqa: N802
        return self._new("executable", list(self.live["graph", graph]))

    def cuGraphDestroy(self, graph: int) -> None:  # noqa: N802
        self._end("graph", graph)

    def cuGraphLaunch(self, executable: int, stream: int) -> None:  # noqa: N802
        for work in self.live["executable", executable]:
            self._put(work)

    def cuGraphExecDestroy(self, executable: int) -> None:  # noqa: N802
        self._end("executable", executable)


class Bindings(ModuleType):
    """``cuda.bindings.driver``: each call gives a tuple, its code first."""

    def __init__(self, machine: Machine) -> None:
        super().__init__("cuda.bindings.driver")
        self.CUresult, self.CUstreamCaptureMode, self.CUstream_flags = CUresult, Mode, Flags
        self._machine = machine

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        if not hasattr(Machine, name):
            raise AttributeError(name)
        return lambda *arguments: self._machine.call(name, *arguments)


def fake_pycuda(machine: Machine) -> ModuleType:
    """``pycuda.driver`` as its source has it: a stack of contexts a thread, and objects that need one to be freed."""

    class Error(Exception): ...

    class MemoryError(Error): ...

    class LogicError(Error): ...

    def guarded(name: str, *arguments: Any) -> Any:
        code, *values = machine.call(name, *arguments)
        if code:
            kind = MemoryError if code is CUresult.CUDA_ERROR_OUT_OF_MEMORY else LogicError
            raise kind(f"{name} failed: words for {code.value}")
        return values[0] if len(values) == 1 else tuple(values)

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        """Like a function written in C: no frame of it keeps its arguments alive in a traceback."""

        def call(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except Error as error:
                failed = error.with_traceback(None)
            del arguments
            raise failed

        return call

    def cleanup(name: str, *arguments: Any) -> None:
        if machine.call(name, *arguments)[0]:
            machine.printed.append(name)

    local = threading.local()

    def stack() -> list[Context]:
        return local.__dict__.setdefault("stack", [])

    def top() -> Context:
        while stack() and not stack()[-1].valid:
            stack().pop()
        if not stack():
            raise LogicError("explicit_context_dependent failed: invalid context - no currently active context?")
        return stack()[-1]

    class Context:
        handle = CONTEXT

        def __init__(self) -> None:
            self.valid, self.thread = True, threading.get_ident()

        def push(self) -> None:
            if stack():
                guarded("cuCtxPopCurrent")
            guarded("cuCtxPushCurrent", self.handle)
            stack().append(self)

        @staticmethod
        def pop() -> None:
            if not stack():
                raise LogicError("context::pop failed: invalid context - cannot pop non-current context")
            guarded("cuCtxPopCurrent")
            stack().pop()
            if stack():
                guarded("cuCtxPushCurrent", stack()[-1].handle)

        def detach(self) -> None:
            if not self.valid:
                raise LogicError("context::detach failed: invalid context - cannot detach from invalid context")
            if stack() and stack()[-1] is self:
                cleanup("cuDevicePrimaryCtxRelease", 0)
                stack().pop()
            elif self.thread == threading.get_ident():
                cleanup("cuCtxPushCurrent", self.handle)
                cleanup("cuDevicePrimaryCtxRelease", 0)
            self.valid = False

    @contextmanager
    def scoped(context: Context) -> Iterator[bool]:
        switch = not stack() or stack()[-1] is not context
        if not context.valid or (switch and context.thread != threading.get_ident()):
            yield False
            return
        if switch:
            context.push()
        yield True
        if switch:
            context.pop()

    class Owned:
        """What pycuda frees with its last reference, if it is on the stack or in the thread of its context."""

        def __init__(self, create: str, destroy: str, *arguments: Any) -> None:
            self.handle = 0
            self.context, self.destroy = top(), destroy
            self.handle = guarded(create, *arguments)

        def free(self) -> None:
            if not self.handle:
                raise LogicError("free failed: invalid handle")
            with scoped(self.context) as can:
                if can:
                    cleanup(self.destroy, self.handle)
            self.handle = 0

        def __int__(self) -> int:
            return self.handle

        def __del__(self) -> None:
            if self.handle:
                self.free()

    class Stream(Owned):
        def __init__(self, flags: int = 0) -> None:
            super().__init__("cuStreamCreate", "cuStreamDestroy", flags)

        @compiled
        def synchronize(self) -> None:
            guarded("cuStreamSynchronize", self.handle)

    class Event(Owned):
        def __init__(self, flags: int = 0) -> None:
            super().__init__("cuEventCreate", "cuEventDestroy", flags)

        @compiled
        def record(self, stream: Stream) -> None:
            guarded("cuEventRecord", self.handle, stream.handle)

        @compiled
        def synchronize(self) -> None:
            guarded("cuEventSynchronize", self.handle)

        @compiled
        def time_till(self, other: Event) -> float:
            return guarded("cuEventElapsedTime", self.handle, other.handle)

    class PagelockedArray(np.ndarray):  # type: ignore[type-arg]
        """NumPy lets C alone set a base that is no array; here it is an attribute."""

        base: Any = None

    def pagelocked_empty(shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> Any:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        held = Owned("cuMemHostAlloc", "cuMemFreeHost", size, mem_flags)
        array = PagelockedArray(shape, dtype, (ctypes.c_char * size).from_address(held.handle))
        array.base = held
        return array

    def host(array: Any) -> tuple[int, int]:
        view = memoryview(array)
        assert view.c_contiguous
        return array.ctypes.data, view.nbytes

    @compiled
    def memcpy_htod_async(target: int, array: Any, stream: Stream) -> None:
        guarded("cuMemcpyHtoDAsync", target, *host(array), stream.handle)

    @compiled
    def memcpy_dtoh_async(array: Any, source: int, stream: Stream) -> None:
        address, size = host(array)
        guarded("cuMemcpyDtoHAsync", address, source, size, stream.handle)

    @compiled
    def memcpy_dtod_async(target: int, source: int, size: int, stream: Stream) -> None:
        guarded("cuMemcpyDtoDAsync", target, source, size, stream.handle)

    @compiled
    def memset_d8_async(target: int, value: int, size: int, stream: Stream) -> None:
        guarded("cuMemsetD8Async", target, value, size, stream.handle)

    module = ModuleType("pycuda.driver")
    module.__dict__.update(
        Error=Error,
        MemoryError=MemoryError,
        Context=Context,
        Stream=Stream,
        Event=Event,
        stack=stack,
        init=lambda: guarded("cuInit", 0),
        Device=lambda ordinal: SimpleNamespace(
            retain_primary_context=lambda: (
                guarded("cuDevicePrimaryCtxRetain", guarded("cuDeviceGet", ordinal)) and Context()
            )
        ),
        mem_alloc=lambda size: Owned("cuMemAlloc", "cuMemFree", size),
        mem_get_info=lambda: guarded("cuMemGetInfo"),
        pagelocked_empty=pagelocked_empty,
        memcpy_htod_async=memcpy_htod_async,
        memcpy_dtoh_async=memcpy_dtoh_async,
        memcpy_dtod_async=memcpy_dtod_async,
        memset_d8_async=memset_d8_async,
    )
    return module


@pytest.fixture(params=["cuda-bindings", "pycuda"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A fake GPU, with what drives it in ``sys.modules``; ``kind`` says what that is."""
    return install(request.param, monkeypatch)


def install(kind: str, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    made.kind = kind  # type: ignore[attr-defined]
    made.pycuda = fake_pycuda(made) if kind == "pycuda" else None  # type: ignore[attr-defined]
    for name in ("cuda", "cuda.bindings", "pycuda"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", Bindings(made))
    monkeypatch.setitem(sys.modules, "pycuda.driver", made.pycuda)  # type: ignore[attr-defined]
    return made


@pytest.fixture
def new_machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Machine]:
    """``new_machine(kind)``: a fresh fake GPU in place of the last."""
    return lambda kind: install(kind, monkeypatch)
