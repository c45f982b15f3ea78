"""Truths, runs and a stand-in for the pipeline, of which every figure can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from copgen_edge.runtime.evaluation.runs import Run
from copgen_edge.runtime.evaluation.truth import Truth
from copgen_edge.runtime.modalities import get
from numpy.typing import NDArray

PLACE, DATE, DEM, SMALL = "3d_cartesian_lat_lon", "mean_timestamps", "DEM_DEM", "S2L2A_B01_B09"

Physical = dict[str, NDArray[Any]]
MakeTruth = Callable[..., Truth]
MakeRun = Callable[..., Run]
Offset = Callable[[int, int, int, int], float]


def true_values(key: str, patches: int) -> NDArray[Any]:
    """Images are a ramp of 1 a column from 500 on, 100 higher for every further patch and 10 for every further band;
    codes are the first class that is not 0, and in the left half the next."""
    m = get(key)
    if m.kind == "place":
        return np.array([[0.0, 10.0 * n] for n in range(patches)])
    if m.kind == "date":
        return np.array([[2021, 1 + n % 12, 15] for n in range(patches)], np.int64)
    shape = (patches, len(m.bands), m.size, m.size)
    if m.is_codes:
        codes = np.full(shape, sorted(m.codes)[1], np.uint8)
        codes[..., : m.size // 2] = sorted(m.codes)[2]
        return codes
    n, band = np.arange(patches)[:, None, None, None], np.arange(len(m.bands))[None, :, None, None]
    values = 500.0 + 100 * n + 10 * band + np.arange(m.size) + np.zeros(shape)
    return (10 ** (values / 1000) if m.kind == "backscatter" else values).astype(np.float32)


@pytest.fixture
def make_truth() -> MakeTruth:
    def make(keys: Sequence[str], patches: int = 4, draws: Mapping[str, NDArray[Any]] | None = None) -> Truth:
        names = tuple(f"patch {n}" for n in range(patches))
        return Truth(names, {key: true_values(key, patches) for key in keys}, draws)

    return make


@pytest.fixture
def make_run() -> MakeRun:
    """``make_run(physical)``: a run that drew ``physical`` (N, S, ...) by key; its latents are all 1 unless given."""

    def make(physical: Mapping[str, NDArray[Any]], latents: Mapping[str, NDArray[Any]] | None = None) -> Run:
        rows, samples = next(iter(physical.values())).shape[:2]
        ones = {key: np.ones((rows, samples, *get(key).latent_shape), np.float32) for key in physical}
        names = tuple(f"patch {n}" for n in range(rows))
        return Run(names, (), samples, dict(latents or ones), dict(physical), {"seed": 0})

    return make


class Drawer:
    """In place of a pipeline: draws the truth plus ``offset(conditions, seed, patch, sample)``, in units of the image.

    Latents are 1 plus the offset throughout. Codes, places and dates are the truth's own.
    """

    def __init__(self, truth: Truth, offset: Offset, name: str = "model") -> None:
        manifest = SimpleNamespace(model={"weights": "random"}, solver="dpmpp-3s")
        self.bundle = SimpleNamespace(root=Path(name), digest="0" * 64, manifest=manifest)
        self.backend = SimpleNamespace(precision="fp32", describe=lambda: {"backend": "none", "precision": "fp32"})
        self.calls: list[SimpleNamespace] = []
        self._truth, self._offset = truth, offset

    def plan(self, solver: str | None, steps: int | None) -> range:
        return range(steps or 50)

    def check_request(self, conditions: Sequence[str], outputs: Sequence[str]) -> None:
        """It lacks no component."""

    def generate_latents(
        self,
        conditions: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        *,
        samples: int,
        steps: int | None,
        seed: int,
        progress: Callable[[str, int, int], None],
    ) -> Physical:
        asked = {"conditions": conditions, "outputs": outputs, "samples": samples, "steps": steps, "seed": seed}
        self.calls.append(SimpleNamespace(**asked))
        progress("denoise", 1, 1)
        rows = len(next(iter(conditions.values()), [0])) * samples
        each = rows // len(self._truth)
        levels = [1 + self._offset(len(conditions), seed, row // each, row % each) for row in range(rows)]
        return {key: np.stack([np.full(get(key).latent_shape, x, np.float32) for x in levels]) for key in outputs}

    def to_physical(self, latents: Physical, *, progress: Callable[[str, int, int], None]) -> Physical:
        found = {}
        for key, values in latents.items():
            true = np.repeat(self._truth.physical[key], len(values) // len(self._truth), axis=0)
            whole = get(key).is_codes or not get(key).is_image
            found[key] = true if whole else true + (values[:, :1, :1, :1] - 1)
        return found


@pytest.fixture
def make_drawer() -> Callable[..., Drawer]:
    return Drawer
