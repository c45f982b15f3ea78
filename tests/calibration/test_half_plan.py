"""Plans: which units stay in float32, and what a plan's file may be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from copgen_edge.calibration.activations import ComponentStatistics, TensorStatistics
from copgen_edge.calibration.half_plan import (
    float32_units,
    least_head_room,
    make_plan,
    measure_bundle,
    write_half_plan,
)
from copgen_edge.calibration.half_tensors import HalfTensor
from copgen_edge.calibration.trajectories import Trajectories
from copgen_edge.export.half_plan import PLAN, HalfPlan, read_half_plan
from copgen_edge.runtime.bundle import Bundle
from copgen_edge.runtime.components import STEP
from copgen_edge.runtime.errors import CalibrationError

from .overflowing import DECODER, RESIDUAL, write_trajectories

BLOCKS = [f"autoencoder.decoder.up.0.block.{i}" for i in range(3)]


def tensor(name: str, maximum: float, unit: str, *takers: str) -> TensorStatistics:
    return TensorStatistics(HalfTensor(name, "Conv", unit, unit, takers), maximum, (0.0,) * 4, 0.0, 0.0, 0.0)


def statistics(*tensors: TensorStatistics) -> ComponentStatistics:
    return ComponentStatistics(DECODER, 1, tensors, ())


def test_a_unit_stays_in_float32_for_what_it_makes_alone() -> None:
    found = statistics(
        tensor("a", 9999, BLOCKS[0], BLOCKS[1]), tensor("b", 10001, BLOCKS[1]), tensor("c", 5, BLOCKS[2])
    )
    assert float32_units(found) == (BLOCKS[1],)
    assert [one.tensor.name for one in least_head_room(found, 2)] == ["b", "a"]


def test_those_that_take_what_is_too_large_stay_too() -> None:
    found = statistics(
        tensor("a", 5, BLOCKS[0], BLOCKS[1]), tensor("b", 1e6, BLOCKS[1], BLOCKS[2]), tensor("c", 5, BLOCKS[2])
    )
    assert float32_units(found) == (BLOCKS[1], BLOCKS[2])


def test_what_is_in_no_unit_cannot_be_helped() -> None:
    with pytest.raises(CalibrationError, match=r"decoder_DEM_DEM: Conv 'a' reaches 1e\+06.*use this component in fp32"):
        float32_units(statistics(tensor("a", 1e6, "")))


def test_a_model_that_holds_needs_nothing(bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(bundle)
    trajectories = Trajectories.open(write_trajectories(tmp_path / "calib", bundle, [STEP, DECODER]))
    seen: list[tuple[str, int, int]] = []
    measured = list(measure_bundle(opened, trajectories, lambda *step: seen.append(step)))
    assert [one.component for one in measured] == [
        name for name in opened.manifest.components if name in (STEP, DECODER)
    ]
    assert seen[-1][1:] == (2, 2)
    plan = make_plan(opened, trajectories, measured)
    assert plan.units == {STEP: (), DECODER: ()} and plan.needed == {}
    assert plan.trajectories == trajectories.digest
    assert plan.measured[STEP]["timesteps_needed"] and plan.measured[STEP]["norms"] == 13
    assert 1 < plan.measured[STEP]["least_head_room"][0]["head_room"] < 65504


def test_trajectories_of_something_else_are_refused(bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(bundle)
    trajectories = Trajectories.open(write_trajectories(tmp_path / "calib", bundle, [STEP]))
    with pytest.raises(CalibrationError, match="was recorded of another model than that of"):
        list(measure_bundle(opened, replace(trajectories, model={**trajectories.model, "width": 3})))
    del opened.manifest.components[STEP]  # type: ignore[attr-defined]
    with pytest.raises(CalibrationError, match="has inputs of none of the components"):
        list(measure_bundle(opened, trajectories))


def test_a_plan_is_read_as_it_was_written(bundle: Path, tmp_path: Path) -> None:
    plan = HalfPlan({DECODER: (RESIDUAL,), STEP: ()}, "abc", {"models/a.pth": "def"}, {DECODER: {"rows": 3}}, 1e4)
    root = tmp_path / "bundle"
    root.mkdir()
    path = write_half_plan(Bundle(root, Bundle.open(bundle).manifest, ""), plan)
    assert path == root / PLAN
    assert read_half_plan(root) == read_half_plan(path) == plan
    assert plan.needed == {DECODER: (RESIDUAL,)}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"schema_version": 9}, "schema version 9"),
        ({"units": {"decoder_moon": []}}, "decoder_moon"),
        ({"units": {DECODER: [f"{RESIDUAL}.conv2"]}}, "units"),
        ({"units": {DECODER: RESIDUAL}}, "units"),
        ({"units": []}, "items"),
        ({"source": 3}, "int"),
    ],
)
def test_odd_plans_are_refused(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    path = tmp_path / "plan.json"
    content = json.loads(HalfPlan({}, "abc", {}, {}, 1e4).to_json())
    path.write_text(json.dumps({**content, **change}))
    with pytest.raises(CalibrationError, match=rf"is no plan \(.*{expected}") as caught:
        read_half_plan(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_plan_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="is not there; make a plan"):
        read_half_plan(tmp_path)
    for text in ("junk", "[]", "{}", ""):
        (tmp_path / "plan.json").write_text(text)
        with pytest.raises(CalibrationError, match="is no plan"):
            read_half_plan(tmp_path / "plan.json")
