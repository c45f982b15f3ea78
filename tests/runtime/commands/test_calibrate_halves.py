"""``calibrate halves`` on a model that overflows in half, and the export that its plan makes possible."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from copgen_edge.export.half_plan import PLAN, read_half_plan
from copgen_edge.runtime.bundle import MANIFEST, Bundle
from copgen_edge.runtime.components import STEP

from ...calibration.overflowing import (
    BLOCK,
    DECODER,
    RESIDUAL,
    UNITS,
    write_overflowing_bundle,
    write_overflowing_checkpoint,
    write_trajectories,
)
from ..conftest import Run


@pytest.fixture
def overflowing(checkpoint: Path, tmp_path: Path) -> Path:
    return write_overflowing_checkpoint(checkpoint, tmp_path / "checkpoint")


@pytest.fixture
def overflowing_bundle(bundle: Path, overflowing: Path, tmp_path: Path) -> Path:
    return write_overflowing_bundle(bundle, overflowing, tmp_path / "bundle")


@pytest.mark.slow
def test_from_a_model_that_overflows_to_a_bundle_that_holds(
    run: Run, overflowing: Path, overflowing_bundle: Path, tmp_path: Path
) -> None:
    calib = write_trajectories(tmp_path / "calib", overflowing_bundle, UNITS)
    before = (overflowing_bundle / MANIFEST).read_bytes()
    report = tmp_path / "report.json"
    done = run("calibrate", "halves", overflowing_bundle, "--calib", calib, "--out", report)
    assert done.code == 0, done.err
    assert f"{STEP} keeps in float32: {BLOCK}\n" in done.err
    assert f"{DECODER} keeps in float32: {RESIDUAL}\n" in done.err
    assert "Least head-room in half" in done.err and "needed (" in done.err
    assert (overflowing_bundle / MANIFEST).read_bytes() == before
    assert read_half_plan(overflowing_bundle).units == UNITS
    measured = {one["component"]: one for one in json.loads(report.read_text())["components"]}
    assert {name: one["rows"] for name, one in measured.items()} == {STEP: 2, DECODER: 2}
    over = {tensor["unit"] for tensor in measured[STEP]["tensors"] if tensor["maximum"] > 1e4}
    assert over == {BLOCK}

    out = tmp_path / "out"
    arguments = ["--checkpoint", overflowing, "--out", out, "--precision", "fp16", "--components", ",".join(UNITS)]
    done = run("export", *arguments, "--half-plan", overflowing_bundle, "-q")
    assert done.code == 0, done.err
    manifest = Bundle.open(out).manifest
    assert manifest.model["half_plan"] == {name: list(units) for name, units in UNITS.items()}
    for name, units in UNITS.items():
        model = onnx.load(out / f"onnx/{name}.fp16.onnx")
        weights = {tensor.name: tensor for tensor in model.graph.initializer if "." in tensor.name}
        float32 = {tensor.name for tensor in weights.values() if tensor.data_type == onnx.TensorProto.FLOAT}
        assert {tensor for tensor in weights if tensor.startswith(f"{units[0]}.")} <= float32
        halves = [tensor for tensor in weights.values() if tensor.data_type == onnx.TensorProto.FLOAT16]
        assert len(halves) > len(weights) / 2
        assert all(np.isfinite(onnx.numpy_helper.to_array(tensor)).all() for tensor in halves)


def test_a_plan_that_is_not_needed(run: Run, bundle: Path, copy_part: object, tmp_path: Path) -> None:
    part = copy_part(DECODER, "encoder_DEM_DEM")  # type: ignore[operator]
    calib = write_trajectories(tmp_path / "calib", part, [DECODER])
    done = run("calibrate", "halves", part, "--calib", calib)
    assert done.code == 0, done.err
    assert "nothing needs to stay in float32" in done.err
    assert "not measured, for want of recorded inputs: encoder_DEM_DEM" in done.err
    assert read_half_plan(part).units == {DECODER: ()}


def test_refusals(run: Run, bundle: Path, tmp_path: Path) -> None:
    done = run("calibrate", "halves", bundle, "--calib", tmp_path)
    assert done.code == 2 and "holds no recorded trajectories" in done.err
    done = run("export", "--checkpoint", tmp_path, "--out", tmp_path / "out", "--half-plan", bundle)
    assert done.code == 2
    assert not (bundle / PLAN).exists()
