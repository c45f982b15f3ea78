"""What a device does: the same tests on the fakes of both implementations, and on a real GPU where there is one."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from copgen_edge.runtime.device import Device, open_device
from copgen_edge.runtime.errors import BackendError, CaptureError, DeviceError

KINDS = ["cuda-bindings", "pycuda"]


@pytest.fixture(params=[*KINDS, *(pytest.param(f"real {kind}", marks=pytest.mark.gpu) for kind in KINDS)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """An open device; on a fake, nothing may be left of it, nor have been freed wrongly."""
    kind = request.param.removeprefix("real ")
    machine = None
    if kind == request.param:
        machine = request.getfixturevalue("new_machine")(kind)
    elif kind == "pycuda":
        pytest.importorskip("pycuda.driver")
    else:
        monkeypatch.setitem(sys.modules, "pycuda.driver", None)  # type: ignore[arg-type]
    with open_device() as opened:
        assert opened.kind == kind
        yield opened
    if machine is not None:
        assert (machine.live, machine.mistakes, machine.printed) == ({}, [], [])


def read(device: Device, address: int, like: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found = np.full_like(like, 9)
    device.download(found, address)
    device.synchronize()
    return found


def test_what_is_uploaded_is_downloaded(device: Device) -> None:
    for dtype in ("float32", "float16", "int64", "uint8"):
        given = np.arange(24).reshape(2, 3, 4).astype(dtype)
        with device.allocate(given.nbytes) as buffer:
            assert buffer.size == given.nbytes
            device.upload(buffer.address, given)
            np.testing.assert_array_equal(read(device, buffer.address, given), given)


def test_copies_and_zeros_stay_within_their_size(device: Device) -> None:
    given = np.arange(1, 9, dtype=np.float32)
    with device.allocate(32) as first, device.allocate(32) as second:
        device.upload(first.address, given)
        device.zero(second.address, 32)
        device.copy(second.address + 4, first.address + 8, 12)
        np.testing.assert_array_equal(read(device, second.address, given), [0, 3, 4, 5, 0, 0, 0, 0])
        device.zero(first.address, 8)
        np.testing.assert_array_equal(read(device, first.address, given), [0, 0, 3, 4, 5, 6, 7, 8])


def test_pinned_memory_is_an_array_that_copies_reach(device: Device) -> None:
    with device.pinned((2, 3), "float16") as pinned, device.allocate(12) as buffer:
        assert (pinned.array.shape, pinned.array.dtype) == ((2, 3), np.float16)
        assert pinned.array.flags.c_contiguous
        assert pinned.array.flags.writeable
        pinned.array[:] = [[1, 2, 3], [4, 5, 6]]
        device.upload(buffer.address, pinned.array)
        device.synchronize()
        pinned.array[:] = 0
        device.download(pinned.array, buffer.address)
        device.synchronize()
        np.testing.assert_array_equal(pinned.array, [[1, 2, 3], [4, 5, 6]])


def test_a_graph_repeats_its_work_on_what_lies_there_now(device: Device) -> None:
    with device.pinned((4,), np.float32) as given, device.pinned((4,), np.float32) as taken:
        first, second = device.allocate(16), device.allocate(16)
        given.array[:] = taken.array[:] = 5

        def work() -> None:
            device.upload(first.address, given.array)
            device.copy(second.address, first.address, 12)
            device.download(taken.array, second.address)

        device.zero(second.address, 16)
        with device.capture(work) as graph:
            device.synchronize()
            assert list(taken.array) == [5, 5, 5, 5], "capturing ran the work"
            for values in ([1, 2, 3, 4], [5, 6, 7, 8]):
                given.array[:] = values
                graph.launch()
                device.synchronize()
                assert list(taken.array) == [*values[:3], 0]


def test_events_measure_forwards(device: Device) -> None:
    with device.allocate(1 << 16) as buffer, device.event() as start, device.event() as end:
        start.record()
        device.zero(buffer.address, buffer.size)
        end.record()
        assert start.milliseconds_until(end) > 0
        assert end.milliseconds_until(start) < 0


def test_memory_is_counted(device: Device) -> None:
    free, total = device.memory()
    assert 0 < free <= total
    with device.allocate(free // 2):
        assert device.memory()[0] <= free - free // 2
    with pytest.raises(
        BackendError, match=rf"no room for {2 * total} bytes, \d+ of its {total} are free; ask"
    ) as caught:
        device.allocate(2 * total)
    assert "\n" not in str(caught.value)
    device.allocate(256).close()


def test_what_cannot_be_is_refused_before_the_driver_is_asked(device: Device) -> None:
    for shape in ((0,), (3, 0)):
        with pytest.raises(DeviceError, match="0 bytes of memory were asked for"):
            device.pinned(shape, np.float32)
    with pytest.raises(DeviceError, match="0 bytes of memory were asked for"):
        device.allocate(0)
    fixed = np.zeros(4, np.float32)
    fixed.setflags(write=False)
    with device.allocate(64) as buffer:
        for refused in (np.zeros((4, 2), np.float32).T, np.zeros(8, np.float32)[::2]):
            with pytest.raises(DeviceError, match="not C-contiguous"):
                device.upload(buffer.address, refused)
            with pytest.raises(DeviceError, match="not C-contiguous"):
                device.download(refused, buffer.address)
        with pytest.raises(DeviceError, match="read-only"):
            device.download(fixed, buffer.address)
        device.upload(buffer.address, fixed)
        device.synchronize()


def test_what_is_closed_stays_closed_and_says_so(device: Device) -> None:
    buffer, pinned, event = device.allocate(16), device.pinned((4,), np.uint8), device.event()
    graph = device.capture(lambda: device.zero(buffer.address, 16))
    uses: list[tuple[Any, Callable[[], object]]] = [
        (graph, graph.launch),
        (event, event.record),
        (pinned, lambda: pinned.array),
        (buffer, lambda: buffer.address),
    ]
    for resource, use in uses:
        resource.close()
        resource.close()
        with pytest.raises(DeviceError, match=f"this {type(resource).__name__} is closed"):
            use()


def test_another_thread_works_after_activating(device: Device) -> None:
    found: list[Any] = []

    def work() -> None:
        try:
            device.activate()
            with device.allocate(16) as buffer, device.event():
                device.upload(buffer.address, np.arange(4, dtype=np.int32))
                found.extend(read(device, buffer.address, np.zeros(4, np.int32)))
        except DeviceError as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [0, 1, 2, 3]


def test_a_device_may_be_closed_in_another_thread(device: Device) -> None:
    device.allocate(16)
    device.event()
    device.capture(lambda: None)
    failed: list[DeviceError] = []

    def close() -> None:
        try:
            device.close()
        except DeviceError as error:
            failed.append(error)

    thread = threading.Thread(target=close)
    thread.start()
    thread.join()
    assert not failed
    with pytest.raises(DeviceError, match="is closed; open it again"):
        device.activate()


def test_a_failure_while_capturing_is_raised_as_it_is_and_ends_the_capture(device: Device) -> None:
    with device.allocate(16) as buffer:
        device.zero(buffer.address, 16)

        def fail() -> None:
            device.zero(buffer.address, 16)
            raise KeyError("the original")

        with pytest.raises(KeyError, match="the original"):
            device.capture(fail)
        with device.capture(lambda: device.zero(buffer.address, 16)) as graph:
            graph.launch()
        device.synchronize()


def test_what_spoils_a_capture_is_a_capture_error_and_the_stream_stays_usable(device: Device) -> None:
    def spoil() -> None:
        with pytest.raises(DeviceError):
            device.synchronize()

    with pytest.raises(
        CaptureError, match="cuStreamEndCapture returned CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
    ) as caught:
        device.capture(spoil)
    assert "\n" not in str(caught.value)
    device.synchronize()
    device.capture(lambda: None).close()


def test_a_capture_within_a_capture_is_refused(device: Device) -> None:
    with pytest.raises(CaptureError, match="did not start: cuStreamBeginCapture"):
        device.capture(lambda: device.capture(lambda: None).close())
    device.synchronize()
