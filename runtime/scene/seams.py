"""How visible the borders of windows are in a scene."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..modalities import CELL_METRES, PATCH_METRES, get
from .grid import WINDOW_CELLS, SceneGrid

FLOOR_DB = 1e-6


class SeamMeter:
    """The mean gradient across window borders over the mean gradient elsewhere, of one modality, strip by strip.

    A gradient is the absolute difference of neighbouring pixels: of DN, of metres, of dB, and for codes whether they
    differ. Borders are where a window of :data:`~copgen_edge.runtime.scene.grid.STRIDES` begins or ends inside the
    scene. Feed the strips of :func:`~copgen_edge.runtime.scene.decode.decode_strips` in order with :meth:`add`.
    """

    def __init__(self, key: str, grid: SceneGrid, windows: Iterable[tuple[int, int]]) -> None:
        self._m = get(key)
        cell = self._m.size * CELL_METRES // PATCH_METRES
        shape = grid.shape(self._m.resolution)
        windows = tuple(windows)
        self._borders = []
        for axis in (0, 1):
            firsts = {window[axis] for window in windows}
            edges = firsts | {first + WINDOW_CELLS for first in firsts}
            border = np.zeros(shape[axis], bool)
            border[[edge * cell for edge in edges if 0 < edge * cell < shape[axis]]] = True
            self._borders.append(border)
        self._sums = np.zeros((2, len(self._m.bands)))
        self._counts = np.zeros(2)
        self._last: NDArray[np.float64] | None = None

    def add(self, first_row: int, pixels: NDArray[np.generic]) -> None:
        """Take the strip ``pixels`` (C, rows, W), physical units, that begins at ``first_row``."""
        values = pixels.astype(np.float64)
        if self._m.kind == "backscatter":
            values = 10 * np.log10(np.maximum(values, FLOOR_DB))
        across = self._difference(values[:, :, 1:], values[:, :, :-1])
        self._take(across, self._borders[1][1:][np.newaxis].repeat(values.shape[1], axis=0))
        above = values[:, :1] if self._last is None else self._last
        down = self._difference(values, np.concatenate([above, values[:, :-1]], axis=1))
        rows = self._borders[0][first_row : first_row + values.shape[1]]
        skip = 1 if self._last is None else 0
        self._take(down[:, skip:], rows[skip:, np.newaxis].repeat(values.shape[2], axis=1))
        self._last = values[:, -1:]

    def _difference(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return (a != b).astype(np.float64) if self._m.is_codes else np.abs(a - b)

    def _take(self, gradient: NDArray[np.float64], border: NDArray[np.bool_]) -> None:
        for kind, where in enumerate((border, ~border)):
            self._sums[kind] += gradient[:, where].sum(axis=1)
            self._counts[kind] += np.count_nonzero(where)

    def figure(self) -> float | None:
        """The figure, averaged over bands: 1 where borders are like the rest; None where there are no borders, or
        nothing changes from pixel to pixel."""
        if not self._counts.all() or not self._sums[1].all():
            return None
        border, rest = self._sums / self._counts[:, None]
        return float(np.mean(border / rest))
