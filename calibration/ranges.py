"""What the activations that enter quantised layers are like along recorded runs, and what to quantise them between.

A diffusion network's activations change with the timestep, and one file has one range a tensor. So they are measured
by bands of t, and a range is chosen by what an error at each t does to the end of the run
(:func:`.replay.band_importance`), not by which t has the largest numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from ..runtime.errors import CalibrationError, RequestError
from ..runtime.schedule import TRAIN_STEPS
from ..runtime.solver import Plan
from .layers import Layer
from .qdq import INT8, Limits
from .tap import Tapped

BAND_EDGES = (0, 250, 500, 750, 1000)
"""Timesteps between which activations are taken together."""
BANDS = len(BAND_EDGES) - 1
METHODS = ("max", "percentile", "mse")
PERCENTILE = 99.99

_FINEST, _COARSEST, _PER_OCTAVE = -24, 20, 8
_BINS = (_COARSEST - _FINEST) * _PER_OCTAVE
_CENTRES = 2.0 ** (_FINEST + (np.arange(_BINS) + 0.5) / _PER_OCTAVE)
_CANDIDATES = np.geomspace(0.1, 1.0, 48)

Doubles = NDArray[np.float64]


@dataclass
class Range:
    """One activation over bands of t: ``low`` and ``high`` of each channel (bands, C); shares of its values
    by magnitude, in bins of an eighth of an octave from 2^-24, (bands, bins); ``rows`` seen, each
    with ``positions`` values of a channel."""

    low: Doubles
    high: Doubles
    shares: Doubles
    rows: NDArray[np.int64]
    positions: int = 0

    @classmethod
    def empty(cls, channels: int) -> Range:
        """Before any row."""
        return cls(
            np.zeros((BANDS, channels)),
            np.zeros((BANDS, channels)),
            np.zeros((BANDS, _BINS)),
            np.zeros(BANDS, np.int64),
        )

    def add(self, values: NDArray[np.float32], axis: int, band: int) -> None:
        """Take in one row, whose channels are along ``axis``."""
        flat = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
        self.low[band] = np.minimum(self.low[band], flat.min(axis=0))
        self.high[band] = np.maximum(self.high[band], flat.max(axis=0))
        magnitudes = np.abs(flat[flat != 0])
        bins = ((np.log2(magnitudes) - _FINEST) * _PER_OCTAVE).astype(int).clip(0, _BINS - 1)
        self.shares[band] += np.bincount(bins, minlength=_BINS) / flat.size
        self.rows[band] += 1
        self.positions = len(flat)

    def change(self) -> float:
        """The largest magnitude of any band over that of the band with the smallest."""
        tops = np.maximum(-self.low, self.high).max(axis=1)[self.rows > 0]
        return float(tops.max() / tops.min()) if tops.size and tops.min() > 0 else 1.0

    def limits(self, method: str, importance: Sequence[float], migrated: NDArray[np.float32] | None = None) -> Limits:
        """What to quantise between: ``max`` all of it, ``percentile`` all but the 1e-4 of largest magnitude, ``mse``
        what makes the least squared error of INT8, bands counting by ``importance`` (bands,).

        A ``migrated`` activation, divided channel by channel, has its ``max`` only. Raises :class:`RequestError` for
        another method.
        """
        if method not in METHODS:
            raise RequestError(f"found the method {method!r}, expected one of {', '.join(METHODS)}")
        by_channel = np.ones(1) if migrated is None else migrated.astype(np.float64)
        low, high = float((self.low.min(axis=0) / by_channel).min()), float((self.high.max(axis=0) / by_channel).max())
        if migrated is not None or method == "max" or not max(-low, high) > 0:
            return Limits(low, high, migrated)
        weights = np.asarray(importance, np.float64) * (self.rows > 0)
        shares = (weights / weights.sum()) @ (self.shares / np.maximum(self.rows, 1)[:, None])
        cut = _percentile(shares) if method == "percentile" else _least_error(shares, max(-low, high))
        return Limits(max(low, -cut), min(high, cut))


@dataclass(frozen=True)
class Ranges:
    """What was measured of a component's activations, by the path of the layer that they enter, and how limits follow
    from it: by ``method``, with the ``importance`` (bands,) of each band."""

    by_path: Mapping[str, Range]
    method: str
    importance: tuple[float, ...]

    def limits(self, model: onnx.ModelProto, layer: Layer, *, migrated: bool) -> Limits:
        """The limits of what enters ``layer``, whose weights are loaded in ``model``. Raises :class:`CalibrationError`
        where it was not measured."""
        if layer.path not in self.by_path:
            raise CalibrationError(f"the ranges have no {layer.path}; record trajectories of this bundle")
        found = self.by_path[layer.path]
        factor = migration(model, layer, found) if migrated else None
        return found.limits(self.method, self.importance, factor)


def band_of(timestep: float) -> int:
    """The band of a timestep in 0..1000."""
    return int(np.searchsorted(BAND_EDGES[1:-1], timestep, side="right"))


def calls_of_bands(plan: Plan) -> dict[int, tuple[int, int]]:
    """For each band in which ``plan`` has calls, the first of them and the one after the last."""
    bands = [band_of(time * TRAIN_STEPS) for time in plan.times]
    return {band: (bands.index(band), len(bands) - bands[::-1].index(band)) for band in sorted(set(bands))}


def measure_ranges(
    tapped: Tapped,
    layers: Sequence[Layer],
    rows: Iterable[tuple[Mapping[str, NDArray[np.float32]], float | None]],
    report: Callable[[int], None] = lambda done: None,
) -> dict[str, Range]:
    """The ranges of what enters ``layers``, by the layer's path, over ``rows``: inputs by name, one row each, with the
    timestep or None. Layers of one activation share a :class:`Range`. Raises :class:`CalibrationError` where there are
    no rows, or an activation is not finite.
    """
    axes = {layer.source: (-1 if layer.op == "MatMul" else 1) for layer in layers}
    found: dict[str, Range] = {}
    for done, (inputs, timestep) in enumerate(rows, start=1):
        band = 0 if timestep is None else band_of(timestep)
        for name, values in tapped.run(inputs):
            if not np.isfinite(values).all():
                raise CalibrationError(f"{name} is NaN or infinite on recorded data in float32; check the checkpoint")
            axis = axes[name]
            found.setdefault(name, Range.empty(values.shape[axis])).add(values, axis, band)
        report(done)
    if not found:
        raise CalibrationError("nothing was recorded of this component; record more trajectories")
    return {layer.path: found[layer.source] for layer in layers}


def migration(model: onnx.ModelProto, layer: Layer, found: Range) -> NDArray[np.float32]:
    """What to divide each input channel of ``layer`` by, (channels,), so that activation and weight are equally hard:
    sqrt(max|x_j| / max|w_j|) (SmoothQuant, arXiv 2211.10438, with alpha = 0.5). Weights are loaded."""
    tensor = next(one for one in model.graph.initializer if one.name == layer.weight)
    weight = np.abs(numpy_helper.to_array(tensor).astype(np.float64))
    axis = 0 if layer.op == "MatMul" else 1
    rows = weight.max(axis=tuple(a for a in range(weight.ndim) if a != axis))
    tops = np.maximum(-found.low, found.high).max(axis=0)
    factor = np.sqrt(np.maximum(tops, 1e-8) / np.maximum(rows, 1e-8))
    # A channel that is never used may not move the others' scales.
    factor[(tops <= 0) | (rows <= 0)] = 1.0
    return np.clip(factor, 1e-4, 1e4).astype(np.float32)


def _percentile(shares: Doubles) -> float:
    cumulated = np.cumsum(shares) / shares.sum()
    return float(_CENTRES[min(int(np.searchsorted(cumulated, PERCENTILE / 100)), _BINS - 1)])


def _least_error(shares: Doubles, top: float) -> float:
    errors = []
    for candidate in top * _CANDIDATES:
        inside = candidate >= _CENTRES
        rounding = (candidate / INT8) ** 2 / 12 * shares[inside].sum()
        errors.append(rounding + (shares[~inside] * (_CENTRES[~inside] - candidate) ** 2).sum())
    return float(top * _CANDIDATES[int(np.argmin(errors))])
