"""A component in fp32 on recorded rows and runs, and how far a variant of it is from that."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.backends import create_backend
from ..runtime.backends.onnxruntime import cpu_session
from ..runtime.bundle import Bundle
from ..runtime.components import STEP, contract
from ..runtime.errors import CalibrationError
from ..runtime.evaluation.regression import to_metric_units
from ..runtime.evaluation.spectra import wasserstein
from ..runtime.modalities import JOINT_SIZE, JOINT_SLICES, KEYS, get
from ..runtime.pipeline import Pipeline
from ..runtime.solver import make_plan
from ..runtime.transforms import to_physical
from .ranges import BANDS, band_of, calls_of_bands
from .replay import Network, Replay, network_of, relative, starts
from .trajectories import RecordedRun, Trajectories, spread

Floats = NDArray[np.float32]

CALL_ROWS = 8
"""Rows on which the error of a single call is measured."""
_REPEATS = 5


@dataclass(frozen=True)
class RunErrors:
    """What a variant does to whole runs, where any were made: relative L2 at their ``whole`` ends with it in all calls
    and in those of each band alone, :meth:`Judge.physical` of the first, and :meth:`Judge.distribution` of all."""

    whole: float | None
    by_band: tuple[float | None, ...]
    physical: Mapping[str, float]
    distribution: Mapping[str, Mapping[str, float]]


class Judge:
    """The fp32 component, what it gives for the rows, and its whole runs: what every variant is held against."""

    def __init__(
        self,
        bundle: Bundle,
        trajectories: Trajectories,
        runs: Sequence[RecordedRun],
        component: str,
        threads: int,
        replays: int,
    ) -> None:
        self.threads = threads
        self._name = component
        self._output = contract(component).outputs[0].name
        self.session = cpu_session(bundle.onnx_path(component, "fp32"), threads)
        self.rows = rows_of(trajectories, runs, component, CALL_ROWS)
        self._expected = [self.run(self.session, inputs) for inputs, _ in self.rows]
        backend = create_backend(bundle, "onnxruntime-cpu", precision="fp32", threads=threads)
        self._pipeline = Pipeline(bundle, backend)
        self._decoded: dict[str, NDArray[np.generic]] | None = None
        self.replays: list[Replay] = []
        self.others: list[Replay] = []
        self.seeds: float | None = None
        if component == STEP and replays:
            self._replay(trajectories, runs, replays)

    def _replay(self, trajectories: Trajectories, runs: Sequence[RecordedRun], replays: int) -> None:
        plan = make_plan(trajectories.solver, trajectories.steps)
        self.bands = calls_of_bands(plan)
        network = network_of(self.session)
        chosen = starts(trajectories, runs)
        chosen = [chosen[index] for index in spread(len(chosen), replays)]
        keep = [first for first, _ in self.bands.values()]
        self.replays = [Replay(network, start, plan, keep) for start in chosen]
        # Far from any seed that is likely to have been recorded.
        self.others = [Replay(network, start.reseeded(2**63 + i), plan) for i, start in enumerate(chosen)]
        self.seeds = self.end_error([other.end for other in self.others])

    def run(self, session: Any, inputs: Mapping[str, Floats]) -> Floats:
        """The component's output."""
        found: Floats = session.run([self._output], dict(inputs))[0]
        return found

    def call_errors(self, session: Any) -> tuple[float | None, ...]:
        """Relative L2 of single calls by band."""
        by_band: dict[int, tuple[list[Floats], list[Floats]]] = {}
        for (inputs, timestep), expected in zip(self.rows, self._expected, strict=True):
            found, reference = by_band.setdefault(0 if timestep is None else band_of(timestep), ([], []))
            moving = inputs["timesteps"][0] == timestep if timestep is not None else None
            mask = slice(None) if moving is None else _columns(moving)
            found.append(self.run(session, inputs).reshape(1, -1)[:, mask])
            reference.append(expected.reshape(1, -1)[:, mask])
        bands = BANDS if self._name == STEP else 1
        return tuple(relative(*by_band[band]) if band in by_band else None for band in range(bands))

    def run_errors(self, network: Network, *, group: bool) -> RunErrors:
        """What ``network`` does to whole runs; of a ``group`` of layers by band of t, of all layers in distribution."""
        if not self.replays:
            return RunErrors(None, (), {}, {})
        ends = [one.whole(network) for one in self.replays]
        whole, physical = self.end_error(ends), self.physical(ends[0])
        if not group:
            return RunErrors(whole, (), physical, self.distribution(ends))
        reference = [one.end for one in self.replays]
        each = [
            relative([one.with_calls(network, *self.bands[band]) for one in self.replays], reference)
            if band in self.bands
            else None
            for band in range(BANDS)
        ]
        return RunErrors(whole, tuple(each), physical, {})

    def distribution(self, ends: Sequence[Floats]) -> dict[str, dict[str, float]]:
        """By modality, the Wasserstein-1 distance of the latents' values at ``ends`` from those of fp32 (``fp32``), and
        of another seed's from those (``seeds``), in standard deviations of fp32's."""
        found = self.values(ends)
        reference, others = (self.values([one.end for one in replays]) for replays in (self.replays, self.others))
        distances: dict[str, dict[str, float]] = {}
        for key, values in reference.items():
            spread = float(values.std()) or 1.0
            pairs = {"fp32": found[key], "seeds": others[key]}
            distances[key] = {what: float(wasserstein(values, other)[0]) / spread for what, other in pairs.items()}
        return distances

    def physical(self, end: Floats) -> dict[str, float]:
        """What the first replay's end and ``end`` differ by when decoded, by modality key: mean absolute difference in
        physical units (of backscatter in dB), of codes the share of pixels; only what the bundle has decoders for."""
        first = self.replays[0]
        if self._decoded is None:
            self._decoded = self._decode(first.latents(first.end))
        return {
            key: _difference(key, found, self._decoded[key]) for key, found in self._decode(first.latents(end)).items()
        }

    def _decode(self, latents: Mapping[str, Floats]) -> dict[str, NDArray[np.generic]]:
        there = self._pipeline.bundle.manifest.components
        known = {key: latent for key, latent in latents.items() if get(key).is_image and f"decoder_{key}" in there}
        return {key: to_physical(key, self._pipeline.decode(key, latent)) for key, latent in known.items()}

    def end_error(self, ends: Sequence[Floats]) -> float | None:
        """Relative L2 of the ends of all replays; None where there are none."""
        return relative(ends, [one.end for one in self.replays]) if self.replays else None

    def values(self, ends: Sequence[Floats]) -> dict[str, Floats]:
        """By key, the latents' values where the replays end, flat."""
        found: dict[str, list[Floats]] = {}
        for one, end in zip(self.replays, ends, strict=True):
            for key, latent in one.latents(end).items():
                found.setdefault(key, []).append(latent.reshape(-1, 1))
        return {key: np.concatenate(values) for key, values in found.items()}

    def seconds(self, session: Any | None) -> tuple[float, float]:
        """Median seconds of a call of the fp32 component and of ``session`` (of fp32 again for None), in turn."""
        inputs = self.rows[0][0]
        found: tuple[list[float], list[float]] = ([], [])
        for _ in range(_REPEATS):
            for times, one in zip(found, (self.session, session or self.session), strict=True):
                began = time.perf_counter()
                self.run(one, inputs)
                times.append(time.perf_counter() - began)
        return statistics.median(found[0]), statistics.median(found[1])


def open_variant(path: Path, form: str, threads: int) -> Any:
    """A session of a quantised file; ONNX Runtime's optimiser breaks FP8 graphs on a CPU."""
    return cpu_session(path, threads, optimise=not form.startswith("fp8"))


def _difference(key: str, found: NDArray[np.generic], reference: NDArray[np.generic]) -> float:
    if get(key).is_codes:
        return float((found != reference).mean())
    a, b = (to_metric_units(key, np.asarray(values, np.float64)) for values in (found, reference))
    return float(np.abs(a - b).mean())


def rows_of(
    trajectories: Trajectories, runs: Sequence[RecordedRun], component: str, most: int
) -> list[tuple[dict[str, Floats], float | None]]:
    """At most ``most`` rows of inputs of ``component`` from ``runs``, evenly spread, each with its timestep."""
    found = trajectories.entries(component, runs)
    if not found:
        raise CalibrationError(f"{trajectories.root} has nothing recorded of {component}; record more runs")
    return [
        (trajectories.inputs(run, [entry]), entry.timestep)
        for run, entry in (found[index] for index in spread(len(found), most))
    ]


def _columns(moving: NDArray[np.bool_]) -> NDArray[np.bool_]:
    columns = np.zeros(JOINT_SIZE, bool)
    for key, moves in zip(KEYS, moving, strict=True):
        columns[JOINT_SLICES[key]] = moves
    return columns
