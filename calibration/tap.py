"""Activations inside an ONNX graph, as outputs of a session on the CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..runtime.backends.onnxruntime import cpu_session

_AT_ONCE = 48
"""Activations that are held together: those of a large network are tens of megabytes each."""


class Tapped:
    """The graph in ``path`` with the activations ``names`` as outputs; a context manager."""

    def __init__(self, path: Path, names: Sequence[str], threads: int = 0) -> None:
        self._names = list(dict.fromkeys(names))
        self._folder = tempfile.TemporaryDirectory(prefix="copgen-tap-")
        model = onnx.load(path)
        known = {output.name for output in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._names if name not in known)
        copy = Path(self._folder.name) / "tapped.onnx"
        onnx.save_model(model, copy, save_as_external_data=True, location="tapped.data", size_threshold=1 << 16)
        del model
        self._session: Any = cpu_session(copy, threads)

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Each activation, by name, for ``inputs``."""
        for start in range(0, len(self._names), _AT_ONCE):
            names = self._names[start : start + _AT_ONCE]
            yield from zip(names, self._session.run(names, dict(inputs)), strict=True)

    def __enter__(self) -> Tapped:
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None
        self._folder.cleanup()
