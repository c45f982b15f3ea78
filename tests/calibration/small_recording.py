"""A recording that costs next to nothing: a bundle's manifest, an engine that only pretends, and made-up patches.

As a script ``BUNDLE OUT CALLS`` makes it, and kills itself at the network call of that number.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from copgen_edge.calibration.record import record
from copgen_edge.calibration.trajectories import Trajectories
from copgen_edge.runtime.backends.host_loop import denoise_on_host
from copgen_edge.runtime.bundle import Bundle
from copgen_edge.runtime.components import STEP
from copgen_edge.runtime.evaluation.truth import Truth
from copgen_edge.runtime.modalities import KEYS, MODALITIES, get
from copgen_edge.runtime.pipeline import Pipeline

RUNS, SAMPLES, STEPS = 3, 3, 4
CALLS = RUNS * 2 * STEPS
"""Network calls in all: of three samples two are in one batch and one in another."""


class Pretence:
    """A backend whose outputs follow from its inputs; ``at_call`` hears the number of each network call from 0."""

    name, precision, reason = "pretence", "fp32", "for tests"

    def __init__(self, at_call: Callable[[int], None] = lambda number: None, scale: float = 1.0) -> None:
        self.calls = 0
        self._at_call, self._scale = at_call, scale

    def check(self, component: str) -> None:
        pass

    load = release = check

    def run(self, component: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        if component == STEP:
            self._at_call(self.calls)
            self.calls += 1
            # What is predicted depends on the conditions and the times as well as on what moves.
            hint = inputs["latents"].mean(axis=1, keepdims=True) + inputs["timesteps"].mean(axis=1, keepdims=True) / 1e3
            return {"noise": np.float32(0.9) * inputs["latents"] + hint}
        m = get(component.split("_", 1)[1])
        assert component.startswith("encoder_"), "nobody looks at what decoders would make"
        mean = inputs["image"].mean(axis=(1, 2, 3), keepdims=True) * np.float32(self._scale)
        channels, height, width = m.latent_shape
        return {"moments": np.broadcast_to(mean, (len(mean), 2 * channels, height, width)).copy()}

    def denoise(self, *arguments: Any) -> Any:
        return denoise_on_host(self, *arguments)

    def describe(self) -> dict[str, Any]:
        return {}


def pretend(bundle: Path, backend: Pretence | None = None, without: tuple[str, ...] = ()) -> Pipeline:
    """A pipeline on the manifest of ``bundle``, which lacks the components ``without``."""
    opened = Bundle.open(bundle)
    left = {name: one for name, one in opened.manifest.components.items() if name not in without}
    return Pipeline(replace(opened, manifest=replace(opened.manifest, components=left)), backend or Pretence(), batch=2)


def patches(count: int = 2, without: tuple[str, ...] = ()) -> Truth:
    """Patches whose pixels are noise, of all modalities but those ``without``."""
    random = np.random.default_rng(7)
    physical: dict[str, Any] = {}
    for m in MODALITIES:
        shape = (count, len(m.bands), m.size, m.size)
        if m.kind == "place":
            physical[m.key] = random.uniform(-60, 60, (count, 2))
        elif m.kind == "date":
            physical[m.key] = np.array([[2019 + i, 5, 17] for i in range(count)])
        elif m.is_codes:
            physical[m.key] = random.choice([1, 2], shape).astype(np.uint8)
        else:
            physical[m.key] = random.uniform(0.1, 3000, shape).astype(np.float32)
    names = tuple(f"patch {i}" for i in range(count))
    return Truth(names, {key: physical[key] for key in KEYS if key not in without})


def small(bundle: Path, out: Path, backend: Pretence | None = None, **other: Any) -> Trajectories:
    """The recording that all of these tests make, but for what is asked to be ``other``."""
    asked: dict[str, Any] = {"runs": RUNS, "samples": SAMPLES, "steps": STEPS, "max_mb": 256, **other}
    return record(pretend(bundle, backend), patches(), out, **asked)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


if __name__ == "__main__":
    last = int(sys.argv[3])

    def die(number: int) -> None:
        if number == last:
            os.kill(os.getpid(), signal.SIGKILL)

    small(Path(sys.argv[1]), Path(sys.argv[2]), Pretence(die))
