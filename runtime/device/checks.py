"""What is refused before CUDA is asked, since CUDA would fail without saying why, or copy the wrong bytes."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ..errors import DeviceError


def refuse_nothing(size: int) -> None:
    """:class:`DeviceError` for memory of no size."""
    if size < 1:
        raise DeviceError(f"{size} bytes of memory were asked for; expected at least 1, check the shape")


def refuse_gaps(array: NDArray[Any]) -> None:
    """:class:`DeviceError` for an array that is not one piece of memory in C order."""
    if not array.flags.c_contiguous:
        raise DeviceError(
            f"an array of shape {array.shape} and strides {array.strides} is not C-contiguous, which a copy expects; "
            "pass numpy.ascontiguousarray of it"
        )
