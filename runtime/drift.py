"""How far a backend's run drifts from another's: the same noise through both, compared after every call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backends import Backend
from .components import STEP
from .modalities import KEYS
from .noise import latent_noise
from .parity import Figures, compare
from .schedule import TRAIN_STEPS
from .solver import Plan, run_plan

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Drift:
    """How far two runs are apart after ``call``, from 1, which was at ``timestep`` in 0..1000."""

    call: int
    timestep: float
    figures: Figures

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"call": self.call, "timestep": self.timestep, **self.figures.to_dict()}


def measure_drift(
    backend: Backend,
    reference: Backend,
    plan: Plan,
    *,
    seed: int,
    report: Callable[[int], None] = lambda done: None,
) -> list[Drift]:
    """Errors of all latents on ``backend`` against ``reference`` after each call of ``plan``, every modality generated
    from the noise of ``seed``; each run feeds on its own latents, so that errors add up as they do in use.

    One network after the other is in memory. Raises what the backends raise.
    """
    start = np.concatenate(
        [latent_noise(key, 1, seed=seed, purpose="initial").reshape(1, -1) for key in KEYS], axis=1
    ).astype(np.float32)
    expected = _states(reference, plan, start, report)
    found = _states(backend, plan, start, lambda done: report(len(plan) + done))
    return [
        Drift(k + 1, float(plan.times[k] * TRAIN_STEPS), compare(mine, other))
        for k, (mine, other) in enumerate(zip(found, expected, strict=True))
    ]


def _states(backend: Backend, plan: Plan, start: Floats, report: Callable[[int], None]) -> list[Floats]:
    """The latents after each call."""
    seen: list[Floats] = []

    def noise_at(k: int, x: Floats) -> Floats:
        seen.append(x)
        times = np.full((len(x), len(KEYS)), plan.times[k] * TRAIN_STEPS, np.float32)
        return backend.run(STEP, {"latents": x, "timesteps": times})["noise"]

    end = run_plan(plan, start, noise_at, report)
    backend.release(STEP)
    return [*seen[1:], end]
