"""How overlapping windows become one field: smooth weights that add up to one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .grid import WINDOW_CELLS

Floats = NDArray[np.float32]


@lru_cache(maxsize=256)
def weights(starts: tuple[int, ...], step: int) -> tuple[Floats, ...]:
    """The weights along one side of each of its windows, ``step`` values a cell: (4 * step,) float32 a window.

    ``starts`` are the windows' first cells, which cover the side. Each window's weight is the squared sine over its
    length, divided by the sum over all windows there: those of a place add up to one but for rounding, and are one
    exactly where a single window lies. Weights of a rectangle are the product of those of its sides.
    """
    length = WINDOW_CELLS * step
    bell = np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2
    total = np.zeros((starts[-1] + WINDOW_CELLS) * step)
    for start in starts:
        total[start * step : start * step + length] += bell
    return tuple((bell / total[start * step : start * step + length]).astype(np.float32) for start in starts)


def sides(windows: Sequence[tuple[int, int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The first cells along the rows and along the columns of a scene's ``windows``."""
    return tuple(sorted({row for row, _ in windows})), tuple(sorted({column for _, column in windows}))


def add(field: Floats, part: Floats, cell: tuple[int, int], starts: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Add the weighted ``part`` (C, h, w) of the window at ``cell`` to ``field`` (C, H, W), in place.

    ``starts`` are the windows' :func:`sides`; the resolution is the part's own.
    """
    step = part.shape[1] // WINDOW_CELLS
    row, column = (weights(along, step)[along.index(first)] for along, first in zip(starts, cell, strict=True))
    top, left = cell[0] * step, cell[1] * step
    field[:, top : top + part.shape[1], left : left + part.shape[2]] += part * (row[:, None] * column)
