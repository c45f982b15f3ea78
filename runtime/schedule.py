"""The noise schedule of the diffusion: alpha and sigma at a continuous time in (0, 1].

A variance-preserving process with 1000 discrete betas, linspace(sqrt(0.00085), sqrt(0.012), 1000)^2 (the
"scaled linear" schedule of latent diffusion). log alpha at t = n/1000 is half the cumulative sum of log(1 - beta) up to
and including beta_n; it is linear in between, and the first segment extends to t < 1/1000 (down to 5e-6, where alpha
would pass 1). All float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Doubles = NDArray[np.float64]

TRAIN_STEPS = 1000
"""Discrete times of the training process; the network is given t * TRAIN_STEPS, not rounded."""

BETAS: Doubles = np.linspace(0.00085**0.5, 0.012**0.5, TRAIN_STEPS, dtype=np.float64) ** 2

_TIMES: Doubles = np.arange(1, TRAIN_STEPS + 1) / TRAIN_STEPS
_LOG_ALPHAS: Doubles = 0.5 * np.cumsum(np.log1p(-BETAS))


def _interpolate(at: ArrayLike, x: Doubles, y: Doubles) -> Doubles:
    """Piecewise linear through (x, y), x rising, with the first and last segments extended."""
    at = np.asarray(at, np.float64)
    i = np.clip(np.searchsorted(x, at) - 1, 0, len(x) - 2)
    return y[i] + (at - x[i]) * (y[i + 1] - y[i]) / (x[i + 1] - x[i])


def log_alpha(t: ArrayLike) -> Doubles:
    """Log of the signal's share at times ``t``."""
    return _interpolate(t, _TIMES, _LOG_ALPHAS)


def alpha(t: ArrayLike) -> Doubles:
    """The signal's share at times ``t``."""
    return np.exp(log_alpha(t))


def sigma(t: ArrayLike) -> Doubles:
    """The noise's share at times ``t``: sqrt(1 - alpha^2)."""
    return np.sqrt(-np.expm1(2 * log_alpha(t)))


def lam(t: ArrayLike) -> Doubles:
    """Half the log signal-to-noise ratio at times ``t``: log alpha - log sigma."""
    return log_alpha(t) - np.log(sigma(t))


def time_of_lambda(value: ArrayLike) -> Doubles:
    """The times at which :func:`lam` is ``value``."""
    log_alphas = -0.5 * np.logaddexp(0.0, -2 * np.asarray(value, np.float64))
    return _interpolate(log_alphas, _LOG_ALPHAS[::-1], _TIMES[::-1])
