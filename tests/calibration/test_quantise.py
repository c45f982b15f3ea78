"""From a recording to a quantised bundle, and what keeps a bundle whole on the way."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from copgen_edge.calibration import quantise as quantising
from copgen_edge.calibration.plan import Budget, Plan, make_plan, read_json
from copgen_edge.calibration.quantise import MARGIN, quantise
from copgen_edge.calibration.sensitivity import Sensitivity, base_files, held_out
from copgen_edge.calibration.trajectories import Trajectories
from copgen_edge.runtime import Pipeline
from copgen_edge.runtime.backends import create_backend
from copgen_edge.runtime.bundle import Bundle
from copgen_edge.runtime.components import STEP
from copgen_edge.runtime.errors import CalibrationError, RequestError
from copgen_edge.runtime.verification import check_bundle, check_files


@pytest.fixture(scope="session")
def sensitivity(report: Path) -> Sensitivity:
    return Sensitivity.from_dict(read_json(report / "sensitivity.json"))


@pytest.fixture
def copy(few_bundle: Path, tmp_path: Path) -> Path:
    """A bundle to write in."""
    return Path(shutil.copytree(few_bundle, tmp_path / "bundle"))


@pytest.fixture
def plan(sensitivity: Sensitivity) -> Plan:
    """Of size, since so small a network is not faster in any form."""
    return make_plan(sensitivity, Budget.parse(f"size<={0.7 * sensitivity.megabytes}"))


def tree(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_the_report_tells_what_each_group_does(sensitivity: Sensitivity, bundle: Path) -> None:
    names = [cost.group for cost in sensitivity.groups]
    assert len(set(names)) == len(names) and {"heads", "mid_block.attn", "out_blocks.0.skip_linear"} <= set(names)
    assert "patch_embeds" not in names, "ONNX Runtime has no convolution of this form"
    (whole,) = sensitivity.all
    assert whole.run is not None and 0 < whole.run < 1
    for cost in sensitivity.groups:
        assert cost.run is not None and 0 < cost.run <= 2 * whole.run
        present = [error for error in cost.run_by_band if error is not None]
        assert present and all(error <= 2 * cost.run for error in present)
        assert any(error is not None and error > 0 for error in cost.call)
        assert whole.megabytes < cost.megabytes < sensitivity.megabytes
        assert set(cost.physical) == set(whole.physical) and cost.physical
    assert all(value >= 0 for value in whole.physical.values()) and max(whole.physical.values()) > 0
    assert whole.distribution and not sensitivity.groups[0].distribution
    for distances in whole.distribution.values():
        assert 0 < distances["fp32"] < distances["seeds"] * 2
    assert sensitivity.seeds is not None and sensitivity.seeds > 0.1
    assert sensitivity.base == base_files(Bundle.open(bundle), STEP, "int8-weights")


def test_groups_together_drift_about_as_their_squares_add_up(sensitivity: Sensitivity) -> None:
    together = np.sqrt(sum(cost.drift**2 for cost in sensitivity.groups))
    assert 0.4 < together / sensitivity.all[0].drift < 2.5


def test_a_part_of_the_runs_is_left_to_confirm(recording: Trajectories) -> None:
    deciding, confirming = held_out(recording)
    assert (*deciding, *confirming) == recording.runs and len(confirming) == 1
    with pytest.raises(CalibrationError, match="has one run; record 2 or more"):
        held_out(replace(recording, runs=recording.runs[:1]))


def test_a_plan_becomes_a_variant_that_runs(copy: Path, plan: Plan, recording: Trajectories) -> None:
    before = tree(copy)
    variant = quantise(Bundle.open(copy), plan, recording, replays=1)
    opened = Bundle.open(copy)
    after = tree(copy)
    assert {name for name in before if after.get(name) != before[name]} == {"manifest.json"}
    assert set(after) - set(before) == {record.path for record in variant.files}
    check_files(opened)
    measured = variant.calibration
    assert 0 < measured["run_drift"] < 0.9 and measured["seeds_drift"] > measured["run_drift"]
    assert measured["trajectories"] == recording.digest and measured["confirmed_on"] == [
        held_out(recording)[1][0].source
    ]
    assert measured["forms"] == dict(plan.groups) and measured["time"] > 0
    for key, one in measured["distribution"].items():
        assert 0 <= one["fp32"] < 1 and one["seeds"] >= 0, key
    checks = list(check_bundle(opened, create_backend(opened, "onnxruntime-cpu", precision="int8-weights")))
    assert all(check.passed for check in checks)
    step = next(check for check in checks if check.component == STEP)
    assert step.figures.relative_l2 * MARGIN == pytest.approx(step.tolerance, rel=1e-6)
    assert step.figures.relative_l2 > 1e-3, "the quantised network ran, not the float one"


def test_what_was_asked_for_runs(copy: Path, plan: Plan, recording: Trajectories) -> None:
    quantise(Bundle.open(copy), plan, recording, replays=1)
    drift = Bundle.open(copy).variant(STEP, "int8-weights").run_drift
    assert drift is not None
    chosen = Pipeline.load(copy, max_drift=drift)
    assert chosen.backend.precision == "int8-weights"
    assert f"its runs drift by {drift:.2g}" in chosen.backend.reason
    assert Pipeline.load(copy, max_drift=drift / 2).backend.precision == "fp32"
    plain = Pipeline.load(copy)
    assert plain.backend.precision == "fp32" and "--max-drift would allow int8-weights" in plain.backend.reason
    ends = [one.denoise({}, ["DEM_DEM"], steps=2, seed=3)["DEM_DEM"] for one in (chosen, plain)]
    difference = np.linalg.norm(ends[0] - ends[1]) / np.linalg.norm(ends[1])
    assert 1e-4 < difference < 0.9


def test_a_plan_that_drifts_on_unseen_runs_changes_nothing(copy: Path, plan: Plan, recording: Trajectories) -> None:
    before = tree(copy)
    with pytest.raises(CalibrationError, match=r"was to keep drift<=1e-05 .* not seen drift by 0\.\d+; nothing"):
        quantise(Bundle.open(copy), replace(plan, budget="drift<=1e-05"), recording, replays=1)
    with pytest.raises(RequestError, match="is about whole runs, and none were to be replayed; give --replays 1"):
        quantise(Bundle.open(copy), replace(plan, budget="drift<=0.9"), recording, replays=0)
    assert tree(copy) == before


@pytest.mark.parametrize("at", ["write_variant", "measure", "_move", "write_manifest"])
def test_a_stop_anywhere_leaves_the_bundle_that_was(
    copy: Path, plan: Plan, recording: Trajectories, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    manifest = (copy / "manifest.json").read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(quantising, at, fail)
        with pytest.raises(OSError, match="power cut"):
            quantise(Bundle.open(copy), plan, recording, replays=0)
    assert (copy / "manifest.json").read_bytes() == manifest
    assert not list(copy.glob(".quantise-*"))
    check_files(Bundle.open(copy))
    quantise(Bundle.open(copy), plan, recording, replays=0)
    check_files(Bundle.open(copy))


def test_another_plan_replaces_the_first_only_where_it_may(
    copy: Path, sensitivity: Sensitivity, plan: Plan, recording: Trajectories
) -> None:
    first = quantise(Bundle.open(copy), plan, recording, replays=0)
    with pytest.raises(RequestError, match="has dit_step in int8-weights already; --overwrite replaces it"):
        quantise(Bundle.open(copy), plan, recording, replays=0)
    narrower = {path: form for path, form in plan.forms.items() if path.endswith("fc1")}
    other = quantise(Bundle.open(copy), replace(plan, forms=narrower), recording, replays=0, overwrite=True)
    assert other.files != first.files
    assert not any((copy / record.path).exists() for record in first.files)
    check_files(Bundle.open(copy))
    again = quantise(Bundle.open(copy), replace(plan, forms=narrower), recording, replays=0, overwrite=True)
    assert again.files == other.files, "the same plan gives the same files"
    check_files(Bundle.open(copy))


def test_a_plan_for_something_else_is_refused(copy: Path, plan: Plan, recording: Trajectories) -> None:
    opened = Bundle.open(copy)
    for wrong, message in (
        (replace(plan, base={"onnx/other.onnx": "0" * 64}), "made for another dit_step than that of"),
        (replace(plan, trajectories="0" * 64), "made on another recording than"),
        (replace(plan, precision="int2"), "the plan is for 'int2', expected one of int8"),
    ):
        with pytest.raises(CalibrationError, match=message):
            quantise(opened, wrong, recording, replays=0)
    model = {**recording.model, "width": 3}
    with pytest.raises(CalibrationError, match="recorded of another model"):
        quantise(opened, plan, replace(recording, model=model), replays=0)


def test_the_manifest_of_a_quantised_bundle_is_plain_json(copy: Path, plan: Plan, recording: Trajectories) -> None:
    quantise(Bundle.open(copy), plan, recording, replays=0)
    found = json.loads((copy / "manifest.json").read_text())
    variant = found["components"][STEP]["precisions"]["int8-weights"]
    assert variant["calibration"]["run_drift"] is None and variant["calibration"]["budget"] == plan.budget
