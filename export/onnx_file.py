"""One component as one checked ONNX file: opset 20, dynamic batch, weights beside it where they are large."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from pathlib import Path

import onnx
import onnx_ir
import torch
from torch import nn

from ..runtime.components import Contract
from ..runtime.errors import CopgenError

OPSET = 20
"""Read by TensorRT 10.0 to 11.x and TensorRT-RTX, and the last before their attention and norm support diverges."""

EXTERNAL_BYTES = 64 << 20
"""Weights above this go into one file beside the graph, which is mapped, not parsed, when a session opens."""

FORBIDDEN = ("Shape", "Loop", "If")
"""Nodes that a GPU engine cannot fuse or puts on the CPU; with a dynamic batch alone none is needed."""


class ExportError(CopgenError):
    """A component did not become the ONNX file it should be."""


def write_onnx(module: nn.Module, contract: Contract, path: Path) -> tuple[Path, ...]:
    """Export ``module`` to ``path`` and check the file; the files written, the graph first.

    Raises :class:`ExportError` where the file fails onnx's checker or shape inference, has a :data:`FORBIDDEN` node, or
    has other inputs and outputs than ``contract``.
    """
    names = [spec.name for spec in contract.inputs]
    batch = torch.export.Dim("batch")
    # Two rows: torch.export takes a size of 1 for a constant.
    inputs = tuple(torch.zeros(2, *(int(n) for n in spec.shape[1:])) for spec in contract.inputs)
    with _quiet():
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            opset_version=OPSET,
            input_names=names,
            output_names=[spec.name for spec in contract.outputs],
            dynamic_shapes=tuple({0: batch} for _ in names),
            optimize=True,
        )
    if program is None:
        raise ExportError(f"PyTorch exported nothing for {path.name}; report this with the versions of torch and onnx")
    model = program.model
    _strip(model)
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    external = f"{path.name}.data" if size > EXTERNAL_BYTES else None
    onnx_ir.save(model, path, external_data=external)
    del program, model
    _check(path, contract)
    return (path, path.with_name(external)) if external else (path,)


def _strip(model: onnx_ir.Model) -> None:
    """Drop what the exporter notes for debugging: it holds paths of the machine that exported."""
    model.doc_string = None
    model.metadata_props.clear()
    model.graph.doc_string = None
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.doc_string = None
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def _check(path: Path, contract: Contract) -> None:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{path.name} is no valid ONNX: {' '.join(str(error).split())[:300]}") from error
    model = onnx.load(path, load_external_data=False)
    counts = Counter(node.op_type for node in model.graph.node)
    if found := [f"{counts[op]} {op}" for op in FORBIDDEN if counts[op]]:
        raise ExportError(f"{path.name} has {', '.join(found)} nodes; a shape in the module is not a constant")
    for values, specs in ((model.graph.input, contract.inputs), (model.graph.output, contract.outputs)):
        shapes = [(v.name, tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim)) for v in values]
        if shapes != [(spec.name, spec.shape) for spec in specs]:
            raise ExportError(f"{path.name} has {shapes}, expected {[(spec.name, spec.shape) for spec in specs]}")


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]
    """Keep the exporter's own progress lines and its notes on packages we do not use off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
