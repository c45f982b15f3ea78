"""How far an array is from its reference, and the fixed inputs at which components are compared.

The inputs are a function of a seed, so that a machine without PyTorch can make the ones whose reference outputs the
bundle carries.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from .components import STEP
from .modalities import JOINT_SIZE, KEYS, get
from .noise import normal

Floats = NDArray[np.float32]

PROBE_SEED = 2603_03239
"""Seed of the inputs whose reference outputs a bundle carries."""

RUN_STEPS = 4
"""Network calls of the short run that is compared as a whole."""


@dataclass(frozen=True)
class Figures:
    """Errors against a reference: largest absolute, relative L2, cosine similarity, 99.9th percentile of absolute."""

    max_abs: float
    relative_l2: float
    cosine: float
    p99_9: float

    def to_dict(self) -> dict[str, float | None]:
        """Plain numbers, for JSON, which has no infinity: None stands for it."""
        return {name: value if np.isfinite(value) else None for name, value in asdict(self).items()}


def compare(found: NDArray[np.generic], reference: NDArray[np.generic]) -> Figures:
    """Figures of ``found`` against ``reference``, in float64; another shape, or a non-finite value in either, gives
    infinite errors."""
    a = np.asarray(found, np.float64).ravel()
    b = np.asarray(reference, np.float64).ravel()
    if found.shape != reference.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return Figures(np.inf, np.inf, 0.0, np.inf)
    error = np.abs(a - b)
    scale = np.linalg.norm(b)
    norms = np.linalg.norm(a) * scale
    return Figures(
        float(error.max()),
        float(np.linalg.norm(a - b) / scale) if scale else float(np.linalg.norm(a)),
        float(a @ b / norms) if norms else float(np.array_equal(a, b)),
        float(np.quantile(error, 0.999)),
    )


def worst(figures: list[Figures]) -> Figures:
    """The worst of each figure."""
    return Figures(
        max(f.max_abs for f in figures),
        max(f.relative_l2 for f in figures),
        min(f.cosine for f in figures),
        max(f.p99_9 for f in figures),
    )


def probe_inputs(component: str, rows: int, seed: int) -> dict[str, Floats]:
    """Inputs of ``component`` with ``rows`` rows: standard normal latents, every modality at a time of its own
    (fractional, in 0..1000), images of clipped noise in [-1, 1]."""

    def draw(shape: tuple[int, ...], key: str) -> Floats:
        parts = [normal(shape, seed=seed, purpose="probe", key=key, sample=row, cell=(0, 0)) for row in range(rows)]
        return np.stack(parts)

    if component == STEP:
        first, last = KEYS[0], KEYS[-1]
        spread = np.abs(draw((len(KEYS),), last)) * 400
        return {"latents": draw((JOINT_SIZE,), first), "timesteps": np.minimum(spread, 1000).astype(np.float32)}
    part, key = component.split("_", 1)
    if part == "decoder":
        return {"latent": draw(get(key).latent_shape, key)}
    return {"image": np.clip(draw(get(key).image_shape, key) / 2, -1, 1)}
