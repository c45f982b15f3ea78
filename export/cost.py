"""What one row through an ONNX graph costs, from its nodes and shapes alone: no weight is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import helper, shape_inference

from .onnx_file import ExportError

_UNCOUNTED = (
    *("Attention", "ConvInteger", "DeformConv", "Einsum", "MatMulInteger", "QLinearConv", "QLinearMatMul"),
    *("GRU", "LSTM", "RNN", "If", "Loop", "Scan"),
)
"""Nodes that multiply, or hold some that do, and that no graph of ours has: counted as nothing they would be a lie."""

_VIEWS = ("Constant", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""Nodes whose output is memory that is there already."""


@dataclass(frozen=True)
class _Tensor:
    """``shape`` is None where a part of it is unknown; ``itemsize`` in bytes."""

    shape: tuple[int, ...] | None
    itemsize: int


def graph_cost(path: Path) -> dict[str, int]:
    """The cost of the graph in ``path``, whose inputs and outputs all have the batch as their first dimension.

    ``flops_per_row``: twice the multiply-accumulates of MatMul, Gemm, Conv and ConvTranspose (before its padding is cut
    off), nothing else. ``weight_bytes``: initializers and constants. ``activation_bytes_per_row``: what the nodes'
    outputs take, each in memory of its own, reshapes apart: an upper bound, reached where nothing is fused.

    Shapes are inferred for one row and for two, and the difference is counted, so what does not grow with the batch
    (arithmetic on constants, which an engine does once when it is built) is in neither figure.
    Raises :class:`~copgen_edge.export.onnx_file.ExportError` where a shape is unknown, or for a node that multiplies
    and is none of the four.
    """
    model = onnx.load(path, load_external_data=False)
    # What the exporter noted of shapes has a symbol for the batch, which would stay.
    del model.graph.value_info[:]
    (flops, bytes_), (flops_of_two, bytes_of_two) = (_count(path.name, model, rows) for rows in (1, 2))
    return {
        "flops_per_row": flops_of_two - flops,
        "weight_bytes": sum(_bytes_of(tensor) for tensor in _constants(model.graph)),
        "activation_bytes_per_row": bytes_of_two - bytes_,
    }


def _count(name: str, model: onnx.ModelProto, rows: int) -> tuple[int, int]:
    """FLOPs and bytes of the nodes' outputs for ``rows`` rows."""
    tensors = _infer(name, model, rows)
    flops = bytes_ = 0
    for node in model.graph.node:
        if node.op_type in _UNCOUNTED or node.domain not in ("", "ai.onnx"):
            raise ExportError(
                f"{name}: the cost of {node.op_type} at {node.name!r} is not known, expected MatMul, Gemm, Conv or "
                "ConvTranspose where something is multiplied; add it to export/cost.py"
            )
        flops += 2 * _multiplications(name, node, tensors)
        if node.op_type not in _VIEWS:
            # An output that nobody takes has no name.
            for output in filter(None, node.output):
                bytes_ += math.prod(_shape(name, node, output, tensors)) * tensors[output].itemsize
    return flops, bytes_


def _infer(name: str, model: onnx.ModelProto, rows: int) -> Mapping[str, _Tensor]:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = rows
    try:
        graph = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except shape_inference.InferenceError as error:
        raise ExportError(
            f"{name}: the shapes for {rows} rows cannot be inferred ({' '.join(str(error).split())[:300]}); export it "
            "with a batch that is free"
        ) from error
    tensors = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        kind = value.type.tensor_type
        # No shape at all is not the shape of a scalar.
        known = kind.HasField("shape") and all(dimension.HasField("dim_value") for dimension in kind.shape.dim)
        shape = tuple(dimension.dim_value for dimension in kind.shape.dim) if known else None
        tensors[value.name] = _Tensor(shape, _itemsize(kind.elem_type))
    for tensor in graph.initializer:
        tensors[tensor.name] = _Tensor(tuple(tensor.dims), _itemsize(tensor.data_type))
    return tensors


def _multiplications(name: str, node: onnx.NodeProto, tensors: Mapping[str, _Tensor]) -> int:
    """The multiply-accumulates of ``node``."""

    def shape(value: str) -> tuple[int, ...]:
        return _shape(name, node, value, tensors)

    if node.op_type == "MatMul":
        return math.prod(shape(node.output[0])) * shape(node.input[0])[-1]
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return math.prod(shape(node.output[0])) * shape(node.input[0])[0 if transposed else 1]
    # Kernels are (out, in / groups, ...) of a convolution and (in, out / groups, ...) of a transposed one, so that all
    # but the first is what one output of the one, or one input of the other, is multiplied with.
    if node.op_type == "Conv":
        return math.prod(shape(node.output[0])) * math.prod(shape(node.input[1])[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(shape(node.input[0])) * math.prod(shape(node.input[1])[1:])
    return 0


def _shape(name: str, node: onnx.NodeProto, value: str, tensors: Mapping[str, _Tensor]) -> tuple[int, ...]:
    shape = tensors[value].shape if value in tensors else None
    if shape is None:
        raise ExportError(
            f"{name}: the shape of {value!r} at the {node.op_type} {node.name!r} is unknown, expected numbers in all "
            "dimensions but the batch; make it a constant in the module"
        )
    return shape


def _constants(graph: onnx.GraphProto) -> Iterable[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        if node.op_type == "Constant":
            yield from (attribute.t for attribute in node.attribute if attribute.name == "value")


def _bytes_of(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims) * _itemsize(tensor.data_type)


def _itemsize(data_type: int) -> int:
    return helper.tensor_dtype_to_np_dtype(data_type).itemsize
