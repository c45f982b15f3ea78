"""Which NVIDIA GPUs this machine has, asked of the driver itself, so that no CUDA package is needed to know."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver names it; ``memory`` in bytes, ``processors`` its multiprocessors."""

    name: str
    capability: tuple[int, int]
    memory: int
    processors: int

    @property
    def compute_capability(self) -> str:
        """``capability`` as NVIDIA writes it, such as ``8.9``."""
        return ".".join(str(number) for number in self.capability)


def gpus() -> tuple[Gpu, ...]:
    """The GPUs of this machine; empty where there is no driver or no device (CUDA driver API, cuDeviceGet*)."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    found = []
    for ordinal in range(count.value):
        device, memory = ctypes.c_int(), ctypes.c_size_t()
        name = ctypes.create_string_buffer(256)
        major, minor, processors = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        returned = (
            driver.cuDeviceGet(ctypes.byref(device), ordinal),
            driver.cuDeviceGetName(name, 256, device),
            driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device),
            driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device),
            driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device),
            driver.cuDeviceGetAttribute(ctypes.byref(processors), _PROCESSORS, device),
        )
        if not any(returned):
            found.append(Gpu(name.value.decode(), (major.value, minor.value), memory.value, processors.value))
    return tuple(found)


# CUdevice_attribute values of the CUDA driver API.
_PROCESSORS = 16
_CAPABILITY_MAJOR = 75
_CAPABILITY_MINOR = 76
