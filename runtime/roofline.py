"""What a timed call did, against what its device could do at most."""

from __future__ import annotations

import math

import numpy as np

from .benchmark import Timing
from .bundle import Component
from .peaks import Peak


def occupancy(timing: Timing, component: Component, precision: str, peak: Peak | None) -> dict[str, float | None]:
    """The work of a call and how fast it was done, for JSON; all None where the bundle does not tell the cost.

    ``flops``, ``weight_bytes`` and ``activation_bytes`` are of one call with all its rows, ``tflops_per_second`` is at
    the median. ``peak_ratio`` is that over the peak of ``precision``. ``roofline_seconds`` is the least time a call can
    take: that of its FLOPs at the peak, or of moving its weights, inputs and outputs once at the full bandwidth,
    whichever is longer; what flows between the nodes is left out, since an engine may fuse it away. The last two are
    None without a ``peak`` of that precision.
    """
    cost = component.precisions[precision].cost
    found: dict[str, float | None] = dict.fromkeys(
        ("flops", "tflops_per_second", "weight_bytes", "activation_bytes", "peak_ratio", "roofline_seconds")
    )
    if not cost:
        return found
    flops = timing.rows * cost["flops_per_row"]
    speed = flops / timing.median
    found |= {
        "flops": flops,
        "tflops_per_second": speed / 1e12,
        "weight_bytes": cost["weight_bytes"],
        "activation_bytes": timing.rows * cost["activation_bytes_per_row"],
    }
    if peak is not None and precision in peak.flops:
        edges = sum(
            math.prod(int(n) for n in spec.shape[1:]) * np.dtype(spec.dtype).itemsize
            for spec in (*component.inputs, *component.outputs)
        )
        moved = cost["weight_bytes"] + timing.rows * edges
        found |= {
            "peak_ratio": speed / peak.flops[precision],
            "roofline_seconds": max(flops / peak.flops[precision], moved / peak.bandwidth),
        }
    return found
