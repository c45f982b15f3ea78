"""The solver's update as a graph of a few elementwise nodes, so that it runs where the latents are.

The graph, ``update.onnx``, is made by ``copgen_edge.export.update`` and travels with the package; every engine that
reads ONNX runs it, and no kernel is compiled on the edge. It does what one turn of
:func:`~copgen_edge.runtime.solver.run_plan` does, operation by operation in float32.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..solver import HISTORY, Plan

UPDATE_MODEL = Path(__file__).with_name("update.onnx")
"""The packaged graph."""

STATE = ("latents", "anchor", "last", "before")
"""What goes from call to call, each (batch, 26118) float32: x, a, and the last two x0 predictions, newest first.

The first call of a plan has a coefficient of 0 for ``last`` and ``before``, and 0 * NaN is NaN: who runs the graph
zeroes both at the start of every run. ``anchor`` may hold anything there, since the first call begins an update.
"""

UPDATE_INPUTS = ("latents", "noise", "anchor", "last", "before", "moving", "coefficients")
"""``moving`` is (26118,) float32, 1 where a latent is generated and 0 where it stays; ``coefficients`` (8,) float32."""

UPDATE_OUTPUTS = tuple(f"next_{name}" for name in STATE)
"""The state after the call, in the order of :data:`STATE`."""

COEFFICIENTS = 8
"""alpha, sigma, begins (1 or 0), anchor, the three of the history, and a 0 that fills the row up."""


def coefficient_rows(plan: Plan) -> NDArray[np.float32]:
    """What ``plan`` feeds the update at each of its K calls: (K, 8) float32."""
    rows = np.zeros((len(plan), COEFFICIENTS), np.float32)
    rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3] = plan.alpha, plan.sigma, plan.begins, plan.anchor
    rows[:, 4 : 4 + HISTORY] = plan.history
    return rows
