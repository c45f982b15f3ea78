"""Variants of the network: real files, opened and run, near the network that they were made from."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from copgen_edge.calibration.judge import open_variant
from copgen_edge.calibration.layers import find_layers
from copgen_edge.calibration.ranges import BANDS, Range, Ranges
from copgen_edge.calibration.sensitivity import component_ranges
from copgen_edge.calibration.trajectories import Trajectories
from copgen_edge.calibration.variants import TARGETS, quantisable, write_variant
from copgen_edge.runtime.backends.onnxruntime import cpu_session
from copgen_edge.runtime.bundle import QUANTISED, Bundle, FileRecord, Variant, write_manifest
from copgen_edge.runtime.components import STEP
from copgen_edge.runtime.errors import CalibrationError
from copgen_edge.runtime.parity import compare, probe_inputs

INPUTS = probe_inputs(STEP, 2, 1)


@pytest.fixture(scope="session")
def ranges(bundle: Path, recording: Trajectories) -> Ranges:
    return component_ranges(Bundle.open(bundle), recording, STEP, "int8", "max")


def base(bundle: Bundle, precision: str = "int8") -> Path:
    return bundle.onnx_path(STEP, QUANTISED[precision])


def expected(bundle: Path) -> np.ndarray:
    found: np.ndarray = cpu_session(Bundle.open(bundle).onnx_path(STEP, "fp32")).run(["noise"], INPUTS)[0]
    return found


def test_every_quantised_precision_has_a_target() -> None:
    assert set(TARGETS) == set(QUANTISED)
    for precision, base in QUANTISED.items():
        assert TARGETS[precision].base == base


@pytest.mark.parametrize(
    ("precision", "form", "bound"),
    [
        ("int8", "dynamic", 0.1),
        ("int8", "dynamic-migrated", 0.1),
        ("int8", "u8s8", 0.25),
        ("int8", "u8s8-migrated", 0.25),
        ("int8", "blocks8", 0.05),
        ("int4-weights", "blocks4", 0.3),
    ],
)
def test_a_variant_is_near_the_network_and_smaller(
    bundle: Path, ranges: Ranges, tmp_path: Path, precision: str, form: str, bound: float
) -> None:
    opened = Bundle.open(bundle)
    forms = {layer.path: form for layer in quantisable(opened, STEP, precision)}
    (path,) = write_variant(base(opened, precision), STEP, precision, forms, ranges, tmp_path / "v.onnx")
    found = open_variant(path, form, 0).run(["noise"], INPUTS)[0]
    error = compare(found, expected(bundle)).relative_l2
    assert 1e-4 < error < bound, "it is quantised, and not broken"
    assert path.stat().st_size < 0.75 * opened.onnx_path(STEP, "fp32").stat().st_size
    assert [file.name for file in tmp_path.iterdir()] == ["v.onnx"]


def test_only_the_layers_that_were_named_change(bundle: Path, ranges: Ranges, tmp_path: Path) -> None:
    opened = Bundle.open(bundle)
    forms = {"mid_block.mlp.fc1": "dynamic", "mid_block.mlp.fc2": "blocks8", "out_blocks.0.skip_linear": "u8s8"}
    (path,) = write_variant(base(opened), STEP, "int8", forms, ranges, tmp_path / "v.onnx")
    counts = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert (counts["MatMulInteger"], counts["MatMulNBits"], counts["QuantizeLinear"]) == (1, 1, 1)
    left = Counter(node.op_type for node in onnx.load(opened.onnx_path(STEP, "fp32")).graph.node)["MatMul"]
    assert counts["MatMul"] == left - 2, "the static one stays a MatMul between its quantisers"


def test_variants_are_the_same_each_time(bundle: Path, ranges: Ranges, tmp_path: Path) -> None:
    opened = Bundle.open(bundle)
    forms = {layer.path: "u8s8-migrated" for layer in quantisable(opened, STEP, "int8")}
    written = [
        write_variant(base(opened), STEP, "int8", forms, ranges, tmp_path / name)[0] for name in ("a.onnx", "b.onnx")
    ]
    assert written[0].read_bytes() == written[1].read_bytes()


@pytest.mark.parametrize(
    ("precision", "forms", "message"),
    [
        ("int8", {"mid_block.mlp.fc9": "dynamic"}, "no layer 'mid_block.mlp.fc9' that int8 could quantise"),
        ("int8", {"patch_embeds.1.proj": "dynamic"}, "no layer 'patch_embeds.1.proj' that int8"),
        ("int8", {"mid_block.mlp.fc1": "s8s8"}, "int8 does not run the form 's8s8' of mid_block.mlp.fc1, only dynamic"),
    ],
)
def test_a_plan_for_another_graph_is_refused(
    bundle: Path, ranges: Ranges, tmp_path: Path, precision: str, forms: dict[str, str], message: str
) -> None:
    with pytest.raises(CalibrationError, match=message):
        write_variant(base(Bundle.open(bundle)), STEP, precision, forms, ranges, tmp_path / "v.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.tensorrt
@pytest.mark.parametrize("precision", ["int8-qdq", "fp8-qdq", "int4-weights-qdq"])
def test_tensorrt_builds_quantised_products_with_every_attention_fused(
    precision: str, half_bundle: Path, rtx: object, tmp_path: Path
) -> None:
    from copgen_edge.runtime.engines.build import build_engines
    from copgen_edge.runtime.engines.options import BuildOptions
    from copgen_edge.runtime.engines.record import EngineRecord

    root = tmp_path / "bundle"
    shutil.copytree(half_bundle, root)
    opened = Bundle.open(root)
    layers = find_layers(STEP, onnx.load(opened.onnx_path(STEP, "fp16"), load_external_data=False))
    measured = {}
    for layer in layers:
        measured[layer.path] = Range.empty(layer.shape[0 if layer.op == "MatMul" else 1])
        measured[layer.path].add(np.full((1, len(measured[layer.path].low[0])), 4, np.float32), -1, 0)
    form = {"int8-qdq": "s8s8", "fp8-qdq": "fp8", "int4-weights-qdq": "w4"}[precision]
    # First and last layers stay, as does what multiplies two activations.
    trunk = [layer for layer in layers if "_block" in layer.path]
    forms = {layer.path: form + ("-migrated" if "mlp" in layer.path else "") for layer in trunk}
    ranges = Ranges(measured, "max", (1.0,) * BANDS)
    files = write_variant(base(opened, precision), STEP, precision, forms, ranges, root / "onnx" / "quantised.onnx")
    step = opened.component(STEP)
    variant = Variant(tuple(FileRecord.of(root, file) for file in files), 1.0, {})
    run = opened.manifest.reference_run
    assert run is not None
    manifest = replace(
        opened.manifest,
        components={
            **opened.manifest.components,
            STEP: replace(step, precisions={**step.precisions, precision: variant}),
        },
        reference_run={**run, "tolerance": {**run["tolerance"], precision: 1.0}},
    )
    write_manifest(root, manifest)
    options = BuildOptions(batch=(1, 1, 2))
    built = build_engines(Bundle.open(root), rtx, options, precision=precision, components=(STEP,))  # type: ignore[arg-type]
    records: dict[str, EngineRecord] = {one.record.component: one.record for one in built}
    assert records[STEP].precision == precision
    assert records[STEP].attention == records[STEP].blocks == 3
