"""Intervals of 95 % for a statistic of one set of cells, and for a metric between two sets of the same cells.

The cell is what is drawn again, never the pixel or the sample: what lies within a cell is not independent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..errors import RequestError
from .checks import Array, Floats

RESAMPLES = 200
"""Resamples of an interval, unless told otherwise."""

_TAILS = (0.025, 0.975)


class Interval(NamedTuple):
    """The ends of a 95 % interval."""

    low: float
    high: float


def interval(
    statistic: Callable[[Array], float], values: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of ``statistic(values)`` (Efron and Tibshirani 1993, "An introduction to the
    bootstrap", chapter 13).

    ``values`` are (cells, ...), such as one figure a cell; each resample draws as many cells with replacement, and
    the interval runs from the 2.5th to the 97.5th percentile of the statistic. The same seed gives the same
    interval. Resamples whose statistic is NaN take no part; (NaN, NaN) where all are. A metric that looks for
    neighbours finds the copies that such a resample holds: it needs :func:`two_set_interval`. Raises
    :class:`RequestError` for fewer than 2 cells or 1 resample, and whatever the statistic raises.
    """
    array = np.asarray(values)
    cells = _cells(array, 2, resamples)
    rng = np.random.default_rng(seed)
    return _percentiles([statistic(array[rng.integers(cells, size=cells)]) for _ in range(resamples)])


def two_set_interval(
    metric: Callable[[Array, Array], float],
    first: ArrayLike,
    second: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Interval:
    """Interval of ``metric(first, second)`` from random halves of the cells.

    ``first`` and ``second`` are (cells, ...), the same cells in the same order; each resample takes the same cells of
    both. ``bounds`` are the metric's own limits, (0, 1) for a share, to which the ends are clipped. The same seed gives
    the same interval, and NaN is treated as in :func:`interval`.

    Cells are drawn *without* replacement: the copies in a bootstrap resample are each other's nearest neighbours, at
    distance 0, which drives 1-NN accuracy towards 1 and empties the balls of recall and precision. A half drawn so
    varies about the whole's value as the whole does about the truth (delete-d jackknife; Shao and Wu 1989, "A
    general theory for jackknife variance estimation"), so the interval is metric(all) + s (percentile - mean of the
    halves), with s = sqrt(h / (cells - h)), h = cells // 2; centring takes away what a smaller set does to the
    metric itself. Raises :class:`RequestError` where the cells differ in number, for fewer than 4 cells or 1
    resample, and whatever the metric raises: it must work on half the cells.
    """
    a, b = np.asarray(first), np.asarray(second)
    cells = _cells(a, 4, resamples)
    if b.ndim == 0 or len(b) != cells:
        raise RequestError(
            f"interval: found {cells} cells in one set and shape {b.shape} in the other, expected the same cells"
        )
    rng = np.random.default_rng(seed)
    half = cells // 2
    draws = [rng.permutation(cells)[:half] for _ in range(resamples)]
    found = np.array([metric(a[draw], b[draw]) for draw in draws], np.float64)
    usable = found[~np.isnan(found)]
    if usable.size == 0:
        return Interval(np.nan, np.nan)
    deviations: Floats = (usable - usable.mean()) * np.sqrt(half / (cells - half))
    low, high = np.clip(metric(a, b) + np.quantile(deviations, _TAILS), *bounds).tolist()
    return Interval(low, high)


def _cells(values: Array, least: int, resamples: int) -> int:
    if values.ndim == 0 or len(values) < least or resamples < 1:
        raise RequestError(
            f"interval: found shape {values.shape} and {resamples} resamples, expected (cells, ...) of {least} cells or"
            " more and at least 1 resample; evaluate more cells"
        )
    return len(values)


def _percentiles(found: list[float]) -> Interval:
    usable = [value for value in found if not np.isnan(value)]
    if not usable:
        return Interval(np.nan, np.nan)
    low, high = np.quantile(usable, _TAILS).tolist()
    return Interval(low, high)
