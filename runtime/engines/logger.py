"""What a TensorRT library says while it builds and opens engines: the errors, and which attentions were fused."""

from __future__ import annotations

import re
from typing import Any

# A layer of the engine; the same words also stand in the names of tactics.
_FUSED = re.compile(r"(?:\bName: |Layer\(\w+\): )(\w*_gemm_mha\w*)")


def make_logger(trt: Any) -> Any:
    """A logger for the library ``trt``.

    ``fused`` holds the names of fused attentions, of which a build of detailed profiling verbosity tells;
    ``last_error()`` is the last error as ``": text"``, or nothing.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps the names of fused attentions and the last error."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.fused: set[str] = set()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.fused.update(_FUSED.findall(message))
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

        def last_error(self) -> str:
            return f": {self.errors[-1][:300]}" if self.errors else ""

    return Logger()
