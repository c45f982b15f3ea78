"""Many samples against one truth: best and mean of any metric, CRPS, spread against skill.

Samples are (S, ...) and their truth (...), in the same units; a row of samples is one member of every ensemble.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import RequestError
from .checks import Array, Floats, finite, mask_like


@dataclass(frozen=True)
class OverSamples:
    """A metric of every sample, of the best of them (with its index) and their mean.

    Samples whose metric is NaN take no part; where all are, ``best`` and ``mean`` are NaN and ``best_index`` is None.
    """

    values: tuple[float, ...]
    best: float
    best_index: int | None
    mean: float


@dataclass(frozen=True)
class SpreadSkill:
    """``spread`` of the members and ``skill`` (RMSE of their mean), in the samples' units, and the corrected ratio,
    which is 1 for a calibrated ensemble, below 1 for one too sure of itself; NaN where the skill is 0."""

    spread: float
    skill: float
    ratio: float


def over_samples(
    metric: Callable[[Array, Array], float], samples: ArrayLike, truth: ArrayLike, *, higher_is_better: bool = False
) -> OverSamples:
    """``metric(sample, truth)`` of each of the S samples (S, ...) against one truth (...).

    Best-of-N is the sample with the lowest metric (the highest where ``higher_is_better``); mean-over-N is the mean of
    the samples' metrics, not the metric of their mean. Raises :class:`RequestError` for shapes that do not belong
    together, and whatever the metric raises.
    """
    members, target = _ensemble(samples, truth, least=1)
    values = np.array([metric(member, target) for member in members], np.float64)
    usable = ~np.isnan(values)
    if not usable.any():
        return OverSamples(tuple(values.tolist()), np.nan, None, np.nan)
    best = int(np.nanargmax(values) if higher_is_better else np.nanargmin(values))
    return OverSamples(tuple(values.tolist()), float(values[best]), best, float(values[usable].mean()))


def crps(samples: ArrayLike, truth: ArrayLike, *, fair: bool = True) -> Floats:
    """Continuous ranked probability score of each value, (...), in the samples' units; lower is better.

    ``samples`` are (S, ...), ``truth`` is (...). With x the members and y the truth: mean |x_i - y| - sum_ij |x_i -
    x_j| / (2 D). D = S^2 scores the ensemble as the distribution it is (Gneiting and Raftery 2007, "Strictly proper
    scoring rules, prediction, and estimation", section 4.2) and is the absolute error for S = 1, but favours large
    ensembles. ``fair``, the default, has D = S (S - 1) (Ferro 2014, "Fair scores for ensemble forecasts"): its
    expectation does not depend on S, so that runs of few samples compare with runs of many; it can be negative. NaN
    gives NaN at its own place only. Raises :class:`RequestError` for shapes that do not belong together, and for a
    fair score of one sample.
    """
    members, target = _ensemble(samples, truth, least=2 if fair else 1)
    count = len(members)
    members, target = members.astype(np.float64), target.astype(np.float64)
    error = np.abs(members - target).mean(axis=0)
    # In sorted order x_(i) is the larger one in i - 1 pairs and the smaller one in S - i: no S x S table is needed.
    weights = 2 * np.arange(1, count + 1) - count - 1
    pairs = np.tensordot(weights, np.sort(members, axis=0), axes=1)
    return np.asarray(error - pairs / (count * (count - 1) if fair else count**2))


def spread_skill(samples: ArrayLike, truth: ArrayLike, valid: ArrayLike | None = None) -> SpreadSkill:
    """Spread, skill and their corrected ratio over all valid values.

    ``samples`` are (S, ...) with S of 2 or more, ``truth`` is (...), ``valid`` is boolean (...), any axis possibly
    1. Spread = sqrt(mean of the members' unbiased variances), skill = RMSE of the ensemble mean, ratio = sqrt((S +
    1) / S) spread / skill, since the mean of S members is itself uncertain by variance / S (Fortin et al. 2014, "Why
    should ensemble spread match the RMSE of the ensemble mean?"). Raises :class:`RequestError` for shapes that do
    not belong together, fewer than 2 samples, no valid value, or NaN and infinity at a valid one.
    """
    members, target = _ensemble(samples, truth, least=2)
    mask = mask_like("ensemble", target.shape, valid)
    if not mask.any():
        raise RequestError("ensemble: found no valid value, expected one or more; leave this truth out")
    finite("ensemble", (target, *members), mask)
    inside = members[:, mask].astype(np.float64)
    skill = float(np.sqrt(np.square(inside.mean(axis=0) - target[mask]).mean()))
    spread = float(np.sqrt(inside.var(axis=0, ddof=1).mean()))
    ratio = float(np.sqrt((len(inside) + 1) / len(inside)) * spread / skill) if skill else np.nan
    return SpreadSkill(spread, skill, ratio)


def _ensemble(samples: ArrayLike, truth: ArrayLike, least: int) -> tuple[Array, Array]:
    members, target = np.asarray(samples), np.asarray(truth)
    if members.ndim == 0 or members.shape[1:] != target.shape:
        raise RequestError(
            f"ensemble: found samples of shape {members.shape}, expected (S, ...) over a truth of shape {target.shape}"
        )
    if len(members) < least:
        raise RequestError(
            f"ensemble: found {len(members)} samples, this metric needs {least} or more; draw more samples"
        )
    return members, target
