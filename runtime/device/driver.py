"""The CUDA driver through cuda-bindings: every call made in one place, every return code checked there."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import BackendError, DeviceError, one_line

ADVICE = "see nvidia-smi and copgen-edge doctor for the state of the driver and the GPU"
_START_AGAIN = "start the process again, since CUDA does not recover from this within one"
_NEWER_DRIVER = (
    "install an NVIDIA driver that is as new as cuda-bindings, in a container give it the GPU, "
    "or run pip install 'cuda-bindings==MAJOR.*' with the CUDA version that nvidia-smi shows"
)
_ADVICE = {
    "CUDA_ERROR_OUT_OF_MEMORY": "ask for less at once, or close other programs on the GPU",
    "CUDA_ERROR_ILLEGAL_ADDRESS": _START_AGAIN,
    "CUDA_ERROR_LAUNCH_FAILED": _START_AGAIN,
    "CUDA_ERROR_LAUNCH_TIMEOUT": _START_AGAIN,
    "CUDA_ERROR_MISALIGNED_ADDRESS": _START_AGAIN,
    "CUDA_ERROR_ECC_UNCORRECTABLE": _START_AGAIN,
    "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": "allocate and synchronise before capturing, not within",
    "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED": "allocate and synchronise before capturing, not within",
}


class OutOfMemoryError(DeviceError):
    """A CUDA call wanted more memory than there is."""


def import_or_reason(module: str, package: str) -> tuple[Any, str]:
    """``module`` and "", or None and why ``package`` cannot be used."""
    try:
        return import_module(module), ""
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            return None, f"{package} is not installed"
        return None, f"{package} is installed but does not load ({one_line(error)})"


class Driver:
    """``cuda.bindings.driver`` (12.6 and later), as ``module``; :class:`BackendError` where it is missing or broken."""

    def __init__(self) -> None:
        self.module, obstacle = import_or_reason("cuda.bindings.driver", "cuda-bindings")
        if self.module is None:
            raise BackendError(
                f"{obstacle}, and a GPU is driven through it, with pycuda or without; "
                "run pip install --upgrade 'copgen-edge[tensorrt]', or pip install --upgrade cuda-bindings"
            )

    def call(self, name: str, *arguments: Any) -> Any:
        """What the driver's function ``name`` returns beside its code: one value, a tuple of several, or ().

        Raises :class:`DeviceError` (:class:`OutOfMemoryError` for that code) naming the call, the code and its meaning.
        """
        try:
            code, *values = getattr(self.module, name)(*arguments)
        # RuntimeError: no libcuda, or one without this function. ValueError: a code that the bindings do not know.
        except (RuntimeError, ValueError) as error:
            raise DeviceError(f"{name} could not be called ({one_line(error)}); {_NEWER_DRIVER}") from error
        if code != self.module.CUresult.CUDA_SUCCESS:
            kind = OutOfMemoryError if code == self.module.CUresult.CUDA_ERROR_OUT_OF_MEMORY else DeviceError
            raise kind(f"{name} returned {code.name} ({self._meaning(code)}); {_ADVICE.get(code.name, ADVICE)}")
        return values[0] if len(values) == 1 else tuple(values)

    def _meaning(self, code: Any) -> str:
        known, text = self.module.cuGetErrorString(code)
        if known != self.module.CUresult.CUDA_SUCCESS:
            return "a code that the driver has no words for"
        return text.decode()

    def find(self, ordinal: int) -> tuple[Any, str]:
        """Handle and name of GPU number ``ordinal``; :class:`BackendError` where there is no driver or no such GPU."""
        try:
            self.call("cuInit", 0)
            count = self.call("cuDeviceGetCount")
            if 0 <= ordinal < count:
                handle = self.call("cuDeviceGet", ordinal)
                # The bindings give back the whole buffer, what follows the end of the text included.
                return handle, self.call("cuDeviceGetName", 256, handle).partition(b"\0")[0].decode()
        except DeviceError as error:
            raise BackendError(f"no NVIDIA GPU can be used here: {error}") from error
        raise BackendError(
            f"GPU number {ordinal} was asked for but the driver shows {count}, counted from 0; "
            "ask for another, or check CUDA_VISIBLE_DEVICES"
        )
