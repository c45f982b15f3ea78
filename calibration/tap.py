"""Activations inside an ONNX graph, as outputs of a session on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ..runtime.backends.onnxruntime import import_onnxruntime

CHUNK_BYTES = 1 << 30
"""What the activations of one run of a graph may take together."""


class Tapped:
    """The float32 graph in ``path`` with the activations ``names`` as outputs, so many at a time that they fit
    :data:`CHUNK_BYTES`; ``elements`` has the numbers in one row of each, where it is known."""

    def __init__(
        self, path: Path, names: Sequence[str], elements: Mapping[str, int] | None = None, threads: int = 0
    ) -> None:
        model = onnx.load(path, load_external_data=False)
        sizes = elements if elements is not None else _elements(model)
        self._chunks = list(_chunks(list(dict.fromkeys(names)), sizes))
        known = {output.name for output in model.graph.output}
        outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for c in self._chunks for n in c]
        model.graph.output.extend(output for output in outputs if output.name not in known)
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        # More would fuse nodes, and what they hand on would be none of the graph's.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        # Large weights lie beside the graph, which is given as bytes.
        folder = str(path.parent.resolve())
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        providers = ["CPUExecutionProvider"]
        self._session: Any = ort.InferenceSession(model.SerializeToString(), options, providers=providers)

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Each activation, by name, for ``inputs``."""
        for names in self._chunks:
            yield from zip(names, self._session.run(names, dict(inputs)), strict=True)


def _elements(model: onnx.ModelProto) -> dict[str, int]:
    found = {}
    for value in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info:
        # The batch is a symbol: one row.
        found[value.name] = int(np.prod([d.dim_value or 1 for d in value.type.tensor_type.shape.dim], dtype=np.int64))
    return found


def _chunks(names: Sequence[str], elements: Mapping[str, int]) -> Iterator[list[str]]:
    chunk: list[str] = []
    taken = 0
    for name in names:
        size = 4 * elements.get(name, 0)
        if chunk and taken + size > CHUNK_BYTES:
            yield chunk
            chunk, taken = [], 0
        chunk.append(name)
        taken += size
    if chunk:
        yield chunk
