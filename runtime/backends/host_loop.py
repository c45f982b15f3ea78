"""The denoising loop in NumPy, around a backend that takes and gives host arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..components import STEP
from ..errors import NonFiniteError
from ..solver import Plan, run_plan
from . import Backend

Floats = NDArray[np.float32]


def denoise_on_host(
    backend: Backend,
    plan: Plan,
    latents: Floats,
    times: Floats,
    moving: NDArray[np.bool_],
    report: Callable[[int], None],
) -> Floats:
    """What :meth:`Backend.denoise` promises, by calls of ``backend.run``."""
    state = latents.copy()

    def noise_at(k: int, x: Floats) -> Floats:
        state[:, moving] = x
        timesteps = np.repeat(times[k : k + 1], len(state), axis=0)
        noise = backend.run(STEP, {"latents": state, "timesteps": timesteps})["noise"][:, moving]
        if not np.isfinite(noise).all():
            raise step_failed(backend.precision, k, len(plan))
        return noise

    state[:, moving] = run_plan(plan, state[:, moving], noise_at, report)
    return state


def step_failed(precision: str, k: int, steps: int) -> NonFiniteError:
    """The error of a network in ``precision`` that failed at call ``k``, from 0, of ``steps``."""
    return NonFiniteError(
        f"{STEP} ({precision}) gave NaN or infinity at step {k + 1} of {steps}; nothing was written; try "
        "--precision fp32, and 'copgen-edge verify' on the bundle"
    )


def failed_once(precision: str) -> NonFiniteError:
    """The error of a run in ``precision`` that failed, and did not when it was repeated to name the step."""
    return NonFiniteError(
        f"{STEP} ({precision}) gave NaN or infinity once and not when the run was repeated with the same input; "
        "nothing was written; check the GPU and its memory, and run again"
    )
