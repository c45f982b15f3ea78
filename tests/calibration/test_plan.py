"""The plan is the best choice under its budget."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from copgen_edge.calibration.plan import FLOAT, Budget, Plan, make_plan
from copgen_edge.calibration.sensitivity import Cost, Sensitivity
from copgen_edge.runtime.errors import CalibrationError, RequestError

FORMS = ("quick", "small", "close")


def sensitivity(groups: int = 5, seed: int = 0) -> Sensitivity:
    """Made-up costs: each form has its strength."""
    rng = np.random.default_rng(seed)
    costs = []
    for number in range(groups):
        for form, speed, size, error in zip(FORMS, (0.14, 0.05, 0.08), (10, 15, 8), (1.0, 2.0, 0.3), strict=True):
            factor = rng.uniform(0.3, 1.7, 3)
            costs.append(
                Cost(
                    f"block{number}",
                    form,
                    (f"block{number}.a", f"block{number}.b"),
                    (0.1,),
                    error * factor[0] * 0.02,
                    (),
                    {},
                    {},
                    100 - size * factor[1],
                    1 - speed * factor[2],
                )
            )
    return Sensitivity("dit_step", "int8", {"f": "0"}, "t", "mse", 20, 1.0, 100.0, 0.9, {}, tuple(costs), ())


def figures(found: Sensitivity, forms: dict[str, str]) -> dict[str, float]:
    chosen = [cost for cost in found.groups if forms.get(cost.group) == cost.form]
    return {
        "drift": float(np.sqrt(sum(cost.drift**2 for cost in chosen))),
        "size": 100 - sum(100 - cost.megabytes for cost in chosen),
        "time": 1 - sum(1 - (cost.time or 0) for cost in chosen),
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", ["drift<=0.02", "drift<=0.05", "size<=60", "size<=75.5", "time<=0.6", "time <= 0.9"])
def test_the_plan_keeps_its_budget_and_little_is_better(budget: str, seed: int) -> None:
    found = sensitivity(4, seed)
    asked = Budget.parse(budget)
    plan = make_plan(found, asked)
    mine = figures(found, dict(plan.groups))
    assert mine[asked.quantity] <= asked.limit
    assert (mine["drift"], mine["size"], mine["time"]) == pytest.approx((plan.drift, plan.megabytes, plan.time))
    # All 4^4 choices.
    aim = "time" if asked.quantity == "drift" else "drift"
    every = [
        figures(found, {f"block{i}": form for i, form in enumerate(choice)})
        for choice in itertools.product((FLOAT, *FORMS), repeat=4)
    ]
    best = min(one[aim] for one in every if one[asked.quantity] <= asked.limit)
    assert mine[aim] <= best * 1.1 + 1e-12


def test_layers_get_the_form_of_their_group() -> None:
    plan = make_plan(sensitivity(), Budget.parse("drift<=0.05"))
    for path, form in plan.forms.items():
        assert plan.groups[path.split(".")[0]] == form != FLOAT
    assert set(plan.groups) == {f"block{i}" for i in range(5)}
    assert len(plan.forms) == 2 * sum(form != FLOAT for form in plan.groups.values())


def test_a_choice_of_forms_is_kept() -> None:
    plan = make_plan(sensitivity(), Budget.parse("time<=0.9"), forms=["close"])
    assert set(plan.groups.values()) <= {"close", FLOAT}
    with pytest.raises(RequestError, match="int3 was not measured, only close, quick, small"):
        make_plan(sensitivity(), Budget.parse("time<=0.9"), forms=["int3"])


def test_a_form_that_broke_the_network_is_never_chosen() -> None:
    found = sensitivity()
    broken = tuple(replace(c, run=float("inf")) if c.form == "quick" else c for c in found.groups)
    plan = make_plan(replace(found, groups=broken), Budget.parse("time<=0.8"))
    assert "quick" not in plan.groups.values()


def test_what_cannot_be_kept_is_said_with_the_nearest() -> None:
    with pytest.raises(RequestError, match=r"no choice of forms keeps time<=0.01: the least time is 0\.\d+"):
        make_plan(sensitivity(), Budget.parse("time<=0.01"))
    with pytest.raises(RequestError, match="leaves every layer as it is, so there is nothing to quantise"):
        make_plan(sensitivity(), Budget.parse("drift<=1e-7"))


@pytest.mark.parametrize(
    "text", ["", "drift", "drift<=", "drift<=-1", "drift<=0", "speed<=2", "size<=1e400", "time<=e"]
)
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"expected drift<=0\.05, size<=100"):
        Budget.parse(text)


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = make_plan(sensitivity(), Budget.parse("size<=70"))
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema_version": 2}', '{"schema_version": 1, "forms": {}}'])
def test_what_is_no_plan_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(CalibrationError) as caught:
        Plan.load(tmp_path / "plan.json")
    assert "\n" not in str(caught.value)
    with pytest.raises(CalibrationError, match="cannot be read"):
        Plan.load(tmp_path / "none.json")


def test_a_report_is_read_as_it_was_written() -> None:
    found = sensitivity()
    assert Sensitivity.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    for damage in ({}, {"groups": 3}, {**found.to_dict(), "extra": 1}, {**found.to_dict(), "all": [{}]}):
        with pytest.raises(CalibrationError, match="measure it again"):
            Sensitivity.from_dict(damage)


def test_where_time_cannot_be_told_size_is_what_a_drift_buys() -> None:
    found = sensitivity()
    untimed = replace(found, groups=tuple(replace(cost, time=None) for cost in found.groups))
    plan = make_plan(untimed, Budget.parse("drift<=0.05"))
    assert plan.time is None and plan.drift <= 0.05 and plan.megabytes < 80
    with pytest.raises(RequestError, match="time is not measured for int8, which runs on a GPU"):
        make_plan(untimed, Budget.parse("time<=0.5"))
