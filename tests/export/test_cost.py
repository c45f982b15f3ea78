"""The cost of a graph, worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from copgen_edge.export.cost import graph_cost
from copgen_edge.export.onnx_file import ExportError
from onnx import NodeProto, TensorProto, helper, numpy_helper

Shape = Sequence[int | str | None]


def save(
    path: Path,
    nodes: Sequence[NodeProto],
    input_shape: Shape,
    output_shape: Shape,
    constants: dict[str, np.ndarray],
    kind: int = TensorProto.FLOAT,
) -> Path:
    """A graph from ``x`` to ``y``."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", kind, input_shape)],
        [helper.make_tensor_value_info("y", kind, output_shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.other", 1)])
    onnx.save(model, path)
    return path


def floats(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def cost(flops: int, weights: int, activations: int) -> dict[str, int]:
    return {"flops_per_row": flops, "weight_bytes": weights, "activation_bytes_per_row": activations}


def test_a_matmul(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = save(tmp_path / "m.onnx", [node], ["batch", 3, 5], ["batch", 3, 7], {"w": floats(5, 7)})
    assert graph_cost(path) == cost(2 * 3 * 5 * 7, 4 * 5 * 7, 4 * 3 * 7)


def test_a_matmul_of_two_activations(tmp_path: Path) -> None:
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), helper.make_node("MatMul", ["x", "t"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, ["batch", 3, 5], ["batch", 3, 3], {})
    # 3 x 5 times 5 x 3, and the outputs of both nodes.
    assert graph_cost(path) == cost(2 * 3 * 3 * 5, 0, 4 * (5 * 3 + 3 * 3))


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm(tmp_path: Path, transposed: int) -> None:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=transposed)
    weights = {"w": floats(7, 5) if transposed else floats(5, 7), "b": floats(7)}
    path = save(tmp_path / "g.onnx", [node], ["batch", 5], ["batch", 7], weights)
    assert graph_cost(path) == cost(2 * 5 * 7, 4 * (5 * 7 + 7), 4 * 7)


def test_a_gemm_that_transposes_its_input(tmp_path: Path) -> None:
    nodes = [helper.make_node("Transpose", ["x"], ["t"]), helper.make_node("Gemm", ["t", "w"], ["y"], transA=1)]
    path = save(tmp_path / "g.onnx", nodes, ["batch", 5], ["batch", 7], {"w": floats(5, 7)})
    assert graph_cost(path) == cost(2 * 5 * 7, 4 * 5 * 7, 4 * (5 + 7))


def test_a_convolution_with_groups_and_stride(tmp_path: Path) -> None:
    # 4 channels of 9 x 7, two groups, kernel 3 x 3, stride 2, padding 1: 6 channels of 5 x 4.
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=2, strides=[2, 2], pads=[1, 1, 1, 1])
    weights = {"w": floats(6, 2, 3, 3), "b": floats(6)}
    path = save(tmp_path / "c.onnx", [node], ["batch", 4, 9, 7], ["batch", 6, 5, 4], weights)
    assert graph_cost(path) == cost(2 * (6 * 5 * 4) * (2 * 3 * 3), 4 * (6 * 2 * 3 * 3 + 6), 4 * 6 * 5 * 4)


def test_a_transposed_convolution(tmp_path: Path) -> None:
    # 4 channels of 5 x 3, two groups, kernel 2 x 2, stride 2: 6 channels of 10 x 6. Each of the 4 x 5 x 3 values is
    # multiplied with a kernel for each of the 3 output channels of its group.
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=2, strides=[2, 2])
    path = save(tmp_path / "t.onnx", [node], ["batch", 4, 5, 3], ["batch", 6, 10, 6], {"w": floats(4, 3, 2, 2)})
    assert graph_cost(path) == cost(2 * (4 * 5 * 3) * (3 * 2 * 2), 4 * 4 * 3 * 2 * 2, 4 * 6 * 10 * 6)


def test_reshapes_take_no_memory_and_half_precision_takes_half(tmp_path: Path) -> None:
    shape = helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(np.array([-1, 15], np.int64)))
    nodes = [shape, helper.make_node("Reshape", ["x", "s"], ["r"]), helper.make_node("Add", ["r", "w"], ["y"])]
    weights = {"w": np.zeros(15, np.float16)}
    path = save(tmp_path / "r.onnx", nodes, ["batch", 3, 5], ["batch", 15], weights, TensorProto.FLOAT16)
    assert graph_cost(path) == cost(0, 2 * 15 + 2 * 8, 2 * 15)


def test_arithmetic_on_constants_is_no_cost_of_a_row(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["a", "b"], ["w"]), helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, ["batch", 5], ["batch", 7], {"a": floats(5, 3), "b": floats(3, 7)})
    assert graph_cost(path) == cost(2 * 5 * 7, 4 * (5 * 3 + 3 * 7), 4 * 7)


def test_weights_in_another_file_are_not_opened(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = save(tmp_path / "m.onnx", [node], ["batch", 3, 50], ["batch", 3, 70], {"w": floats(50, 70)})
    whole = graph_cost(path)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").unlink()
    assert graph_cost(path) == whole == cost(2 * 3 * 50 * 70, 4 * 50 * 70, 4 * 3 * 70)


def test_an_unknown_shape_is_named(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="attention")
    path = save(tmp_path / "m.onnx", [node], ["batch", "tokens", 5], ["batch", "tokens", 7], {"w": floats(5, 7)})
    with pytest.raises(ExportError, match=r"m\.onnx: the shape of 'y' at the MatMul 'attention' is unknown"):
        graph_cost(path)


def test_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = save(tmp_path / "m.onnx", [node], ["batch", 3, 5], ["batch", 3, 7], {"w": floats(6, 7)})
    with pytest.raises(ExportError, match=r"m\.onnx: the shapes for 1 rows cannot be inferred") as caught:
        graph_cost(path)
    assert "\n" not in str(caught.value)


def test_a_batch_that_is_not_free_is_refused(tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([1, 15], np.int64))
    nodes = [helper.make_node("Constant", [], ["s"], value=shape), helper.make_node("Reshape", ["x", "s"], ["y"])]
    path = save(tmp_path / "r.onnx", nodes, ["batch", 3, 5], ["batch", 15], {})
    with pytest.raises(ExportError, match="the shapes for 2 rows cannot be inferred"):
        graph_cost(path)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Einsum", ["x", "w"], ["y"], equation="bij,jk->bik"),
        helper.make_node("MatMul", ["x", "w"], ["y"], domain="com.other"),
    ],
)
def test_what_cannot_be_counted_is_refused(tmp_path: Path, node: NodeProto) -> None:
    path = save(tmp_path / "e.onnx", [node], ["batch", 3, 5], ["batch", 3, 7], {"w": floats(5, 7)})
    with pytest.raises(ExportError, match=f"the cost of {node.op_type}"):
        graph_cost(path)
