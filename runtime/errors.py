"""The exceptions of copgen-edge: one family, so that a caller can catch all of it by one name.

A message says what was found, what was expected, and what to do next, on one line. The command line maps
:class:`RequestError` to exit code 2 and every other :class:`CopgenError` to exit code 1.
"""


class CopgenError(Exception):
    """Anything copgen-edge raises on purpose."""


class RequestError(CopgenError):
    """What was asked for cannot be done as it was asked."""


class RasterError(RequestError):
    """A raster cannot serve as the condition it was given for."""


class CheckpointError(RequestError):
    """A checkpoint is missing, damaged, or not the model it should be."""


class BundleError(RequestError):
    """A bundle is missing, damaged, or lacks what was asked of it."""


class BackendError(RequestError):
    """The inference engine that was asked for cannot run here."""


class NonFiniteError(CopgenError):
    """A component of the model gave NaN or infinity."""


class ParityError(CopgenError):
    """A component differs from its reference by more than its tolerance."""


class EngineError(CopgenError):
    """TensorRT could not build an engine."""


class CalibrationError(RequestError):
    """Recorded trajectories or a plan cannot be used."""


class DeviceError(CopgenError):
    """A CUDA call failed."""


class CaptureError(DeviceError):
    """Work on a GPU could not be captured as a graph."""


def one_line(error: Exception) -> str:
    """What a library's ``error`` says, on one line and cut to what a message can hold."""
    return " ".join(str(error).split())[:300]
