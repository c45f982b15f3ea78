"""Two runs side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from copgen_edge.runtime.drift import measure_drift
from copgen_edge.runtime.solver import make_plan


class Network:
    """Noise that is a share of the latents, plus an error."""

    name, precision, reason = "made up", "fp32", "asked for"

    def __init__(self, error: float = 0.0) -> None:
        self._error = error
        self.times: list[float] = []
        self.released = False

    def run(self, component: str, inputs: Any) -> dict[str, Any]:
        (row,) = inputs["timesteps"]
        assert component == "dit_step" and len(set(row.tolist())) == 1
        self.times.append(float(row[0]))
        return {"noise": (0.5 * inputs["latents"] * (1 + self._error)).astype(np.float32)}

    def release(self, component: str) -> None:
        self.released = True


def test_the_same_network_does_not_drift() -> None:
    mine, other = Network(), Network()
    done: list[int] = []
    found = measure_drift(mine, other, make_plan("dpmpp-2m", 4), seed=3, report=done.append)
    assert [one.figures.relative_l2 for one in found] == [0.0] * 4
    assert [one.call for one in found] == [1, 2, 3, 4]
    assert mine.times == pytest.approx([one.timestep for one in found]) and mine.times[0] == 1000
    assert done == list(range(1, 9)) and mine.released and other.released


def test_an_error_of_the_noise_shows_as_the_solver_carries_it() -> None:
    plan = make_plan("ddim", 1)
    (found,) = measure_drift(Network(0.1), Network(), plan, seed=3)

    def end(share: float) -> float:
        """What one DDIM step makes of a latent of 1 whose noise is ``share`` of it."""
        clean = (1 - plan.sigma[0] * share) / plan.alpha[0]
        return float(plan.anchor[0] + plan.history[0][0] * clean)

    assert found.figures.relative_l2 == pytest.approx(abs(end(0.55) - end(0.5)) / abs(end(0.5)), rel=1e-4)
