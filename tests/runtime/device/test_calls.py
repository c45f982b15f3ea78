"""In which order CUDA is called, and what happens where any of the calls fails."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from copgen_edge.runtime.device import open_device
from copgen_edge.runtime.errors import BackendError, CaptureError, DeviceError

SHARED = [
    "cuInit",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease",
    "cuCtxSetCurrent",
    "cuMemAlloc",
    "cuMemFree",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync",
    "cuMemcpyDtoHAsync",
    "cuMemcpyDtoDAsync",
    "cuMemsetD8Async",
    "cuStreamCreate",
    "cuStreamDestroy",
    "cuStreamSynchronize",
    "cuEventCreate",
    "cuEventDestroy",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventElapsedTime",
    "cuStreamBeginCapture",
    "cuStreamEndCapture",
    "cuGraphInstantiate",
    "cuGraphDestroy",
    "cuGraphLaunch",
    "cuGraphExecDestroy",
    "cuMemGetInfo",
]
CALLS = {"cuda-bindings": SHARED, "pycuda": [*SHARED, "cuCtxPushCurrent", "cuCtxPopCurrent"]}
# pycuda prints that these failed; it raises nothing.
PRINTED = {"cuMemFree", "cuMemFreeHost", "cuStreamDestroy", "cuEventDestroy", "cuDevicePrimaryCtxRelease"}


def code(name: str) -> Any:
    return sys.modules["cuda.bindings.driver"].CUresult[name]


def use_everything() -> None:
    with open_device() as device:
        buffer, pinned = device.allocate(16), device.pinned((4,), np.float32)
        with device.event() as start, device.event() as end:
            start.record()
            device.zero(buffer.address, 16)
            device.upload(buffer.address, pinned.array)
            device.copy(buffer.address + 8, buffer.address, 8)
            device.download(pinned.array, buffer.address)
            end.record()
            assert start.milliseconds_until(end) > 0
        device.capture(lambda: device.zero(buffer.address, 16)).launch()
        device.memory()
        device.synchronize()


def test_all_calls_are_known_to_these_tests(machine: Any) -> None:
    use_everything()
    assert set(machine.names) == set(CALLS[machine.kind])
    assert (machine.live, machine.mistakes, machine.printed) == ({}, [], [])


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in CALLS.items() for name in names])
def test_each_call_that_fails_is_named_and_leaves_nothing(
    new_machine: Callable[[str], Any], kind: str, name: str
) -> None:
    machine = new_machine(kind)
    illegal = code("CUDA_ERROR_ILLEGAL_ADDRESS")
    use_everything()
    times = machine.names.count(name)
    assert times
    for time in range(1, times + 1):
        machine = new_machine(kind)
        machine.failing = (name, time, illegal)
        message = ""
        try:
            use_everything()
        except (DeviceError, BackendError) as error:
            message = str(error)
        if kind == "pycuda" and name in PRINTED:
            assert machine.printed == [name]
        else:
            assert name in message, f"call {time} of {times}: {message!r}"
            assert "words for 700" in message
            assert "\n" not in message
            assert "CUDA_ERROR_ILLEGAL_ADDRESS" in message or "pycuda" in message
        assert (machine.live, machine.mistakes) == ({}, []), f"call {time} of {times}"


def test_opening_and_closing_are_in_order(new_machine: Callable[[str], Any]) -> None:
    machine = new_machine("cuda-bindings")
    with open_device() as device:
        assert (device.name, device.kind, device.reason) == ("NVIDIA Fake", "cuda-bindings", "pycuda is not installed")
        assert machine.live["stream", device.stream] == 1, "a blocking stream"
    assert machine.names == [
        *("cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName"),
        *("cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuStreamCreate"),
        *("cuCtxSetCurrent", "cuStreamDestroy", "cuDevicePrimaryCtxRelease"),
    ]


def test_what_is_still_held_is_freed_once_graphs_first_the_newest_first(machine: Any) -> None:
    device = open_device()
    first = device.allocate(16)
    graph = device.capture(lambda: device.zero(first.address, 16))
    device.event()
    pinned = device.pinned((4,), np.uint8)
    second = device.capture(lambda: None)
    freed_early = device.allocate(16)
    freed_early.close()
    opened = len(machine.calls)
    # A failure in the midst keeps nothing from being freed.
    failing = code("CUDA_ERROR_ILLEGAL_ADDRESS")
    machine.failing = ("cuStreamSynchronize", machine.names.count("cuStreamSynchronize") + 3, failing)
    with pytest.raises(DeviceError, match="cuStreamSynchronize"):
        device.close()
    freed = [name for name in machine.names[opened:] if any(word in name for word in ("Free", "Destroy", "Release"))]
    assert freed == [
        *("cuGraphExecDestroy", "cuGraphExecDestroy", "cuMemFreeHost", "cuEventDestroy", "cuMemFree"),
        *("cuStreamDestroy", "cuDevicePrimaryCtxRelease"),
    ]
    assert (machine.live, machine.mistakes) == ({}, [])
    ended = len(machine.calls)
    for late in (device, second, graph, pinned, first):
        late.close()
    assert len(machine.calls) == ended
    with pytest.raises(DeviceError, match="is closed"):
        device.allocate(16)


def test_nothing_is_freed_while_the_stream_may_use_it(machine: Any) -> None:
    with open_device() as device:
        buffer, pinned = device.allocate(4), device.pinned((4,), np.uint8)
        pinned.array[:] = 7
        device.upload(buffer.address, pinned.array)
        assert machine.queue
        pinned.close()
        assert not machine.queue
    assert machine.mistakes == []


def test_arrays_live_until_no_copy_needs_them(machine: Any) -> None:
    with open_device() as device, device.allocate(4) as buffer:
        arrays = [np.zeros(4, np.uint8), np.ones(4, np.uint8)]
        once_alive, often_alive = map(weakref.ref, arrays)
        device.upload(buffer.address, arrays[0])
        graph = device.capture(lambda: device.upload(buffer.address, arrays[1]))
        arrays.clear()
        assert once_alive() is not None
        device.synchronize()
        assert once_alive() is None
        assert often_alive() is not None
        graph.launch()
        graph.close()
        del graph
        assert often_alive() is None


def test_the_first_error_is_the_one_that_is_raised(machine: Any) -> None:
    with pytest.raises(ZeroDivisionError), open_device() as device, device.allocate(16):
        name = "cuStreamSynchronize"
        machine.failing = (name, machine.names.count(name) + 1, code("CUDA_ERROR_ILLEGAL_ADDRESS"))
        raise ZeroDivisionError
    assert (machine.live, machine.mistakes) == ({}, [])


@pytest.mark.parametrize("name", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphDestroy"])
def test_a_capture_that_fails_is_a_capture_error_and_leaves_no_graph(machine: Any, name: str) -> None:
    with open_device() as device:
        machine.failing = (name, 1, code("CUDA_ERROR_INVALID_VALUE"))
        with pytest.raises(CaptureError, match=f"{name} returned CUDA_ERROR_INVALID_VALUE"):
            device.capture(lambda: None)
        assert machine.captured is None
        assert {kind for kind, _ in machine.live} == {"context", "stream"}


def test_the_capture_ends_after_a_failure_whatever_ending_it_says(machine: Any) -> None:
    def fail() -> None:
        raise KeyError("the original")

    with open_device() as device:
        before = len(machine.calls)
        with pytest.raises(KeyError, match="the original"):
            device.capture(fail)
        assert machine.names[before:] == ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphDestroy"]
        machine.failing = ("cuStreamEndCapture", 2, code("CUDA_ERROR_INVALID_VALUE"))
        with pytest.raises(KeyError, match="the original"):
            device.capture(fail)
        assert machine.captured is None
        assert {kind for kind, _ in machine.live} == {"context", "stream"}


def test_page_locked_memory_that_cannot_be_had_is_a_backend_error(machine: Any) -> None:
    with open_device() as device:
        machine.failing = ("cuMemHostAlloc", 1, code("CUDA_ERROR_OUT_OF_MEMORY"))
        with pytest.raises(BackendError, match="could not lock 48 bytes of host memory; ask"):
            device.pinned((3, 4), np.float32)


def test_a_thread_without_the_context_is_told_so_and_activating_helps(new_machine: Callable[[str], Any]) -> None:
    machine = new_machine("cuda-bindings")
    found: list[object] = []

    def work() -> None:
        try:
            device.memory()
        except DeviceError as error:
            found.append(str(error))
        device.activate()
        found.extend(device.memory())

    with open_device() as device:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert "cuMemGetInfo returned CUDA_ERROR_INVALID_CONTEXT" in str(found[0])
    assert found[1:] == [machine.total, machine.total]


def test_pycuda_is_left_with_the_contexts_it_had_and_other_libraries_with_ours(
    new_machine: Callable[[str], Any],
) -> None:
    machine = new_machine("pycuda")
    stack = machine.pycuda.stack
    left: list[int] = []
    with open_device() as device:
        assert stack() == []

        def work() -> None:
            device.activate()
            device.allocate(16).close()
            left.append(len(stack()))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        # A context that the caller pushed by himself, as pycuda.autoinit does.
        theirs = machine.pycuda.Context()
        theirs.handle = 5
        theirs.push()
        device.activate()
        device.memory()
        assert machine.stack[-1] == 77
        assert stack() == [theirs]
        machine.pycuda.Context.pop()
    assert left == [0], "pycuda aborts the process when a thread ends so"
    assert stack() == []
