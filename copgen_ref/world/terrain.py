"""Terrain: plains, hills or mountains, with a coast, a lake or a river whose water is flat."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...runtime.raster.render import horn_gradient
from .climate import Climate
from .fields import GRID_METRES, Floats, Mask, field, smoothstep


@dataclass(frozen=True)
class Terrain:
    """The ground on the 10 m grid, every array (n, n): metres, water, metres to the shore (rough), slopes (m/m)."""

    elevation: Floats
    water: Mask
    sea: Mask
    shore: Floats
    above_water: Floats
    slope_east: Floats
    slope_north: Floats

    @property
    def slope(self) -> Floats:
        return np.hypot(self.slope_east, self.slope_north)


_FAR = np.float32(1e4)


def draw_terrain(rng: np.random.Generator, climate: Climate, n: int) -> Terrain:
    """The terrain of ``n`` x ``n`` pixels of 10 m."""
    chance = rng.random(8).tolist()
    east, south = _coordinates(n)
    rough = field(rng, n, 2.5, 3000.0)
    crest = field(rng, n, 2.6, 2200.0)
    winding = field(rng, n, 2.6, 1500.0)
    bearing = rng.uniform(0.0, 2.0 * math.pi)
    cos, sin = math.cos(bearing), math.sin(bearing)
    swell = np.sin((east * cos + south * sin) / 1100.0 + 2.0 * math.pi * chance[7])

    mountains = smoothstep(climate.relief, 0.5, 0.95) * 0.85
    hills = 0.25 + 0.3 * climate.relief
    if chance[0] < mountains:
        relief, base = 150.0 + 230.0 * chance[1], 400.0 + 2900.0 * chance[2] ** 1.3
        shape = 0.75 * rough + 1.1 * (0.8 - np.abs(crest)) + 0.7 * swell
    elif chance[0] < mountains + hills * (1.0 - mountains):
        relief, base = (
            18.0 + 75.0 * chance[1] ** 1.5,
            40.0 + 900.0 * chance[2] ** 2 + 700.0 * climate.relief * chance[3],
        )
        shape = 0.9 * rough + 0.35 * (0.8 - np.abs(crest)) + 0.5 * swell
    else:
        relief, base = 2.0 + 8.0 * chance[1], 8.0 + 350.0 * chance[2] ** 2.2 + 900.0 * (climate.relief * chance[3]) ** 2
        shape = rough + 0.5 * swell
    height = base + relief * shape

    shore = np.full((n, n), _FAR)
    water, sea = np.zeros((n, n), bool), np.zeros((n, n), bool)
    above = np.full((n, n), _FAR)
    coast = chance[4] < (0.18 if base < 900.0 else 0.02)
    if coast:
        across = east * sin - south * cos + 260.0 * winding + 1300.0 * (chance[5] - 0.5)
        sea = across < 0.0
        inland = relief * (shape - shape.min()) * smoothstep(across, 0.0, 1200.0)
        height = 1.0 + 0.012 * across + inland + min(base, 25.0) * smoothstep(across, 0.0, 900.0)
        height = np.where(sea, 0.0, np.maximum(height, 1.0))
        water = water | sea
        shore = np.minimum(shore, across)
        above = height
    humid = 1.0 - 0.7 * climate.aridity
    if chance[6] < 0.26 * humid and not coast:
        level = max(float(np.quantile(height, 0.08 + 0.3 * chance[5])), 1.0)
        lake = height < level
        height = np.maximum(height, level)
        # Metres to the shore from the height above it, as steep as the relief makes it on average.
        shore = np.minimum(shore, (height - level) / max(relief / 400.0, 0.01))
        above = np.minimum(above, height - level)
        water = water | lake
    elif chance[6] < 0.7 * humid:
        along = east * cos + south * sin
        across = east * sin - south * cos
        bends = (120.0 + 200.0 * chance[5]) * np.sin(along / 330.0 + 6.0 * chance[3]) + 130.0 * winding
        distance = np.abs(across + bends + 500.0 * (chance[2] - 0.5)) - (20.0 + 55.0 * chance[1])
        foot = 260.0 + 300.0 * chance[7]
        level = 0.0 if coast else max(float(np.quantile(height[distance < foot], 0.15)), 1.0)
        flow = (distance < 0.0) & ~sea
        banks = level + 1.0 + np.maximum(height - level, 0.0) * smoothstep(distance, 0.0, foot)
        height = np.where(sea, 0.0, np.where(flow, level, banks))
        water = water | flow
        shore = np.minimum(shore, distance)
        above = np.minimum(above, height - level)
    height = np.where(water, height, np.clip(height, 1.0, 4500.0)).astype(np.float32)
    slope_east, slope_north = horn_gradient(height, float(GRID_METRES))
    return Terrain(height, water, sea, shore.astype(np.float32), above.astype(np.float32), slope_east, slope_north)


def _coordinates(n: int) -> tuple[Floats, Floats]:
    metres = GRID_METRES * (np.arange(n, dtype=np.float32) + 0.5 - n / 2)
    return metres[None, :], metres[:, None]
