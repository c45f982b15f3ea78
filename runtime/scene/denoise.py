"""Joint denoising: all windows of a draw share one latent field a modality.

At every network call the x0 predictions of overlapping windows are averaged, and the plan advances the field. Windows
share the state x of the ground that they share, and x0 = (x - sigma eps) / alpha, so the average of predictions is the
prediction of the average noise, and the plan is run by the very code that runs it for one window. Source of the idea:
MultiDiffusion (arXiv 2302.08113), in the data prediction of DPM-Solver++.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..backends import Backend
from ..backends.host_loop import step_failed
from ..components import STEP
from ..modalities import JOINT_SIZE, JOINT_SLICES
from ..solver import Plan, PlanState
from .draw import Windows

Floats = NDArray[np.float32]


def denoise_scene(
    backend: Backend,
    plan: Plan,
    windows: Windows,
    state: PlanState,
    *,
    batch: int,
    report: Callable[[int], None] = lambda done: None,
    keep: Callable[[PlanState], None] = lambda state: None,
) -> Floats:
    """Advance ``state``, of which x is (1, floats), to the end of ``plan``; the flat joint latents (floats,).

    ``batch`` windows are one call of the network. ``report`` is called with the windows done, of all calls; ``keep``
    with the state after each call of the plan, so that a long draw can be taken up again. Raises
    :class:`NonFiniteError` naming the call at which the network gave NaN or infinity for what is generated.
    """
    layout = windows.layout
    moving = np.zeros(JOINT_SIZE, bool)
    for key in layout.outputs:
        moving[JOINT_SLICES[key]] = True
    count = len(layout.windows)
    while state.done < len(plan):
        k = state.done
        blended = np.zeros_like(state.x[0])
        for start in range(0, count, batch):
            rows = range(start, min(start + batch, count))
            latents, times = windows.rows(state.x[0], float(plan.times[k]), rows)
            noise = backend.run(STEP, {"latents": latents, "timesteps": times})["noise"]
            if not np.isfinite(noise[:, moving]).all():
                raise step_failed(backend.precision, k, len(plan))
            windows.blend(blended, noise, rows)
            report(k * count + rows.stop)
        state.advance(plan, blended[np.newaxis])
        keep(state)
    return state.x[0]
