"""Solvers as plans: their structure, their exactness, and the order at which they converge."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from copgen_edge.runtime import schedule
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.solver import DEFAULT_SOLVER, DEFAULT_STEPS, END_TIME, HISTORY, SOLVERS, Plan, make_plan
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Denoiser = Callable[[Doubles, float, float], Doubles]
"""The noise prediction for a state at an alpha and a sigma."""

STEPS = (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 50)


def run(plan: Plan, x: Doubles, predict: Denoiser) -> Doubles:
    """What the plan says, in float64, written from its docstring."""
    anchor = x
    history: list[Doubles] = []
    for k in range(len(plan)):
        m = (x - plan.sigma[k] * predict(x, plan.alpha[k], plan.sigma[k])) / plan.alpha[k]
        if plan.begins[k]:
            anchor = x
        history = [m, *history][:HISTORY]
        x = plan.anchor[k] * anchor + sum(w * h for w, h in zip(plan.history[k], history, strict=False))
    return x


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", STEPS)
def test_a_plan_has_a_row_a_call_on_the_uniform_grid(solver: str, steps: int) -> None:
    plan = make_plan(solver, steps)
    assert plan.solver == solver
    assert len(plan) == steps
    assert plan.times.shape == plan.alpha.shape == plan.sigma.shape == plan.begins.shape == plan.anchor.shape
    assert plan.history.shape == (steps, HISTORY)
    np.testing.assert_allclose(plan.times, 1 - np.arange(steps) * (1 - END_TIME) / steps, rtol=1e-12)
    assert (np.diff(plan.times) < 0).all()
    np.testing.assert_array_equal(plan.alpha, schedule.alpha(plan.times))
    np.testing.assert_array_equal(plan.sigma, schedule.sigma(plan.times))
    assert plan.begins[0]
    assert np.isfinite(plan.history).all()
    assert np.isfinite(plan.anchor).all()


@pytest.mark.parametrize(
    ("steps", "orders"),
    [
        (1, [1]),
        (2, [2]),
        (3, [2, 1]),
        (4, [3, 1]),
        (5, [3, 2]),
        (6, [3, 2, 1]),
        (7, [3, 3, 1]),
        (8, [3, 3, 2]),
        (9, [3, 3, 2, 1]),
        (50, [3] * 16 + [2]),
    ],
)
def test_the_single_step_solver_ends_in_lower_orders(steps: int, orders: list[int]) -> None:
    plan = make_plan("dpmpp-3s", steps)
    begins = np.flatnonzero(plan.begins)
    assert np.diff([*begins, steps]).tolist() == orders
    for start, order in zip(begins, orders, strict=True):
        # The last call of an update uses its own prediction and the first one's; no call reaches before the update.
        for call in range(order):
            assert (plan.history[start + call, call + 1 :] == 0).all()
            assert plan.history[start + call, call] != 0


def test_multistep_looks_back_once_but_not_first_and_not_last_where_steps_are_few() -> None:
    few, many = make_plan("dpmpp-2m", 9), make_plan("dpmpp-2m", 10)
    assert (few.history[:, 1] != 0).tolist() == [False] + [True] * 7 + [False]
    assert (many.history[:, 1] != 0).tolist() == [False] + [True] * 9
    assert few.begins.all()
    assert not few.history[:, 2].any()


def test_ddim_by_its_own_formula() -> None:
    plan = make_plan("ddim", 7)
    x, eps = 0.7, -1.3
    grid = np.append(plan.times, END_TIME)
    for k in range(7):
        m = (x - plan.sigma[k] * eps) / plan.alpha[k]
        by_plan = plan.anchor[k] * x + plan.history[k, 0] * m
        # Song et al. (2021), equation 12 with no added noise.
        expected = schedule.alpha(grid[k + 1]) * m + schedule.sigma(grid[k + 1]) * eps
        np.testing.assert_allclose(by_plan, expected, rtol=1e-9)
    assert not plan.history[:, 1:].any()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", STEPS)
def test_a_network_that_knows_x0_is_followed_exactly(solver: str, steps: int) -> None:
    x0, noise = np.array([-2.0, 0.0, 0.3, 5.0]), np.array([1.0, -0.5, 2.0, 0.1])
    start = schedule.alpha(1.0) * x0 + schedule.sigma(1.0) * noise
    end = run(make_plan(solver, steps), start, lambda x, alpha, sigma: (x - alpha * x0) / sigma)
    expected = schedule.alpha(END_TIME) * x0 + schedule.sigma(END_TIME) * noise
    np.testing.assert_allclose(end, expected, rtol=1e-9, atol=1e-12)


def gaussian_error(solver: str, steps: int) -> float:
    """Error of a run on data ~ N(0.5, 0.5^2), where the ideal prediction and the solution of the flow are known."""
    mean, deviation = 0.5, 0.5

    def spread(alpha: float, sigma: float) -> float:
        return float(np.hypot(alpha * deviation, sigma))

    def predict(x: Doubles, alpha: float, sigma: float) -> Doubles:
        return sigma * (x - alpha * mean) / spread(alpha, sigma) ** 2

    start = np.array([-2.0, -0.5, 0.1, 1.7])
    a0, s0, a1, s1 = (float(f(t)) for t in (1.0, END_TIME) for f in (schedule.alpha, schedule.sigma))
    # Along the probability flow a Gaussian's state keeps its place in units of the spread.
    expected = a1 * mean + (start - a0 * mean) / spread(a0, s0) * spread(a1, s1)
    return float(np.abs(run(make_plan(solver, steps), start, predict) - expected).max())


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("dpmpp-2m", 2), ("dpmpp-3s", 3)])
def test_the_error_falls_at_the_solvers_order(solver: str, order: int) -> None:
    # Fewer steps are not yet in the regime of the order; 3s ends in a lower order, so steps % 3 stays the same.
    steps = np.array([200, 398, 800])
    errors = np.array([gaussian_error(solver, int(n)) for n in steps])
    slopes = -np.diff(np.log(errors)) / np.diff(np.log(steps))
    assert (slopes > order - 0.35).all(), (errors, slopes)


def test_at_the_default_the_default_solver_is_the_best() -> None:
    errors = {solver: gaussian_error(solver, DEFAULT_STEPS) for solver in SOLVERS}
    assert min(errors, key=errors.__getitem__) == DEFAULT_SOLVER
    assert errors[DEFAULT_SOLVER] < 2e-2


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, 50.0, True, "x", "50", None])
def test_a_step_count_that_is_none_is_refused(steps: object) -> None:
    with pytest.raises(RequestError, match="expected a whole number from 1 to 1000") as caught:
        make_plan("ddim", steps)  # type: ignore[arg-type]
    assert repr(steps) in str(caught.value)


def test_the_most_steps_and_numpys_integers_are_taken() -> None:
    assert len(make_plan("dpmpp-3s", 1000)) == 1000
    assert len(make_plan("dpmpp-3s", np.int64(12))) == 12  # type: ignore[arg-type]


@pytest.mark.parametrize("solver", ["dpmpp-3m", "", "DDIM", None])
def test_an_unknown_solver_is_refused_with_those_there_are(solver: object) -> None:
    with pytest.raises(RequestError, match="there are dpmpp-3s, dpmpp-2m, ddim"):
        make_plan(solver, 10)  # type: ignore[arg-type]
