"""Random fields with a power-law spectrum, and the small arithmetic that all of the world shares."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

GRID_METRES = 10
_SHORTEST = 60.0


def padded(n: int) -> int:
    """Side of the periodic grid behind a field of ``n`` pixels: a quarter more, so that opposite edges differ."""
    return n * 5 // 4


@lru_cache(maxsize=32)
def _amplitudes(n: int, slope: float, longest: float) -> Floats:
    east = np.fft.rfftfreq(n, GRID_METRES)
    north = np.fft.fftfreq(n, GRID_METRES)
    squared = north[:, None] ** 2 + east[None] ** 2
    amplitude = (squared + longest**-2) ** (-slope / 2) * np.exp(-squared * _SHORTEST**2)
    # A column that stands for itself and its mirror image holds twice the variance of one that is its own.
    weight = np.full(east.size, 2.0)
    weight[[0, -1]] = 1.0
    amplitude *= n**2 / np.sqrt(2.0 * (amplitude**2 * weight).sum())
    # The inverse transform takes only the real part of its own mirror, half of what was drawn.
    amplitude[:, 0] *= np.sqrt(2.0)
    return amplitude.astype(np.float32)


def periodic_field(rng: np.random.Generator, n: int, slope: float, longest: float) -> Floats:
    """Periodic Gaussian field (n, n) on the 10 m grid: mean 0 and variance 1 over draws, not within one.

    Amplitudes fall as frequency^-``slope`` for waves shorter than ``longest`` metres; waves below 60 m are damped.
    """
    white = rng.standard_normal((n, n // 2 + 1, 2), np.float32).view(np.complex64)[..., 0]
    return np.fft.irfft2(white * _amplitudes(n, slope, longest), s=(n, n)).astype(np.float32)


def field(rng: np.random.Generator, n: int, slope: float, longest: float) -> Floats:
    """As :func:`periodic_field`, cut to ``n`` pixels from a larger grid so that it does not repeat at its edges."""
    return periodic_field(rng, padded(n), slope, longest)[:n, :n]


def smoothstep(values: Any, start: float, end: float) -> Any:
    """0 up to ``start``, 1 from ``end`` (which may be the smaller), and a cubic in between."""
    t = np.clip((values - start) / (end - start), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def block_mean(values: NDArray[Any], factor: int) -> NDArray[Any]:
    """Means of ``factor`` x ``factor`` pixels of ``values`` (..., H, W)."""
    *rest, h, w = values.shape
    return values.reshape(*rest, h // factor, factor, w // factor, factor).mean(axis=(-3, -1), dtype=np.float32)
