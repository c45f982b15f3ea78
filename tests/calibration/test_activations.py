"""Statistics of activations: figures that can be worked out by hand, and tensors that belong where they should."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import pytest
from copgen_edge.calibration import activations, tap
from copgen_edge.calibration.activations import Histogram, measure
from copgen_edge.calibration.half_tensors import HalfTensor, find_half_tensors
from copgen_edge.copgen_ref import normalization
from copgen_edge.copgen_ref.autoencoder import ResidualBlock
from copgen_edge.export.onnx_file import write_onnx
from copgen_edge.export.units import has_norms, unit_of
from copgen_edge.runtime.backends import create_backend
from copgen_edge.runtime.bundle import Bundle
from copgen_edge.runtime.components import Contract, TensorSpec
from copgen_edge.runtime.errors import NonFiniteError
from copgen_edge.runtime.parity import probe_inputs
from onnx import TensorProto, helper, numpy_helper
from torch import nn

TENSOR = HalfTensor("x", "Add", "network.mid_block", "network.mid_block", ())
UNIT = "network.in_blocks.0"


def statistics_of(*arrays: object) -> activations.TensorStatistics:
    histogram = Histogram()
    for array in arrays:
        histogram.add(np.asarray(array, np.float32))
    return histogram.statistics(TENSOR)


def test_shares_and_maxima_are_exact() -> None:
    values = [0.0, -0.0, 2.0**-26, -(2.0**-25), 2.0**-15, 2.0**-14, 1.0, -10000.0, 10001.0, -20000.0]
    found = statistics_of(values[:4], np.reshape(values[4:], (2, 3)))
    assert found.maximum == 20000
    assert found.large == 2 / 10
    assert found.subnormal == 3 / 10
    assert found.vanishing == 1 / 10
    assert found.head_room == 65504 / 20000


def test_percentiles_are_the_upper_edges_of_their_bins() -> None:
    # 1..10000: 50 % is 5000, in the bin from 4608 to 5120; 99 % is 9900, in 9216 to 10240, which is over the maximum.
    found = statistics_of(np.arange(1, 5001), -np.arange(5001, 10001))
    assert found.percentiles == (5120, 10000, 10000, 10000)
    rng = np.random.default_rng(1)
    values = rng.standard_normal(100_000).astype(np.float32)
    for percentile, value in zip(activations.PERCENTILES, statistics_of(values).percentiles, strict=True):
        assert 1 <= value / np.percentile(np.abs(values), percentile) <= 1.126


def test_what_is_not_finite_stays_so() -> None:
    for bad in (np.nan, np.inf):
        assert not np.isfinite(statistics_of([1.0, bad], [2.0]).maximum)


def small_graph(path: Path, scale: float = 1.0) -> Path:
    """latents (batch, 4) + pos_embed, a linear layer without a named weight, its bias, a LayerNormalization."""
    weight = np.diag([1.0, 10.0, 100.0, scale]).astype(np.float32)
    constants = {
        "network.pos_embed": np.ones(4, np.float32),
        "val_1": weight,
        f"{UNIT}.mlp.fc1.bias": np.float32([0, 0, 0, 1]),
        f"{UNIT}.norm3.weight": np.float32([1, 1, 1, 2]),
        f"{UNIT}.norm3.bias": np.zeros(4, np.float32),
        "network.decoder_preds.1.bias": np.zeros(4, np.float32),
        "frequencies": np.float32([1, 2]),
    }
    nodes = [
        helper.make_node("Mul", ["timesteps", "frequencies"], ["angles"]),
        helper.make_node("Sin", ["angles"], ["sine"]),
        helper.make_node("Concat", ["sine", "sine"], ["tokens"], axis=1),
        helper.make_node("Add", ["latents", "tokens"], ["joined"]),
        helper.make_node("Add", ["joined", "network.pos_embed"], ["all"]),
        helper.make_node("MatMul", ["all", "val_1"], ["product"]),
        helper.make_node("Add", ["product", f"{UNIT}.mlp.fc1.bias"], ["hidden"]),
        helper.make_node("LayerNormalization", ["hidden", *list(constants)[3:5]], ["normed"]),
        helper.make_node("Add", ["normed", "network.decoder_preds.1.bias"], ["noise"]),
    ]
    inputs = [("latents", ["batch", 4]), ("timesteps", ["batch", 2])]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


def rows() -> list[dict[str, np.ndarray]]:
    none = np.zeros((1, 2), np.float32)
    return [
        {"latents": np.float32([[0, 1, 2, 3]]), "timesteps": none},
        {"latents": np.float32([[-1, -1, -1, 4]]), "timesteps": none},
    ]


@pytest.mark.parametrize("chunk_bytes", [1 << 30, 1])
def test_a_small_graph_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    monkeypatch.setattr(tap, "CHUNK_BYTES", chunk_bytes)
    found = measure("dit_step", small_graph(tmp_path / "small.onnx", 5000.0), rows())
    assert found.rows == 2
    by_name = {one.tensor.name: one for one in found.tensors}
    # What only moves and what stays inside an island is no half of its own.
    assert list(by_name) == ["sine", "joined", "all", "product", "hidden", "normed", "noise"]
    # all: 1 2 3 4 and 0 0 0 5; product: 1 20 300 20000 and 0 0 0 25000; hidden: one more in the last.
    assert by_name["all"].maximum == 5
    assert by_name["product"].maximum == 25000 and by_name["product"].large == 2 / 8
    assert by_name["hidden"].maximum == 25001
    assert [by_name[name].tensor.unit for name in ("all", "product", "hidden", "normed", "noise")] == [
        "network.pos_embed",
        UNIT,
        UNIT,
        UNIT,
        "network.decoder_preds.1",
    ]
    assert by_name["all"].tensor.takers == (UNIT,) and by_name["product"].tensor.takers == ()
    assert by_name["normed"].tensor.takers == ("network.decoder_preds.1",)
    norm, timesteps = found.islands
    assert norm.module == f"{UNIT}.norm3" and norm.needed
    largest = np.var([0, 0, 0, 25001]) * 4
    assert norm.figure == pytest.approx(largest)
    # With every timestep 0 there is no angle to round.
    assert timesteps.kind == "timesteps" and not timesteps.needed


def test_the_timestep_embedding_needs_its_island(tmp_path: Path) -> None:
    inputs = {"latents": np.zeros((1, 4), np.float32), "timesteps": np.float32([[500, 500]])}
    *_, island = measure("dit_step", small_graph(tmp_path / "small.onnx"), [inputs]).islands
    # The angle is 1000, where neighbouring halves are 0.5 apart.
    assert island.needed and island.figure == 0.25


def test_what_overflows_float32_is_an_error(tmp_path: Path) -> None:
    inputs = {"latents": np.float32([[0, 0, 0, 1e35]]), "timesteps": np.zeros((1, 2), np.float32)}
    with pytest.raises(NonFiniteError, match=r"dit_step: MatMul in network\.in_blocks\.0 gave inf in float32"):
        measure("dit_step", small_graph(tmp_path / "small.onnx", 1e10), [inputs])


def test_sums_of_rows_are_islands_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalization, "_ONE_SUM", 0)
    names = ("autoencoder", "decoder", "mid", "block_1")
    module: nn.Module = ResidualBlock(4, 4, 2).eval().requires_grad_(False)
    for name in reversed(names):
        module = nn.Sequential(OrderedDict([(name, module)]))
    specs = (TensorSpec("latent", "float32", ("batch", 4, 4, 4)),)
    contract = Contract(specs, (TensorSpec("image", "float32", ("batch", 4, 4, 4)),))
    write_onnx(module, contract, tmp_path / "block.onnx")
    model = onnx.load(tmp_path / "block.onnx")
    assert {"ReduceMean", "Sub"} <= {node.op_type for node in model.graph.node}
    found = find_half_tensors(model)
    # Of each norm the end alone, then the two of a SiLU and a convolution; last the sum with the shortcut.
    assert [tensor.op for tensor in found.tensors] == ["Add", "Sigmoid", "Mul", "Conv"] * 2 + ["Add"]
    assert {tensor.unit for tensor in found.tensors} == {"autoencoder.decoder.mid.block_1"}
    assert [norm.axes for norm in found.norms] == [2, 2]


def test_every_unit_of_a_component_makes_something(bundle: Path) -> None:
    for component in ("dit_step", "encoder_DEM_DEM", "decoder_DEM_DEM"):
        model = onnx.load(bundle / f"onnx/{component}.fp32.onnx")
        found = find_half_tensors(model)
        units = {unit_of(tensor.name) for tensor in model.graph.initializer if "." in tensor.name} - {None}
        assert {tensor.unit for tensor in found.tensors} == units
        if component == "dit_step":
            kinds = [tensor.op for tensor in found.tensors if tensor.unit == "network.in_blocks.1"]
            # qkv, q scaled, q k, softmax, weights v, projection and bias, residual, norm2; fc1 and bias, GELU, fc2 and
            # bias, residual, norm3.
            attention = ["MatMul", "Mul", "MatMul", "Softmax", "MatMul", "MatMul", "Add", "Add", "LayerNormalization"]
            assert kinds == [*attention, "MatMul", "Add", "Gelu", "MatMul", "Add", "Add", "LayerNormalization"]
            skip = next(t for t in reversed(found.tensors) if t.unit == "network.in_blocks.0")
            assert skip.takers == ("network.in_blocks.1", "network.out_blocks.1")
            final = [tensor for tensor in found.tensors if tensor.module == "network.norm"]
            assert final[0].unit == "network.out_blocks.1" and len(final[0].takers) == 12


def test_maxima_are_those_of_the_graph(bundle: Path) -> None:
    inputs = [probe_inputs("decoder_DEM_DEM", 1, seed) for seed in (1, 2)]
    found = measure("decoder_DEM_DEM", bundle / "onnx/decoder_DEM_DEM.fp32.onnx", inputs)
    backend = create_backend(Bundle.open(bundle), "onnxruntime-cpu", precision="fp32")
    images = [backend.run("decoder_DEM_DEM", row)["image"] for row in inputs]
    assert found.tensors[-1].tensor.unit == "autoencoder.decoder.conv_out"
    assert found.tensors[-1].maximum == pytest.approx(max(np.abs(image).max() for image in images), rel=1e-5)


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("network.in_blocks.10.mlp.fc1.weight", "network.in_blocks.10"),
        ("network.mid_block", "network.mid_block"),
        ("network.norm.weight", None),
        ("network.pos_embed", "network.pos_embed"),
        ("network", None),
        ("autoencoder.encoder.down.0.block.1.conv1.bias", "autoencoder.encoder.down.0.block.1"),
        ("autoencoder.decoder.up.2.upsample.conv.weight", "autoencoder.decoder.up.2.upsample"),
        ("autoencoder.decoder.norm_out.weight", None),
        ("autoencoder.quant_conv.weight", "autoencoder.quant_conv"),
        ("network.mid_blocks.1", None),
    ],
)
def test_units(path: str, unit: str | None) -> None:
    assert unit_of(path) == unit
    if unit is not None:
        assert has_norms(unit) == ("block" in unit)
