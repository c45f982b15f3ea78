"""The solver's update as an ONNX graph.

The result is committed as ``runtime/backends/update.onnx``; after a change here write it again with
``onnx.save(update_model(), UPDATE_MODEL)``.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from ..runtime.backends.update import COEFFICIENTS, STATE, UPDATE_OUTPUTS
from ..runtime.modalities import JOINT_SIZE
from .onnx_file import OPSET

_IR_VERSION = 9
"""The IR of opset 20; TensorRT 10 refuses newer ones."""


def update_model() -> onnx.ModelProto:
    """One turn of :func:`~copgen_edge.runtime.solver.run_plan` as a graph.

    In and out: :data:`~copgen_edge.runtime.backends.update.UPDATE_INPUTS` and
    :data:`~copgen_edge.runtime.backends.update.UPDATE_OUTPUTS`, float32, with a dynamic batch.
    """
    scalars = ["alpha", "sigma", "begins", "anchor_weight", "weight_0", "weight_1", "weight_2", "filler"]
    nodes = [
        helper.make_node("Split", ["coefficients"], scalars, axis=0, num_outputs=COEFFICIENTS),
        helper.make_node("Greater", ["begins", "half"], ["is_begun"]),
        helper.make_node("Where", ["is_begun", "latents", "anchor"], ["next_anchor"]),
        helper.make_node("Mul", ["sigma", "noise"], ["noise_part"]),
        helper.make_node("Sub", ["latents", "noise_part"], ["clean_part"]),
        helper.make_node("Div", ["clean_part", "alpha"], ["next_last"]),
        # The sum grows term by term, as in run_plan: another order would round otherwise.
        helper.make_node("Mul", ["anchor_weight", "next_anchor"], ["anchor_term"]),
        helper.make_node("Mul", ["weight_0", "next_last"], ["term_0"]),
        helper.make_node("Add", ["anchor_term", "term_0"], ["sum_0"]),
        helper.make_node("Mul", ["weight_1", "last"], ["term_1"]),
        helper.make_node("Add", ["sum_0", "term_1"], ["sum_1"]),
        helper.make_node("Mul", ["weight_2", "before"], ["term_2"]),
        helper.make_node("Add", ["sum_1", "term_2"], ["moved"]),
        helper.make_node("Greater", ["moving", "half"], ["is_moving"]),
        helper.make_node("Where", ["is_moving", "moved", "latents"], ["next_latents"]),
        helper.make_node("Identity", ["last"], ["next_before"]),
    ]
    rows: list[str | int | None] = ["batch", JOINT_SIZE]
    latents, anchor, last, before = (helper.make_tensor_value_info(name, TensorProto.FLOAT, rows) for name in STATE)
    noise = helper.make_tensor_value_info("noise", TensorProto.FLOAT, rows)
    moving = helper.make_tensor_value_info("moving", TensorProto.FLOAT, [JOINT_SIZE])
    coefficients = helper.make_tensor_value_info("coefficients", TensorProto.FLOAT, [COEFFICIENTS])
    graph = helper.make_graph(
        nodes,
        "update",
        [latents, noise, anchor, last, before, moving, coefficients],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, rows) for name in UPDATE_OUTPUTS],
        [helper.make_tensor("half", TensorProto.FLOAT, [1], [0.5])],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="copgen-edge",
    )
