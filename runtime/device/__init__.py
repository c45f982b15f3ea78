"""One NVIDIA GPU behind one small interface: memory, copies, a stream, events and graphs, on pycuda or cuda-bindings.

Nothing of CUDA is imported before :func:`open_device` is called.
"""

from __future__ import annotations

from .bindings import BindingsDevice
from .driver import Driver, import_or_reason
from .interface import Device
from .resources import Buffer, Event, Graph, Pinned
from .with_pycuda import PycudaDevice

__all__ = ["Buffer", "Device", "Event", "Graph", "Pinned", "open_device"]


def open_device(ordinal: int = 0) -> Device:
    """GPU number ``ordinal``, as CUDA counts them, its primary context made current in the calling thread.

    On pycuda where it is installed and loads, with cuda-bindings for what pycuda lacks; on cuda-bindings alone
    otherwise: ``reason`` of the device says why. Raises :class:`BackendError` where cuda-bindings, the driver or
    the GPU is missing, :class:`DeviceError` where a later call fails.
    """
    driver = Driver()
    handle, name = driver.find(ordinal)
    pycuda, obstacle = import_or_reason("pycuda.driver", "pycuda")
    if pycuda is None:
        return BindingsDevice(driver, handle, name, obstacle)
    return PycudaDevice(driver, pycuda, ordinal, name)
