"""One request, end to end: rasters in, samples out, the folder whole or not at all."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bundle import sha256
from .errors import RequestError
from .folders import new_folder
from .memory import available_bytes
from .modalities import JOINT_SIZE, get, resolve
from .noise import check_seed
from .pipeline import Pipeline, Progress
from .provenance import days, degrees, describe_run, engine_notes, raster_tags
from .raster.conditions import Conditions, ReadOptions, read_conditions
from .raster.quicklook import write_quicklook
from .raster.write import estimate_bytes, write_modality
from .solver import Plan
from .weights import words_for

RESULT = "result.json"
QUICKLOOK = "quicklook.png"

_OVERHEAD_BYTES = 8 << 20
"""What quicklook and metadata may take beside the rasters."""


@dataclass(frozen=True)
class Request:
    """What a user asks for: ``conditions`` as (NAME, VALUE) typed, ``outputs`` as names, both keys or families."""

    conditions: Sequence[tuple[str, str]]
    outputs: Sequence[str]
    out: Path
    samples: int = 1
    steps: int | None = None
    seed: int = 0
    solver: str | None = None
    options: ReadOptions = field(default_factory=ReadOptions)


class _Clock:
    """Seconds spent in each stage, read off the progress that passes through."""

    def __init__(self, forward: Progress) -> None:
        self._forward = forward
        self._stage = ""
        self._since = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def enter(self, stage: str) -> None:
        now = time.perf_counter()
        if self._stage:
            self.seconds[self._stage] = round(self.seconds.get(self._stage, 0.0) + now - self._since, 3)
        self._stage, self._since = stage, now

    def progress(self, what: str, done: int, total: int) -> None:
        if what != self._stage:
            self.enter(what)
        self._forward(what, done, total)


def generate_folder(
    pipeline: Pipeline,
    request: Request,
    *,
    progress: Progress = lambda what, done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write the samples that ``request`` asks for into the new folder ``request.out``; what ``result.json`` holds.

    The folder gets, for each image modality, a GeoTIFF a sample and the statistics over samples, ``quicklook.png``, and
    ``result.json`` with place and date of each sample, model, solver, seed, backend, timings, and the SHA-256 of every
    input and output. ``say`` gets one sentence for each choice made for the user.

    Raises :class:`RequestError` for a request that cannot be met and :class:`NonFiniteError` where the model fails;
    nothing is left at ``request.out`` then.
    """
    outputs = _check(request)
    plan = pipeline.plan(request.solver, request.steps)
    pipeline.check_request(resolve(name for name, _ in request.conditions), outputs)
    clock = _Clock(progress)
    with new_folder(request.out, estimate_bytes(outputs, request.samples) + _OVERHEAD_BYTES) as work:
        clock.enter("read")
        conditions = read_conditions(request.conditions, request.options)
        for line in (*engine_notes(pipeline), *conditions.notes):
            say(line)
        samples = pipeline.generate(
            conditions.physical,
            outputs,
            samples=request.samples,
            steps=len(plan),
            seed=request.seed,
            solver=plan.solver,
            progress=clock.progress,
        )
        clock.enter("write")
        provenance = _provenance(pipeline, request, plan, conditions)
        files = _write(work, conditions, samples, provenance)
        clock.enter("")
        result = {
            **provenance,
            "samples": request.samples,
            "place": degrees(samples["3d_cartesian_lat_lon"]) if "3d_cartesian_lat_lon" in samples else None,
            "date": days(samples["mean_timestamps"]) if "mean_timestamps" in samples else None,
            "files": files,
            "seconds": clock.seconds,
        }
        (work / RESULT).write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return result


def _check(request: Request) -> tuple[str, ...]:
    outputs = resolve(request.outputs)
    if not outputs:
        raise RequestError("nothing to generate: name at least one output modality")
    for name, _ in request.conditions:
        if both := [key for key in resolve([name]) if key in outputs]:
            raise RequestError(f"{', '.join(both)} is both given and asked for; leave it out of one of the two")
    if request.samples < 1:
        raise RequestError(f"found {request.samples} samples, expected 1 or more")
    _check_memory(outputs, request.samples)
    check_seed(request.seed)
    return outputs


def _check_memory(outputs: tuple[str, ...], samples: int) -> None:
    """Raise :class:`RequestError` where even the arrays that a run must hold at once exceed the free memory."""
    pixels = sum(len(m.bands) * m.size**2 for m in map(get, outputs) if m.is_image)
    # Noise and state of the joint latent, and the results. A run takes more: what fits without swapping passes.
    needed, free = samples * 4 * (2 * JOINT_SIZE + pixels), available_bytes()
    if free is not None and needed > free:
        raise RequestError(
            f"{samples} samples need more than {needed / 1e9:.3g} GB of memory and {free / 1e9:.3g} GB are free; ask "
            "for fewer, and for more with another --seed"
        )


def _provenance(pipeline: Pipeline, request: Request, plan: Plan, conditions: Conditions) -> dict[str, Any]:
    window = conditions.window
    lat, lon = window.center
    named = {key: "=".join(pair) for pair in request.conditions for key in resolve([pair[0]])}
    given = {key: (named[key], conditions.files.get(key, ())) for key in conditions.physical}
    return {
        **describe_run(pipeline, plan, request.seed, given, conditions.notes),
        "window": {
            "crs": window.crs.to_string(),
            "bounds": list(window.bounds),
            "center": {"lat": round(lat, 7), "lon": round(lon, 7)},
        },
    }


def _write(
    work: Path, conditions: Conditions, samples: dict[str, NDArray[np.generic]], provenance: dict[str, Any]
) -> list[dict[str, Any]]:
    tags = raster_tags(provenance)
    files: list[dict[str, Any]] = []
    for key, values in samples.items():
        if get(key).is_image:
            files += write_modality(work, key, values, conditions.window, tags=tags)
    given = {key: np.asarray(value) for key, value in conditions.physical.items()}
    write_quicklook(work / QUICKLOOK, given, samples, title=_title(provenance))
    files.append({"file": QUICKLOOK, "modality": None, "kind": "quicklook", "sample": None})
    return [{**entry, "sha256": sha256(work / entry["file"])} for entry in files]


def _title(provenance: dict[str, Any]) -> str:
    center = provenance["window"]["center"]
    model = provenance["model"]
    name = f"{model.get('variant', 'custom')}{words_for(model['weights']).title}"
    return (
        f"COP-GEN {name} at {center['lat']:.4f}, {center['lon']:.4f}: "
        f"{provenance['steps']} steps of {provenance['solver']}, seed {provenance['seed']}"
    )
