"""Recording what is put on a stream as a CUDA graph, through cuda-bindings."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from ..errors import CaptureError, DeviceError
from .driver import Driver


def capture(driver: Driver, stream: int, enqueue: Callable[[], None]) -> Any:
    """The executable graph of what ``enqueue`` puts on ``stream`` from this thread; the caller destroys it.

    Nothing of it runs. Raises what ``enqueue`` raises, and :class:`CaptureError` where CUDA refuses; in both cases the
    stream is as it was and no graph is left.
    """
    # Global mode lets another thread's allocation spoil the capture, relaxed mode lets one of ours pass unseen.
    mode = driver.module.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    try:
        driver.call("cuStreamBeginCapture", stream, mode)
    except DeviceError as error:
        raise CaptureError(f"the capture of a CUDA graph did not start: {error}") from error
    try:
        enqueue()
    except BaseException:
        # A capture that enqueue spoiled ends with an error of its own and no graph; what spoilt it is what to know.
        with suppress(DeviceError):
            driver.call("cuGraphDestroy", driver.call("cuStreamEndCapture", stream))
        raise
    try:
        return _instantiate(driver, driver.call("cuStreamEndCapture", stream))
    except DeviceError as error:
        raise CaptureError(f"what was captured made no CUDA graph: {error}") from error


def _instantiate(driver: Driver, template: Any) -> Any:
    with ExitStack() as after_failure:
        with ExitStack() as after:
            after.callback(driver.call, "cuGraphDestroy", template)
            executable = driver.call("cuGraphInstantiate", template, 0)
            after_failure.callback(driver.call, "cuGraphExecDestroy", executable)
        after_failure.pop_all()
    return executable
