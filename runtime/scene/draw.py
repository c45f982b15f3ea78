"""One draw of a scene: what is given where, and the joint latents that the solver moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..modalities import JOINT_SIZE, JOINT_SLICES, KEYS, get
from ..noise import latent_noise, normal
from ..schedule import TRAIN_STEPS
from .blend import add, sides
from .grid import WINDOW_CELLS, SceneGrid

Floats = NDArray[np.float32]

PLACE, DATE = "3d_cartesian_lat_lon", "mean_timestamps"


@dataclass(frozen=True)
class Layout:
    """The windows of a scene, and what the draws of it generate. ``outputs`` are keys in network order."""

    grid: SceneGrid
    overlap: int
    outputs: tuple[str, ...]

    @cached_property
    def windows(self) -> tuple[tuple[int, int], ...]:
        """The upper-left cells of the windows, row by row."""
        return self.grid.windows(self.overlap)

    @cached_property
    def starts(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The windows' first cells along the rows and along the columns."""
        return sides(self.windows)

    def noise_cell(self, window: int) -> tuple[int, int]:
        """What noise calls the upper-left cell of a window."""
        (row, column), (first_row, first_column) = self.windows[window], self.grid.first_cell
        return first_row + row, first_column + column

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a modality's latents over the scene: an image's (C, H, W); (windows, 3) for the place, which
        follows each window; (1, 3) for the date, which is one for the scene."""
        m = get(key)
        if m.is_image:
            rows, columns = self.grid.cells
            return m.latent_shape[0], rows * m.cell_latent, columns * m.cell_latent
        return (1 if key == DATE else len(self.windows)), m.latent_size

    def noise(self, key: str, *, seed: int, sample: int, purpose: str) -> Floats:
        """Standard normal latents over the scene, in :meth:`shape`: each cell's own, as a window there would draw."""
        m = get(key)
        out = np.empty(self.shape(key), np.float32)
        if not m.is_image:
            for row in range(len(out)):
                draw = latent_noise(key, 1, seed=seed, purpose=purpose, first=sample, cell=self.noise_cell(row))
                out[row] = draw.reshape(-1)
            return out
        first_row, first_column = self.grid.first_cell
        side = m.cell_latent
        for row in range(self.grid.cells[0]):
            for column in range(self.grid.cells[1]):
                out[:, row * side : (row + 1) * side, column * side : (column + 1) * side] = normal(
                    (m.latent_shape[0], side, side),
                    seed=seed,
                    purpose=purpose,
                    key=key,
                    sample=sample,
                    cell=(first_row + row, first_column + column),
                )
        return out

    def part(self, key: str, latents: Floats, window: int) -> Floats:
        """What the network sees of a scene's ``latents`` in a window, flat."""
        m = get(key)
        if not m.is_image:
            return latents[0 if key == DATE else window]
        row, column = (first * m.cell_latent for first in self.windows[window])
        side = WINDOW_CELLS * m.cell_latent
        return latents[:, row : row + side, column : column + side].reshape(-1)

    def blend(self, key: str, latents: Floats, part: Floats, window: int) -> None:
        """Add a window's flat ``part`` to a scene's ``latents``, in place, weighted so that all windows make one."""
        m = get(key)
        if m.is_image:
            add(latents, part.reshape(m.latent_shape), self.windows[window], self.starts)
        elif key == DATE:
            latents[0] += part / np.float32(len(self.windows))
        else:
            latents[window] = part


class ByWindow(Protocol):
    """Something flat for each window, such as an array (windows, floats)."""

    def __getitem__(self, window: int, /) -> Floats: ...


@dataclass
class Given:
    """What is known of a scene, as scaled latents.

    ``latents`` gives for each condition and window its floats, float32, of a file where they are many; ``present``
    (windows,) says where the condition is known at all: elsewhere the modality is absent.
    """

    latents: dict[str, ByWindow] = field(default_factory=dict)
    present: dict[str, NDArray[np.bool_]] = field(default_factory=dict)


class Windows:
    """What the network is given, window by window, for one sample of a scene."""

    def __init__(self, layout: Layout, given: Given, *, seed: int, sample: int) -> None:
        self.layout = layout
        self._given = given
        self._sizes = [prod(layout.shape(key)) for key in layout.outputs]
        gaps = [key for key in KEYS if key not in layout.outputs and not self._everywhere(key)]
        self._absent = {key: layout.noise(key, seed=seed, sample=sample, purpose="absent") for key in gaps}

    def _everywhere(self, key: str) -> bool:
        return key in self._given.present and bool(self._given.present[key].all())

    def split(self, flat: Floats) -> dict[str, Floats]:
        """The flat joint latents (floats,) of the scene by modality, as views."""
        parts = np.split(flat, np.cumsum(self._sizes)[:-1])
        return {key: part.reshape(self.layout.shape(key)) for key, part in zip(self.layout.outputs, parts, strict=True)}

    def rows(self, flat: Floats, time: float, windows: Sequence[int]) -> tuple[Floats, Floats]:
        """Latents (rows, 26118) and timesteps (rows, 12) of ``windows`` when what is generated stands at ``flat`` and
        ``time``, in (0, 1]."""
        latents = np.empty((len(windows), JOINT_SIZE), np.float32)
        times = np.zeros((len(windows), len(KEYS)), np.float32)
        state = self.split(flat)
        for row, window in enumerate(windows):
            for number, key in enumerate(KEYS):
                if key in state:
                    latents[row, JOINT_SLICES[key]] = self.layout.part(key, state[key], window)
                    times[row, number] = time * TRAIN_STEPS
                elif key in self._given.present and self._given.present[key][window]:
                    latents[row, JOINT_SLICES[key]] = self._given.latents[key][window]
                else:
                    latents[row, JOINT_SLICES[key]] = self.layout.part(key, self._absent[key], window)
                    times[row, number] = TRAIN_STEPS
        return latents, times

    def blend(self, into: Floats, noise: Floats, windows: Sequence[int]) -> None:
        """Add what the network found in ``windows``, ``noise`` (rows, 26118), to the scene's flat ``into``."""
        scene = self.split(into)
        for row, window in enumerate(windows):
            for key in self.layout.outputs:
                self.layout.blend(key, scene[key], noise[row, JOINT_SLICES[key]], window)


def begin(layout: Layout, *, seed: int, sample: int) -> Floats:
    """Where the solver starts: the flat joint noise (floats,) of what is generated, in network order."""
    parts = [layout.noise(key, seed=seed, sample=sample, purpose="initial") for key in layout.outputs]
    return np.concatenate([part.reshape(-1) for part in parts])
