"""What a scene will take: windows, calls, time, memory and disk, before any work is done."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from math import prod

import numpy as np

from ..components import STEP
from ..memory import peak_bytes
from ..modalities import CELL_METRES, KEYS, PATCH_METRES, get
from ..pipeline import Pipeline
from ..raster.storage import of_values
from ..solver import HISTORY
from .request import SceneTask

_FLOAT = 4
_STATE_ARRAYS = HISTORY + 5
"""Arrays of the size of the joint latents that a step of the solver holds at once: the state, the anchor, the last
predictions, the blended noise, and what becomes the next prediction and the next state."""

_STATISTICS = 6
"""Values of four bytes that the statistics of a continuous band take: mean, deviation, three quantiles, and a half for
overviews; those of codes take one a class and two more."""


@dataclass(frozen=True)
class Estimate:
    """What a run is expected to take. ``calls`` are calls of the network with up to a batch of windows each;
    ``state_bytes`` what the joint latents of one draw take in memory, ``memory_bytes`` the whole process."""

    windows: int
    calls: int
    seconds: float
    state_bytes: int
    memory_bytes: int
    disk_bytes: int

    def lines(self) -> list[str]:
        """The estimate in words."""
        return [
            f"plan: {self.windows} windows, {self.calls} network calls, about {_time(self.seconds)}",
            f"plan: about {self.memory_bytes / 1e9:.2f} GB of memory, {self.state_bytes / 1e6:.1f} MB of it for the "
            f"latents, and up to {self.disk_bytes / 1e9:.2f} GB of disk",
        ]

    def as_json(self) -> dict[str, float]:
        """The estimate as plain numbers."""
        return asdict(self)


def estimate(pipeline: Pipeline, task: SceneTask) -> Estimate:
    """Time one call of every component on this machine and work out the rest. Raises as the components do."""
    layout, request = task.layout, task.request
    count, samples = len(layout.windows), request.samples
    batches = -(-count // pipeline.batch)
    calls = batches * len(task.plan) * samples
    step = _seconds(pipeline, STEP, min(pipeline.batch, count))
    encode = sum(_seconds(pipeline, f"encoder_{source.key}", 1) for source in task.sources)
    images = [key for key in layout.outputs if get(key).is_image]
    decode = sum(_seconds(pipeline, f"decoder_{key}", 1) for key in images)
    state = state_bytes(task)
    return Estimate(
        count,
        calls,
        round(calls * step + count * encode + count * samples * decode, 1),
        state,
        (peak_bytes() or 0) + state + max((_strip_bytes(task, key) for key in images), default=0),
        disk_bytes(task),
    )


def state_bytes(task: SceneTask) -> int:
    """Bytes of memory that the latents of one draw take: the solver's arrays, and noise for what is absent."""
    layout = task.layout
    moving = sum(prod(layout.shape(key)) for key in layout.outputs)
    absent = sum(prod(layout.shape(key)) for key in KEYS if key not in layout.outputs)
    return _FLOAT * (_STATE_ARRAYS * moving + absent)


def disk_bytes(task: SceneTask) -> int:
    """An upper bound of the bytes of disk: conditions, states and samples while the work lasts, and the result."""
    layout, samples = task.layout, task.request.samples
    count = len(layout.windows)
    conditions = sum(get(source.key).latent_size * _FLOAT + get(source.key).size ** 2 // 8 for source in task.sources)
    total = count * conditions
    total += _FLOAT * (samples + HISTORY + 2) * sum(prod(layout.shape(key)) for key in layout.outputs)
    for key in layout.outputs:
        m = get(key)
        if m.is_image:
            pixels = prod(layout.grid.shape(m.resolution))
            copies = samples * (2 if task.request.keep_samples else 1)
            statistics = len(m.codes) + 2 if m.is_codes else len(m.bands) * _STATISTICS
            total += pixels * (len(m.bands) * np.dtype(of_values(m).dtype).itemsize * copies + _FLOAT * statistics)
    return total + prod(layout.grid.shape(10)) * len(task.sources) * 2


def _strip_bytes(task: SceneTask, key: str) -> int:
    m = get(key)
    width = task.layout.grid.cells[1] * m.size * CELL_METRES // PATCH_METRES
    # The open strip, its copy when it moves on, and the physical values in float64 on their way to float32.
    return m.channels * m.size * width * _FLOAT * 5


def _seconds(pipeline: Pipeline, component: str, rows: int) -> float:
    """Seconds of a warm call of ``component``, which is released then."""
    spec = pipeline.bundle.component(component)
    inputs = {tensor.name: np.zeros((rows, *map(int, tensor.shape[1:])), np.float32) for tensor in spec.inputs}
    pipeline.backend.run(component, inputs)
    began = time.perf_counter()
    pipeline.backend.run(component, inputs)
    seconds = time.perf_counter() - began
    pipeline.backend.release(component)
    return seconds


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
