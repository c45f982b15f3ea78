"""The packaged update graph: what made it, and that it does what ``run_plan`` does."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from copgen_edge.export.onnx_file import FORBIDDEN, OPSET
from copgen_edge.export.update import update_model
from copgen_edge.runtime.backends.update import (
    STATE,
    UPDATE_INPUTS,
    UPDATE_MODEL,
    UPDATE_OUTPUTS,
    coefficient_rows,
)
from copgen_edge.runtime.modalities import JOINT_SIZE
from copgen_edge.runtime.solver import SOLVERS, make_plan, run_plan
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def session() -> Any:
    return onnxruntime.InferenceSession(str(UPDATE_MODEL), providers=["CPUExecutionProvider"])


def noise_in(x: Floats, k: int) -> Floats:
    """A network of one line, different at every call."""
    return np.tanh(x) * np.float32(0.7 + 0.1 * k)


def test_the_packaged_file_is_what_the_code_makes() -> None:
    assert onnx.load(UPDATE_MODEL) == update_model()


def test_every_engine_can_read_it() -> None:
    model = onnx.load(UPDATE_MODEL)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 9
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert not set(FORBIDDEN) & set(Counter(node.op_type for node in model.graph.node))
    assert tuple(value.name for value in model.graph.input) == UPDATE_INPUTS
    assert tuple(value.name for value in model.graph.output) == UPDATE_OUTPUTS


@pytest.mark.tensorrt
def test_tensorrt_builds_an_engine_of_it() -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(UPDATE_MODEL.read_bytes()), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    profile = builder.create_optimization_profile()
    for name in (*STATE, "noise"):
        profile.set_shape(name, (1, JOINT_SIZE), (4, JOINT_SIZE), (4, JOINT_SIZE))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_row_has_the_plans_coefficients(solver: str) -> None:
    plan = make_plan(solver, 7)
    rows = coefficient_rows(plan)
    assert rows.shape == (7, 8)
    assert rows.dtype == np.float32
    expected = [plan.alpha, plan.sigma, plan.begins, plan.anchor, *plan.history.T, np.zeros(7)]
    np.testing.assert_array_equal(rows, np.stack(expected, axis=1).astype(np.float32))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 8])
def test_a_run_of_updates_is_run_plan_to_the_last_bit(session: Any, solver: str, steps: int) -> None:
    plan = make_plan(solver, steps)
    generator = np.random.default_rng(5)
    start = generator.normal(size=(3, JOINT_SIZE)).astype(np.float32)
    moving = generator.integers(0, 2, JOINT_SIZE).astype(bool)
    state = dict.fromkeys(STATE, np.zeros_like(start)) | {"latents": start}
    for k, row in enumerate(coefficient_rows(plan)):
        noise = noise_in(state["latents"], k)
        # What a modality that stays has for noise must not matter.
        noise[:, ~moving] = np.nan
        feed = {**state, "noise": noise, "moving": moving.astype(np.float32), "coefficients": row}
        state = dict(zip(STATE, session.run(list(UPDATE_OUTPUTS), feed), strict=True))
    expected = run_plan(plan, start[:, moving], lambda k, x: noise_in(x, k))
    np.testing.assert_array_equal(state["latents"][:, moving], expected)
    np.testing.assert_array_equal(state["latents"][:, ~moving], start[:, ~moving])


def test_the_anchor_of_the_first_call_may_hold_anything(session: Any) -> None:
    plan = make_plan("dpmpp-3s", 3)
    x = np.ones((1, JOINT_SIZE), np.float32)
    feed = dict.fromkeys((*STATE, "noise"), x) | {"moving": x[0], "coefficients": coefficient_rows(plan)[0]}
    expected = session.run(list(UPDATE_OUTPUTS), feed)
    for found, value in zip(session.run(list(UPDATE_OUTPUTS), feed | {"anchor": x * np.nan}), expected, strict=True):
        np.testing.assert_array_equal(found, value)
