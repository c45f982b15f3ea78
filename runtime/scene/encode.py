"""The conditions of a scene, window by window: padded at the edges, filled, and encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .. import transforms
from ..modalities import Modality, get
from ..noise import latent_noise
from ..pipeline import Pipeline
from ..raster.nodata import fill_codes, fill_values
from ..raster.window import GroundWindow
from .draw import DATE, PLACE, Layout

Floats = NDArray[np.float32]

OUTSIDE, OBSERVED, FILLED, ABSENT = 0, 1, 2, 3
"""What a pixel of a condition is: not of the scene, measured, filled from its neighbours, or unknown to the model."""


class Source(Protocol):
    """One modality, ready to be read anywhere."""

    @property
    def key(self) -> str:
        """Its modality."""

    def read(self, window: GroundWindow) -> Floats:
        """Physical values (C, H, W) float32 of a window, NaN where nothing is known."""


@dataclass(frozen=True)
class Encoded:
    """What became of a condition in some windows: scaled ``latents`` (windows, floats) float32, zero where the
    condition is absent; ``values`` (windows, C, H, W) float32 as read, physical, NaN where not known, and ``known``
    (windows, H, W), which pixels were measured."""

    latents: Floats
    values: Floats
    known: NDArray[np.bool_]

    @property
    def present(self) -> NDArray[np.bool_]:
        """(windows,), in which the condition is known at all."""
        return np.asarray(self.known.any(axis=(1, 2)))


def encode_windows(pipeline: Pipeline, layout: Layout, source: Source, windows: range, *, seed: int) -> Encoded:
    """Read and encode ``source`` in ``windows``.

    What sticks out of the scene is a reflection of what lies inside. A window in which nothing is known is absent, and
    gaps of the others are filled: land cover by its own class of no data, cloud mask by the nearest code, the rest by
    interpolation. Raises as the source and :meth:`Pipeline.encode` do.
    """
    m = get(source.key)
    values = np.stack(
        [_reflected(m, layout, source.read(layout.grid.ground(layout.windows[window])), window) for window in windows]
    )
    known = np.asarray(~np.isnan(values).any(axis=1))
    latents = np.zeros((len(windows), m.latent_size), np.float32)
    present = np.flatnonzero(known.any(axis=(1, 2)))
    if len(present):
        images = np.stack([_filled(m, values[row], ~known[row]) for row in present])
        model = transforms.to_model(m.key, images.astype(np.int64) if m.is_codes else images)
        noise = np.concatenate(
            [
                latent_noise(m.key, 1, seed=seed, purpose="posterior", cell=layout.noise_cell(windows[row]))
                for row in present
            ]
        )
        latents[present] = pipeline.encode(m.key, model, noise).reshape(len(present), -1)
    return Encoded(latents, values, known)


def given_place(pipeline: Pipeline, layout: Layout) -> Floats:
    """Latents (windows, 3) of the place as a condition: the middle of each window."""
    centers = np.array([layout.grid.ground(cell).center for cell in layout.windows])
    return _scalar(pipeline, PLACE, centers)


def given_date(pipeline: Pipeline, layout: Layout, date: tuple[int, int, int]) -> Floats:
    """Latents (windows, 3) of the date as a condition: one for the scene."""
    return _scalar(pipeline, DATE, np.array([date])).repeat(len(layout.windows), axis=0)


def _scalar(pipeline: Pipeline, key: str, physical: NDArray[np.generic]) -> Floats:
    return pipeline.encode(key, transforms.to_model(key, physical)).reshape(len(physical), -1)


def mark(validity: NDArray[np.uint8], layout: Layout, key: str, windows: range, known: NDArray[np.bool_]) -> None:
    """Write what ``known`` (windows, H, W) says into ``validity`` (H, W of the scene), in place.

    A pixel that no window measured is filled where some window that covers it has the condition at all.
    """
    resolution = get(key).resolution
    for row, window in enumerate(windows):
        cell = layout.windows[window]
        rows, columns = layout.grid.inside(cell, resolution)
        grid_row, grid_column = (first * (get(key).size // 4) for first in cell)
        here = validity[grid_row : grid_row + rows, grid_column : grid_column + columns]
        seen = known[row, :rows, :columns]
        gap = FILLED if known[row].any() else ABSENT
        unset = (here == OUTSIDE) | ((here == ABSENT) & (gap == FILLED))
        here[unset & ~seen] = gap
        here[seen] = OBSERVED


def _reflected(m: Modality, layout: Layout, values: Floats, window: int) -> Floats:
    rows, columns = layout.grid.inside(layout.windows[window], m.resolution)
    inside = values[:, :rows, :columns]
    # A strip narrower than the padding is reflected back and forth, which is what symmetric padding does.
    return np.pad(inside, ((0, 0), (0, m.size - rows), (0, m.size - columns)), mode="symmetric")


def _filled(m: Modality, values: Floats, empty: NDArray[np.bool_]) -> Floats:
    if not empty.any():
        return values
    if m.family == "LULC":
        return np.where(empty, np.float32(0), values)
    if m.is_codes:
        return fill_codes(values[0], empty)[np.newaxis]
    return fill_values(values, empty)
