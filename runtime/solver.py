"""Samplers as plans.

Every explicit solver in data prediction is a list of network calls. Call k sees the state x at time t_k and predicts
the noise; with m_k = (x - sigma_k eps) / alpha_k the next state is

    x' = anchor_k * a + history_k[0] * m_k + history_k[1] * m_{k-1} + history_k[2] * m_{k-2}

where the anchor a is the state at the last call that began an update. A plan is computed once, in float64; a backend
only runs it. Sources: DPM-Solver (arXiv 2206.00927), DPM-Solver++ (2211.01095), DDIM (2010.02502).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import schedule
from .errors import RequestError

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]
HISTORY = 3
END_TIME = 0.001
MAX_STEPS = 1000


@dataclass(frozen=True)
class Plan:
    """A sampler with its step count worked out; all arrays have one row a network call.

    ``times`` are continuous, in (0, 1]; ``alpha`` and ``sigma`` belong to them; ``begins`` marks the calls at which the
    anchor becomes the state; ``anchor`` (K,) and ``history`` (K, 3) are the coefficients, newest prediction first.
    """

    solver: str
    times: Doubles
    alpha: Doubles
    sigma: Doubles
    begins: NDArray[np.bool_]
    anchor: Doubles
    history: Doubles

    def __len__(self) -> int:
        return len(self.times)


def make_plan(solver: str, steps: int) -> Plan:
    """The plan of ``solver`` (a key of :data:`SOLVERS`) with ``steps`` network calls.

    Raises :class:`RequestError` for an unknown solver or a step count outside 1..1000.
    """
    if solver not in SOLVERS:
        raise RequestError(f"unknown solver {solver!r}; there are {', '.join(SOLVERS)}")
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or not 1 <= steps <= MAX_STEPS:
        raise RequestError(f"found {steps!r} steps, expected a whole number from 1 to {MAX_STEPS}")
    grid = np.linspace(1.0, END_TIME, int(steps) + 1)
    rows = SOLVERS[solver](grid)
    anchor = np.array([row[1] for row in rows])
    history = np.array([row[2] + (0.0,) * (HISTORY - len(row[2])) for row in rows])
    times = grid[:-1]
    begins = np.array([row[0] for row in rows])
    return Plan(solver, times, schedule.alpha(times), schedule.sigma(times), begins, anchor, history)


Row = tuple[bool, float, tuple[float, ...]]
"""Whether the call begins an update, the anchor's coefficient, and those of the predictions, newest first."""


def _first_order(t0: float, t1: float) -> tuple[float, float]:
    """Coefficients of the state and of its x0 prediction in the exact step for a constant prediction."""
    h = float(schedule.lam(t1) - schedule.lam(t0))
    return float(schedule.sigma(t1) / schedule.sigma(t0)), float(-schedule.alpha(t1) * np.expm1(-h))


def _singlestep_update(grid: Doubles) -> list[Row]:
    """One update over ``grid`` (its start, the inner stages, its end): orders 1 to 3 by its length."""
    lam = schedule.lam(grid)
    h = float(lam[-1] - lam[0])
    order = len(grid) - 1
    anchor_end, m0_end = _first_order(grid[0], grid[-1])
    if order == 1:
        return [(True, anchor_end, (m0_end,))]
    r1 = float(lam[1] - lam[0]) / h
    anchor_u, m0_u = _first_order(grid[0], grid[1])
    rows: list[Row] = [(True, anchor_u, (m0_u,))]
    if order == 2:
        change = m0_end / (2 * r1)
        return [*rows, (False, anchor_end, (change, m0_end - change))]
    r2 = float(lam[2] - lam[0]) / h
    anchor_v, m0_v = _first_order(grid[0], grid[2])

    def bend(time: float, g: float) -> float:
        return float(schedule.alpha(time) * (np.expm1(-g) / g + 1))

    change_v = r2 / r1 * bend(grid[2], r2 * h)
    change_end = bend(grid[3], h) / r2
    return [
        *rows,
        (False, anchor_v, (change_v, m0_v - change_v)),
        (False, anchor_end, (change_end, 0.0, m0_end - change_end)),
    ]


def _singlestep_3(grid: Doubles) -> list[Row]:
    steps = len(grid) - 1
    updates = steps // 3 + 1
    orders = {0: [3] * (updates - 2) + [2, 1], 1: [3] * (updates - 1) + [1], 2: [3] * (updates - 1) + [2]}[steps % 3]
    rows, start = [], 0
    for order in orders:
        rows += _singlestep_update(grid[start : start + order + 1])
        start += order
    return rows


def _multistep_2(grid: Doubles) -> list[Row]:
    steps = len(grid) - 1
    lam = schedule.lam(grid)
    rows: list[Row] = []
    for i in range(steps):
        anchor, m0 = _first_order(grid[i], grid[i + 1])
        # Few steps make the last, longest step in lambda unstable at order 2 (DPM-Solver++, section 4).
        if i == 0 or (i == steps - 1 and steps < 10):
            rows.append((True, anchor, (m0,)))
        else:
            r = float((lam[i] - lam[i - 1]) / (lam[i + 1] - lam[i]))
            rows.append((True, anchor, (m0 * (1 + 1 / (2 * r)), -m0 / (2 * r))))
    return rows


def _ddim(grid: Doubles) -> list[Row]:
    rows: list[Row] = []
    for i in range(len(grid) - 1):
        anchor, m0 = _first_order(grid[i], grid[i + 1])
        rows.append((True, anchor, (m0,)))
    return rows


SOLVERS: dict[str, Callable[[Doubles], list[Row]]] = {
    "dpmpp-3s": _singlestep_3,
    "dpmpp-2m": _multistep_2,
    "ddim": _ddim,
}
"""Solvers by name: the authors' single-step order 3, multistep order 2, and DDIM."""

DEFAULT_SOLVER = "dpmpp-3s"
DEFAULT_STEPS = 50


@dataclass
class PlanState:
    """Where a run of a plan stands: ``done`` calls made, the state ``x``, the ``anchor`` and the last x0 predictions,
    newest first; arrays (rows, floats) float32."""

    done: int
    x: Floats
    anchor: Floats
    predictions: list[Floats]

    @classmethod
    def begin(cls, x: Floats) -> PlanState:
        """The start of a run from ``x``."""
        return cls(0, x, x, [])

    def advance(self, plan: Plan, noise: Floats) -> None:
        """Make the next call's update, for the ``noise`` that the network finds in ``x``."""
        k = self.done
        if plan.begins[k]:
            self.anchor = self.x
        clean = (self.x - np.float32(plan.sigma[k]) * noise) / np.float32(plan.alpha[k])
        self.predictions = [clean, *self.predictions[: HISTORY - 1]]
        x = np.float32(plan.anchor[k]) * self.anchor
        for weight, prediction in zip(plan.history[k], self.predictions, strict=False):
            x += np.float32(weight) * prediction
        self.x, self.done = x, k + 1


def run_plan(
    plan: Plan,
    x: Floats,
    noise_at: Callable[[int, Floats], Floats],
    report: Callable[[int], None] = lambda done: None,
) -> Floats:
    """Advance ``x`` (rows, floats), float32, through ``plan``, and return where it ends.

    ``noise_at(k, x)`` is the noise that the network finds in ``x`` at call ``k``; ``report`` is called with the calls
    done. What the two raise passes through.
    """
    state = PlanState.begin(x)
    for k in range(len(plan)):
        state.advance(plan, noise_at(k, state.x))
        report(k + 1)
    return state.x
