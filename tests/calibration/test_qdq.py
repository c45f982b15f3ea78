"""A quantised layer is the layer it was, as far as its steps allow, and says it in the form that was asked for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from copgen_edge.calibration.layers import Layer
from copgen_edge.calibration.qdq import INT4_BLOCK, Limits, quantise_layers
from copgen_edge.runtime.errors import CalibrationError
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(8, 6)).astype(np.float32)
OTHER = RNG.normal(size=(8, 4)).astype(np.float32)
X = RNG.uniform(-1, 1, (5, 8)).astype(np.float32)
FIRST = Layer("first", "n1", "MatMul", "x", "w1", WEIGHT.shape)
SECOND = Layer("second", "n2", "MatMul", "x", "w2", OTHER.shape)


def model(dtype: type = np.float32, weight: np.ndarray = WEIGHT) -> onnx.ModelProto:
    """Two products of one activation."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w1"], ["y1"], "n1"), helper.make_node("MatMul", ["x", "w2"], ["y2"], "n2")],
        "g",
        [helper.make_tensor_value_info("x", kind, [5, 8])],
        [helper.make_tensor_value_info(name, kind, [5, n]) for name, n in (("y1", weight.shape[1]), ("y2", 4))],
        [numpy_helper.from_array(weight.astype(dtype), "w1"), numpy_helper.from_array(OTHER.astype(dtype), "w2")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def run(made: onnx.ModelProto, x: np.ndarray = X) -> list[np.ndarray]:
    onnx.checker.check_model(made, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(
        None, {"x": x}
    )


def rounded(values: np.ndarray, scale: Any, zero: float, low: float, high: float) -> np.ndarray:
    return (np.clip(np.rint(values / scale) + zero, low, high) - zero) * scale


@pytest.mark.parametrize("form", ["s8s8", "u8s8", "w8"])
def test_integers_are_those_of_the_arithmetic(form: str) -> None:
    limits = Limits(-0.5, 1.0)
    found, untouched = run(quantise_layers(model(), {FIRST: form}, {"first": limits}))
    weight = rounded(WEIGHT, np.abs(WEIGHT).max(axis=0) / 127, 0, -127, 127)
    x = X
    if form == "s8s8":
        x = rounded(X, np.float32(1 / 127), 0, -128, 127)
    if form == "u8s8":
        x = rounded(X, np.float32(1.5 / 255), 85, 0, 255)
        assert x.min() >= -0.5 - 1e-6, "what is below the limit is cut"
    np.testing.assert_allclose(found, x @ weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(untouched, X @ OTHER)


def test_int4_weights_have_a_scale_a_block() -> None:
    weight = RNG.normal(size=(2 * INT4_BLOCK, 3)).astype(np.float32)
    weight[:INT4_BLOCK] *= 50
    layer = Layer("first", "n", "MatMul", "x", "w", weight.shape)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "n")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 2 * INT4_BLOCK])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, 3])],
        [numpy_helper.from_array(weight, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    x = RNG.normal(size=(5, 2 * INT4_BLOCK)).astype(np.float32)
    (found,) = run(quantise_layers(made, {layer: "w4"}, {}), x)
    blocks = weight.reshape(2, INT4_BLOCK, 3)
    near = rounded(blocks, np.abs(blocks).max(axis=1, keepdims=True) / 7, 0, -7, 7).reshape(weight.shape)
    np.testing.assert_allclose(found, x @ near, rtol=1e-4, atol=1e-3)
    assert sum(len(tensor.raw_data) for tensor in made.graph.initializer) == weight.size // 2 + 2 * 3 * 4


def test_weights_that_blocks_do_not_divide_are_refused() -> None:
    with pytest.raises(CalibrationError, match=r"first has weights of \(8, 6\), which blocks of 64 do not divide"):
        quantise_layers(model(), {FIRST: "w4"}, {})


def test_fp8_keeps_three_bits_of_each_number() -> None:
    found, _ = run(quantise_layers(model(), {FIRST: "fp8"}, {"first": Limits(-1, 1)}))
    # Half of the last of three bits, in weight and activation.
    bound = (np.abs(X) @ np.abs(WEIGHT)) * (2 * 2**-4 + 2**-8) + 1e-3
    assert (np.abs(found - X @ WEIGHT) <= bound).all()
    assert not np.allclose(found, X @ WEIGHT, rtol=1e-3)


def test_a_graph_in_half_stays_in_half() -> None:
    made = quantise_layers(model(np.float16), {FIRST: "s8s8", SECOND: "w8"}, {"first": Limits(-1, 1)})
    kinds = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert kinds["first.weight_scale"] == kinds["first.input_scale"] == TensorProto.FLOAT16
    found, other = run(made, X.astype(np.float16))
    assert found.dtype == other.dtype == np.float16
    np.testing.assert_allclose(found, X @ WEIGHT, atol=0.06)
    np.testing.assert_allclose(other, X @ OTHER, atol=0.06)


def test_two_layers_of_one_activation_share_what_quantises_it() -> None:
    limits = Limits(-1, 1)
    made = quantise_layers(model(), {FIRST: "s8s8", SECOND: "s8s8"}, {"first": limits, "second": limits})
    assert Counter(node.op_type for node in made.graph.node)["QuantizeLinear"] == 1
    run(made)


def test_the_old_weights_are_gone() -> None:
    made = quantise_layers(model(), {FIRST: "w8"}, {})
    assert {tensor.name for tensor in made.graph.initializer} & {"w1", "w2"} == {"w2"}


def test_migration_alone_changes_nothing() -> None:
    factor = np.geomspace(0.1, 10, 8).astype(np.float32)
    found, _ = run(quantise_layers(model(), {FIRST: "float"}, {"first": Limits(-1, 1, factor)}))
    np.testing.assert_allclose(found, X @ WEIGHT, rtol=1e-4, atol=1e-5)


def test_migration_helps_where_one_channel_is_large() -> None:
    scale = np.ones(8, np.float32)
    scale[3] = 100
    x, weight = X * scale, WEIGHT / scale[:, None]
    errors = []
    for factor in (None, np.sqrt(scale * scale).astype(np.float32)):
        top = float(np.abs(x if factor is None else x / factor).max())
        made = quantise_layers(model(weight=weight), {FIRST: "s8s8"}, {"first": Limits(-top, top, factor)})
        errors.append(np.abs(run(made, x)[0] - x @ weight).max())
    assert errors[1] < errors[0] / 10


def test_a_channel_of_zeros_stays_zero() -> None:
    weight = WEIGHT.copy()
    weight[:, 2] = 0
    found, _ = run(quantise_layers(model(weight=weight), {FIRST: "s8s8"}, {"first": Limits(-1, 1)}))
    assert (found[:, 2] == 0).all() and np.isfinite(found).all()


@pytest.mark.parametrize("limits", [{}, {"first": Limits(-1, float("nan"))}, {"first": Limits(float("-inf"), 1)}])
def test_a_layer_without_limits_is_refused(limits: dict[str, Limits]) -> None:
    with pytest.raises(CalibrationError, match="no finite limits; record more"):
        quantise_layers(model(), {FIRST: "u8s8"}, limits)


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(CalibrationError, match="found the form 'int3' for first, expected one of"):
        quantise_layers(model(), {FIRST: "int3"}, {})
