"""What components and whole runs cost: seconds, network calls a second, memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .backends import Backend, TimesSteps
from .components import STEP
from .memory import peak_bytes, reset_peak
from .modalities import KEYS, get
from .parity import PROBE_SEED, probe_inputs
from .pipeline import Pipeline, Progress
from .transforms import to_physical


@dataclass(frozen=True)
class Timing:
    """Calls of one component with ``rows`` rows: ``seconds`` a call; load time and peak memory of the first engine."""

    component: str
    engine: str
    rows: int
    seconds: tuple[float, ...]
    load_seconds: float | None
    peak_bytes: int | None

    @property
    def median(self) -> float:
        """Median seconds a call."""
        return statistics.median(self.seconds)

    @property
    def fastest(self) -> float:
        """Least seconds a call."""
        return min(self.seconds)

    @property
    def slowest(self) -> float:
        """Most seconds a call."""
        return max(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "component": self.component,
            "engine": self.engine,
            "batch": self.rows,
            "median_seconds": self.median,
            "min_seconds": self.fastest,
            "max_seconds": self.slowest,
            "calls_per_second": 1 / self.median,
            "repeats": len(self.seconds),
            "load_seconds": self.load_seconds,
            "peak_bytes": self.peak_bytes,
        }


def measure_component(backends: Sequence[Backend], component: str, rows: Sequence[int], repeat: int) -> list[Timing]:
    """Time ``component`` on every backend at every batch size, ``repeat`` calls each after one to warm up.

    The backends take turns call by call, so that a machine shared with others is as busy for one as for the other. The
    first is loaded alone before, which is when its load time and, per batch size, the peak memory of the process are
    taken.
    """
    first = backends[0]
    started = time.perf_counter()
    first.load(component)
    load_seconds = time.perf_counter() - started
    inputs = {size: probe_inputs(component, size, PROBE_SEED) for size in rows}
    peaks: dict[int, int | None] = {}
    for size in rows:
        reset_peak()
        first.run(component, inputs[size])
        peaks[size] = peak_bytes()
    for other in backends[1:]:
        other.load(component)
    timings = []
    for size in rows:
        for other in backends[1:]:
            other.run(component, inputs[size])
        seconds: dict[str, list[float]] = {backend.name: [] for backend in backends}
        for _ in range(repeat):
            for backend in backends:
                started = time.perf_counter()
                backend.run(component, inputs[size])
                seconds[backend.name].append(time.perf_counter() - started)
        for backend in backends:
            own = backend is first
            timings.append(
                Timing(
                    component,
                    backend.name,
                    size,
                    tuple(seconds[backend.name]),
                    load_seconds if own else None,
                    peaks[size] if own else None,
                )
            )
    for backend in backends:
        backend.release(component)
    return timings


def measure_steps(backend: Backend, rows: Sequence[int], repeat: int) -> list[dict[str, Any]]:
    """Seconds of a step (network and update) of each batch size, put on the stream and replayed as a CUDA graph, on the
    host's clock and by the GPU's events; empty for a backend that has neither stream nor graphs of ours."""
    if not isinstance(backend, TimesSteps):
        return []
    return [{"batch": size, **backend.time_steps(size, repeat)} for size in rows]


def measure_run(pipeline: Pipeline, steps: int, repeat: int, progress: Progress) -> dict[str, Any]:
    """Time ``repeat`` whole runs of one sample: elevation and land cover to all else that the bundle has.

    Components are loaded before, which is timed apart; with the pipeline's low memory they load within the run again.
    """
    conditions, outputs = _run_split(pipeline)
    given = {key: to_physical(key, probe_inputs(f"encoder_{key}", 1, PROBE_SEED)["image"]) for key in conditions}
    reset_peak()
    started = time.perf_counter()
    encoders = [f"encoder_{key}" for key in conditions]
    decoders = [f"decoder_{key}" for key in outputs if get(key).is_image]
    for component in (*encoders, STEP, *decoders):
        pipeline.backend.load(component)
    load_seconds = time.perf_counter() - started
    seconds = []
    for _ in range(repeat):
        started = time.perf_counter()
        pipeline.generate(given, outputs, samples=1, steps=steps, progress=progress)
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    return {
        "conditions": conditions,
        "outputs": outputs,
        "solver": pipeline.bundle.manifest.solver,
        "steps": steps,
        "repeats": repeat,
        "load_seconds": load_seconds,
        "median_seconds": median,
        "min_seconds": min(seconds),
        "max_seconds": max(seconds),
        "network_calls_per_second": steps / median,
        "peak_bytes": peak_bytes(),
    }


def _run_split(pipeline: Pipeline) -> tuple[list[str], list[str]]:
    there = pipeline.bundle.manifest.components
    conditions = [key for key in ("DEM_DEM", "LULC_LULC") if f"encoder_{key}" in there]
    outputs = [key for key in KEYS if key not in conditions and (not get(key).is_image or f"decoder_{key}" in there)]
    return conditions, outputs
