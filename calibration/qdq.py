"""Quantised layers in an ONNX graph, said by QuantizeLinear and DequantizeLinear: what TensorRT reads as its precision,
and what ONNX Runtime fuses into integer products.

Weights are symmetric with a scale for each output channel (Jacob et al., arXiv 1712.05877; Nagel et al., 2106.08295),
activations have one scale. All forms compute in the dtype of the graph they are put into: half for TensorRT, float32
for a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ..runtime.errors import CalibrationError
from .layers import Layer

RANGED = frozenset({"s8s8", "u8s8", "fp8"})
"""Forms whose activations have a range that is measured beforehand."""
FORMS = frozenset({*RANGED, "w8", "w4", "float"})

INT8, INT4, FP8 = 127.0, 7.0, 448.0
"""Largest magnitudes of a symmetric INT8 and INT4, and of an FP8 E4M3 (OCP 8-bit floating point, 2023)."""

INT4_BLOCK = 64
"""Weights of one output channel that share a scale in INT4."""

_BLOCKS_OPSET = 21
"""From here on DequantizeLinear has blocks and INT4."""

_LEAST_SCALE: Mapping[int, float] = {TensorProto.FLOAT: 1e-12, TensorProto.FLOAT16: 2.0**-20}
"""A channel of zeros has no scale of its own, and half has no smaller numbers that matter."""


@dataclass(frozen=True)
class Limits:
    """What an activation is quantised between: ``low`` and ``high``; a symmetric form takes the larger magnitude.

    ``migrated`` (channels,) divides the activation and multiplies the weight's rows first (SmoothQuant, arXiv
    2211.10438); None leaves both.
    """

    low: float
    high: float
    migrated: NDArray[np.float32] | None = None

    @property
    def magnitude(self) -> float:
        """The larger of the two."""
        return max(abs(self.low), abs(self.high))


def quantise_layers(
    model: onnx.ModelProto, layers: Mapping[Layer, str], limits: Mapping[str, Limits]
) -> onnx.ModelProto:
    """Put each layer of ``model``, whose weights are loaded, into its form, in place; ``limits`` by the layer's path.

    Forms: ``s8s8`` (INT8, both symmetric: TensorRT's), ``u8s8`` (activation unsigned with a zero point: the one that is
    fast on a CPU), ``fp8`` (E4M3), ``w8`` (INT8 weights alone), ``w4`` (INT4 weights alone, in blocks of
    :data:`INT4_BLOCK`; products only), ``float`` (nothing but the migration). Raises :class:`CalibrationError` for
    another form, where a layer's limits are missing or not finite, and for weights that blocks do not divide.
    """
    editor = _Editor(model)
    for layer, form in layers.items():
        if form not in FORMS:
            raise CalibrationError(f"found the form {form!r} for {layer.path}, expected one of {', '.join(FORMS)}")
        found = limits.get(layer.path)
        if form in RANGED and (found is None or not np.isfinite([found.low, found.high]).all()):
            raise CalibrationError(f"{layer.path} has no finite limits; record more trajectories")
        editor.quantise(layer, form, found)
    editor.finish()
    return model


class _Editor:
    """Edits a graph layer by layer; two layers of one activation share what quantises it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._graph = model.graph
        self._nodes = {node.name: node for node in model.graph.node}
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._users: dict[str, int] = {}
        for node in model.graph.node:
            for name in node.input:
                self._users[name] = self._users.get(name, 0) + 1
        self._before: dict[str, list[onnx.NodeProto]] = {}
        self._made: dict[tuple[object, ...], str] = {}

    def quantise(self, layer: Layer, form: str, limits: Limits | None) -> None:
        node = self._nodes[layer.node]
        tensor = self._weights[layer.weight]
        weight = numpy_helper.to_array(tensor).astype(np.float32)
        dtype = tensor.data_type
        if limits is not None and limits.migrated is not None:
            shape = [1] * weight.ndim
            shape[0 if layer.op == "MatMul" else 1] = -1
            weight = weight * limits.migrated.reshape(shape)
        new: list[onnx.NodeProto] = []
        if form == "float":
            held = helper.tensor_dtype_to_np_dtype(dtype)
            node.input[1] = self._constant(f"{layer.path}.weight_migrated", weight.astype(held))
        else:
            write = self._blocks if form == "w4" else self._weight
            node.input[1] = write(layer, weight, dtype, form, new)
        if limits is not None:
            node.input[0] = self._activation(layer, limits, form, dtype, new)
        self._before.setdefault(layer.node, []).extend(new)
        self._users[layer.weight] -= 1

    def finish(self) -> None:
        """Put the new nodes before those that read them, and drop weights that nothing reads."""
        ordered: list[onnx.NodeProto] = []
        for node in self._graph.node:
            ordered += [*self._before.get(node.name, ()), node]
        del self._graph.node[:]
        self._graph.node.extend(ordered)
        kept = [tensor for tensor in self._graph.initializer if self._users.get(tensor.name, 1) > 0]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _weight(
        self, layer: Layer, weight: NDArray[np.float32], dtype: int, form: str, new: list[onnx.NodeProto]
    ) -> str:
        top = FP8 if form == "fp8" else INT8
        others = tuple(axis for axis in range(weight.ndim) if axis != layer.axis)
        scale = np.maximum(np.abs(weight).max(axis=others) / top, _LEAST_SCALE[dtype])
        # The scale as the graph holds it, so that what is rounded is what will be multiplied.
        held = scale.astype(helper.tensor_dtype_to_np_dtype(dtype))
        shape = [1] * weight.ndim
        shape[layer.axis] = -1
        scaled = np.clip(weight / held.astype(np.float32).reshape(shape), -top, top)
        if form == "fp8":
            stored = helper.make_tensor(
                f"{layer.path}.weight_fp8",
                TensorProto.FLOAT8E4M3FN,
                scaled.shape,
                scaled.astype(ml_dtypes.float8_e4m3fn).tobytes(),
                raw=True,
            )
        else:
            stored = numpy_helper.from_array(np.rint(scaled).astype(np.int8), f"{layer.path}.weight_int8")
        zero = self._zero(stored.data_type, (len(scale),))
        names = [stored.name, self._constant(f"{layer.path}.weight_scale", held), zero]
        self._graph.initializer.append(stored)
        out = f"{layer.path}.weight"
        new.append(helper.make_node("DequantizeLinear", names, [out], f"{layer.path}.weight_dq", axis=layer.axis))
        return out

    def _blocks(
        self, layer: Layer, weight: NDArray[np.float32], dtype: int, form: str, new: list[onnx.NodeProto]
    ) -> str:
        if weight.ndim != 2 or len(weight) % INT4_BLOCK:
            raise CalibrationError(
                f"{layer.path} has weights of {weight.shape}, which blocks of {INT4_BLOCK} do not divide; leave it out "
                f"of {form}"
            )
        held_in = helper.tensor_dtype_to_np_dtype(dtype)
        blocks = weight.reshape(-1, INT4_BLOCK, weight.shape[1])
        held = np.maximum(np.abs(blocks).max(axis=1) / INT4, _LEAST_SCALE[dtype]).astype(held_in)
        scaled = np.clip(blocks / held[:, None].astype(np.float32), -INT4, INT4)
        codes = np.rint(scaled).reshape(weight.shape).astype(ml_dtypes.int4)
        stored = numpy_helper.from_array(codes, f"{layer.path}.weight_int4")
        self._graph.initializer.append(stored)
        names, out = [stored.name, self._constant(f"{layer.path}.weight_scale", held)], f"{layer.path}.weight"
        made = helper.make_node(
            "DequantizeLinear", names, [out], f"{layer.path}.weight_dq", axis=0, block_size=INT4_BLOCK
        )
        new.append(made)
        for opset in self._model.opset_import:
            # None of the operators of an exported component means another thing there.
            if opset.domain in ("", "ai.onnx"):
                opset.version = max(opset.version, _BLOCKS_OPSET)
        return out

    def _activation(self, layer: Layer, limits: Limits, form: str, dtype: int, new: list[onnx.NodeProto]) -> str:
        migrated = None if limits.migrated is None else limits.migrated.tobytes()
        known = (layer.source, form, limits.low, limits.high, migrated)
        if known in self._made:
            return self._made[known]
        source, name = layer.source, f"{layer.path}.input"
        held = helper.tensor_dtype_to_np_dtype(dtype)
        if limits.migrated is not None:
            shape = (-1,) if layer.op == "MatMul" else (1, -1, 1, 1)
            factor = self._constant(f"{name}_migration", (1 / limits.migrated).reshape(shape).astype(held))
            new.append(helper.make_node("Mul", [source, factor], [f"{name}_migrated"], f"{name}_migrate"))
            source = f"{name}_migrated"
        if form not in RANGED:
            self._made[known] = source
            return source
        if form == "u8s8":
            low, high = min(limits.low, 0.0), max(limits.high, 0.0)
            scale = max((high - low) / 255, _LEAST_SCALE[dtype])
            zero = self._constant(f"{name}_zero", np.asarray(np.clip(np.rint(-low / scale), 0, 255), np.uint8))
        else:
            scale = max(limits.magnitude / (FP8 if form == "fp8" else INT8), _LEAST_SCALE[dtype])
            zero = self._zero(TensorProto.FLOAT8E4M3FN if form == "fp8" else TensorProto.INT8, ())
        scales = self._constant(f"{name}_scale", np.asarray(scale, held))
        new.append(helper.make_node("QuantizeLinear", [source, scales, zero], [f"{name}_q"], f"{name}_quantize"))
        new.append(helper.make_node("DequantizeLinear", [f"{name}_q", scales, zero], [f"{name}_dq"], f"{name}_dq"))
        self._made[known] = f"{name}_dq"
        return f"{name}_dq"

    def _zero(self, data_type: int, shape: tuple[int, ...]) -> str:
        name = f"zero_{data_type}_{'x'.join(map(str, shape))}"
        if ("zero", name) not in self._made:
            size = int(np.prod(shape, dtype=int))
            self._graph.initializer.append(helper.make_tensor(name, data_type, shape, bytes(size), raw=True))
            self._made["zero", name] = name
        return name

    def _constant(self, name: str, array: NDArray[np.generic]) -> str:
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        return name
