"""A checkpoint becomes a bundle, or nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from copgen_edge.calibration.half_tensors import find_half_tensors
from copgen_edge.copgen_ref.files import AUTOENCODER_FOLDERS
from copgen_edge.copgen_ref.network import NetworkConfig
from copgen_edge.export import exporter, onnx_file
from copgen_edge.runtime import Pipeline
from copgen_edge.runtime.backends import create_backend
from copgen_edge.runtime.bundle import Bundle, sha256
from copgen_edge.runtime.components import contract
from copgen_edge.runtime.errors import BundleError, CheckpointError, ParityError, RequestError
from copgen_edge.runtime.verification import check_bundle, check_files
from onnx import TensorProto

SMALL = ("dit_step", "encoder_DEM_DEM", "decoder_DEM_DEM")


@pytest.fixture(scope="module")
def dem_checkpoint(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network and the elevation's autoencoder alone, with a scale factor of its own."""
    copy = tmp_path_factory.mktemp("partial") / "checkpoint"
    keep = AUTOENCODER_FOLDERS["DEM_DEM"]
    shutil.copytree(
        checkpoint, copy, ignore=lambda folder, names: [n for n in names if n.endswith("_latent_8") and n != keep]
    )
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "scale_factors": {"DEM_DEM": 0.25}}))
    return copy


@pytest.fixture(scope="module")
def both(dem_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in both precisions, its weights in files of their own."""
    out = tmp_path_factory.mktemp("both") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_file, "EXTERNAL_BYTES", 0)
        exporter.export_bundle(dem_checkpoint, out, precisions=("fp16", "fp32"))
    return out


def test_a_partial_checkpoint_gives_what_it_can(both: Path) -> None:
    opened = Bundle.open(both)
    assert sorted(opened.manifest.components) == sorted(SMALL)
    assert opened.precisions() == ("fp32", "fp16")
    assert len(exporter.left_out(opened.manifest)) == 18
    assert sorted(path.name for path in both.iterdir()) == ["manifest.json", "onnx", "reference"]
    with pytest.raises(BundleError, match="lacks the component encoder_LULC_LULC"):
        opened.component("encoder_LULC_LULC")


def test_the_manifest_records_what_was_measured(both: Path, dem_checkpoint: Path) -> None:
    manifest = Bundle.open(both).manifest
    for component in manifest.components.values():
        assert component.opset == 20
        for variant in component.precisions.values():
            assert variant.parity["rows"] == [1, 3]
            assert 0 < variant.parity["relative_l2"] <= variant.tolerance
        assert component.precisions["fp16"].parity["relative_l2"] > component.precisions["fp32"].parity["relative_l2"]
    run = manifest.reference_run
    assert run is not None and set(run["parity"]) == {"fp32", "fp16"}
    for source in manifest.source["files"]:
        assert sha256(dem_checkpoint / source["path"]) == source["sha256"]
    assert {"torch", "onnx", "onnxruntime", "copgen-edge"} <= set(manifest.tools)
    assert manifest.model["variant"] == "custom" and manifest.model["heads"] == 4


def test_the_manifest_records_what_a_call_costs(both: Path) -> None:
    opened = Bundle.open(both)
    model = opened.manifest.model
    config = NetworkConfig(model["width"], model["depth"], model["heads"], tuple(model["patch_sizes"]))
    tokens, width = config.tokens, config.width
    # Linear layers, a token each: qkv 3 w^2, its projection w^2, the MLP 2 * 4 w^2; in each out-block the skip 2 w^2.
    linear = tokens * ((config.depth + 1) * 12 * width**2 + config.depth // 2 * 2 * width**2)
    # Attention, all heads of a block together: q k and weights v, tokens^2 w each.
    attention = (config.depth + 1) * 2 * tokens**2 * width
    # Every value of the joint latent goes through a patch embedding of w outputs and comes out of a head of w inputs.
    edges = 2 * contract("dit_step").inputs[0].shape[1] * width
    costs = {precision: opened.variant("dit_step", precision).cost for precision in ("fp32", "fp16")}
    assert costs["fp32"]["flops_per_row"] == costs["fp16"]["flops_per_row"] == 2 * (linear + attention + edges)
    # In half precision all halves but the islands and their casts.
    for part in ("weight_bytes", "activation_bytes_per_row"):
        assert 0.5 < costs["fp16"][part] / costs["fp32"][part] < 0.6
    # The weights are nearly all of the files; every linear layer writes its output.
    files = opened.variant("dit_step", "fp32").files
    assert 0.9 < costs["fp32"]["weight_bytes"] / sum(file.bytes for file in files) < 1
    assert costs["fp32"]["activation_bytes_per_row"] > 4 * tokens * (config.depth + 1) * (3 + 1 + 4 + 1) * width


def test_weights_in_a_file_of_their_own_are_hashed_too(both: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(both, copy)
    data = copy / "onnx/dit_step.fp32.onnx.data"
    assert data.stat().st_size > 1_000_000 > (copy / "onnx/dit_step.fp32.onnx").stat().st_size
    assert check_files(Bundle.open(copy)) == 3 + 2 * 2 * 3 + 1
    content = bytearray(data.read_bytes())
    content[1000] ^= 1
    data.write_bytes(content)
    with pytest.raises(BundleError, match=r"dit_step\.fp32\.onnx\.data is not the file that was exported"):
        Pipeline.load(copy).denoise({}, ["DEM_DEM"], steps=1)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_bundle_agrees_with_what_it_carries(both: Path, precision: str) -> None:
    opened = Bundle.open(both)
    checks = list(check_bundle(opened, create_backend(opened, "onnxruntime-cpu", precision=precision)))
    assert [check.component for check in checks] == ["encoder_DEM_DEM", "dit_step", "decoder_DEM_DEM", "run"]
    assert all(check.passed for check in checks), checks


def test_half_precision_has_its_islands(both: Path) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(both / "onnx/dit_step.fp16.onnx"))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    types |= {value.name: value.data_type for value in model.graph.initializer}
    types |= {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    for node in model.graph.node:
        operands = {types[name] for name in node.input if name}
        if node.op_type in ("LayerNormalization", "Cos", "Sin"):
            assert operands == {TensorProto.FLOAT}, node.name
        if node.op_type in ("MatMul", "Softmax", "Conv", "Gelu"):
            assert operands == {TensorProto.FLOAT16}, node.name
    assert {types[value.name] for value in (*model.graph.input, *model.graph.output)} == {TensorProto.FLOAT}


@pytest.mark.parametrize("name", SMALL)
def test_what_is_half_can_be_told_from_the_float32_graph(both: Path, name: str) -> None:
    found = find_half_tensors(onnx.load(both / f"onnx/{name}.fp32.onnx"))
    graph = onnx.shape_inference.infer_shapes(onnx.load(both / f"onnx/{name}.fp16.onnx")).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    cast = {
        i
        for node in graph.node
        if node.op_type == "Cast" and types[node.output[0]] == TensorProto.FLOAT16
        for i in node.input
    }
    moves = ("Cast", "Concat", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
    # Half, or float32 that is cast to it: at the end of an island, before the embedding of an input.
    expected = Counter(
        node.op_type
        for node in graph.node
        if node.op_type not in moves
        and (types[node.output[0]] == TensorProto.FLOAT16 or node.output[0] in cast or node.op_type in ("Cos", "Sin"))
    )
    assert Counter(tensor.op for tensor in found.tensors) == expected


def test_the_graphs_are_what_an_engine_fuses(both: Path) -> None:
    for path in sorted(both.glob("onnx/*.onnx")):
        model = onnx.load(path, load_external_data=False)
        counts = Counter(node.op_type for node in model.graph.node)
        assert not any(counts[op] for op in ("Shape", "Loop", "If")), path
        assert [opset.version for opset in model.opset_import] == [20]
        if path.name.startswith("dit_step"):
            made_by = {output: node for node in model.graph.node for output in node.output}
            softmaxes = [node for node in model.graph.node if node.op_type == "Softmax"]
            assert len(softmaxes) == 5
            for node in softmaxes:
                # Nothing between product and softmax: the scale is on q, before the first product.
                product = made_by[node.input[0]]
                assert product.op_type == "MatMul"
                assert made_by[product.input[0]].op_type == "Mul"


def test_the_graphs_tell_nothing_of_the_machine(both: Path) -> None:
    for path in both.glob("onnx/*.onnx"):
        content = path.read_bytes()
        assert b"site-packages" not in content and b"stack_trace" not in content and b".py" not in content


def test_an_export_can_be_repeated_and_by_several_workers(dem_checkpoint: Path, both: Path, tmp_path: Path) -> None:
    exporter.export_bundle(dem_checkpoint, tmp_path / "again", components=("*_DEM_DEM",), workers=2)
    for name in ("encoder_DEM_DEM", "decoder_DEM_DEM"):
        first, again = (onnx.load(root / f"onnx/{name}.fp32.onnx") for root in (both, tmp_path / "again"))
        assert [node.SerializeToString() for node in first.graph.node] == [
            node.SerializeToString() for node in again.graph.node
        ]
        for mine, other in zip(first.graph.initializer, again.graph.initializer, strict=True):
            np.testing.assert_array_equal(onnx.numpy_helper.to_array(mine), onnx.numpy_helper.to_array(other))


def test_over_the_tolerance_there_is_no_bundle(
    dem_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(exporter.TOLERANCES, "fp32", 1e-12)
    with pytest.raises(ParityError, match=r"encoder_DEM_DEM fp32 batch 1: relative L2 \d.*over 1e-12, max abs"):
        exporter.export_bundle(dem_checkpoint, tmp_path / "out", components=("encoder_DEM_DEM",))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "error", "expected"),
    [
        ({"precisions": ("fp8",)}, RequestError, "fp8"),
        ({"precisions": ()}, RequestError, "none"),
        ({"components": ("decoder_moon",)}, RequestError, "decoder_moon"),
        ({"components": ("decoder_LULC_LULC",)}, CheckpointError, "LULC_LULC cannot be encoded or decoded"),
        ({"num_heads": 5}, CheckpointError, "heads"),
    ],
)
def test_refusals(
    dem_checkpoint: Path, tmp_path: Path, arguments: dict[str, object], error: type[Exception], expected: str
) -> None:
    with pytest.raises(error, match=expected):
        exporter.export_bundle(dem_checkpoint, tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_weights_that_will_not_do_are_refused_before_any_export(
    dem_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "checkpoint"
    shutil.copytree(dem_checkpoint, copy)
    network = next(copy.rglob("*nnet_ema.pth"))
    network.write_text("no weights")
    monkeypatch.setattr(exporter, "write_onnx", lambda *_: pytest.fail("an export began"))
    with pytest.raises(CheckpointError, match=network.name):
        exporter.export_bundle(copy, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_folder_that_holds_something_is_kept(dem_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RequestError, match="holds something already"):
        exporter.export_bundle(dem_checkpoint, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_killed_export_leaves_no_bundle(dem_checkpoint: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "copgen_edge.runtime.commands", "export"]
    command += ["--checkpoint", str(dem_checkpoint), "--out", str(tmp_path / "bundle")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".bundle.partial-*/onnx/*.onnx")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left = list(tmp_path.iterdir())
    assert [path.name.startswith(".bundle.partial-") for path in left] == [True]
    assert not (left[0] / "manifest.json").exists()


def test_scale_factors_of_a_config_travel(both: Path) -> None:
    assert Bundle.open(both).scale_factors["DEM_DEM"] == 0.25
