"""Land cover and soil: what grows or stands where, from terrain and climate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .climate import LAPSE_RATE, Climate
from .fields import GRID_METRES, Floats, field, smoothstep
from .terrain import Terrain

WATER, TREES, FLOODED, CROPS, BUILT, BARE, SNOW, RANGELAND = 1, 2, 4, 5, 7, 8, 9, 11


@dataclass(frozen=True)
class Cover:
    """ESRI codes and what the codes do not say, (n, n) each: the parcel's phase and colour (0..1), two Gaussian fields.

    ``deciduous`` is the share of trees that lose their leaves; ``soil`` the shares of dark, bright, red soil and rock.
    """

    codes: NDArray[np.uint8]
    phase: Floats
    tone: Floats
    patches: Floats
    grain: Floats
    deciduous: float
    soil: tuple[float, float, float, float]


def draw_cover(rng: np.random.Generator, climate: Climate, terrain: Terrain) -> Cover:
    """The cover of ``terrain``."""
    n = terrain.elevation.shape[0]
    patches, grain = field(rng, n, 2.4, 1300.0), field(rng, n, 2.3, 700.0)
    chance = rng.random(8).tolist()
    slope, height = terrain.slope, terrain.elevation
    warmest = climate.warmest - LAPSE_RATE * height
    wet = climate.wetness + 0.25 * np.exp(-np.maximum(terrain.shore, 0.0) / 150.0) * climate.aridity

    codes = np.full((n, n), RANGELAND, np.uint8)
    codes[wet + 0.13 * grain + 0.05 * patches < 0.3] = BARE
    wooded = (
        smoothstep(wet, 0.3, 0.85) * (0.3 + 0.65 * chance[0]) + 0.2 * smoothstep(slope, 0.03, 0.3) * climate.wetness
    )
    wooded = wooded * smoothstep(wet, 0.2, 0.4)
    trees = (patches < _probit(wooded)) & (warmest + 1.2 * grain > 9.5) & (slope < 1.1)
    codes[trees] = TREES
    codes[(slope + 0.12 * grain > 0.85) | (warmest + 1.2 * grain < 6.0)] = BARE

    phase, tone, parcel = _parcels(rng, n)
    suited = smoothstep(climate.warmest - LAPSE_RATE * float(height.mean()), 13.0, 18.0)
    farmed = suited * smoothstep(climate.wetness, 0.2, 0.5) * (1.3 * chance[1] - 0.2)
    arable = (slope < 0.09) & (wet > 0.3) & (patches > -1.2)
    codes[arable & (parcel < farmed)] = CROPS

    banks = (terrain.shore < 190.0 + 90.0 * grain) & (terrain.above_water < 5.0)
    if climate.wetness > 0.5 and chance[2] < 0.6 and climate.warmest > 8.0:
        codes[banks & (patches > -0.5)] = FLOODED
    if suited > 0.2 and climate.wetness > 0.12 and float(slope.mean()) < 0.12:
        codes[_settled(rng, n, grain) & (slope < 0.15) & (terrain.above_water > 1.5)] = BUILT
    codes[(warmest + 1.0 * grain < 3.0) & (slope < 0.9)] = SNOW
    codes[terrain.water] = WATER

    cold = smoothstep(climate.mean_temperature, 9.0, 1.0)
    deciduous = float(
        np.clip(smoothstep(climate.mean_temperature, 22.0, 12.0) * (1.0 - cold) + 0.25 * (chance[3] - 0.5), 0, 1)
    )
    bright = smoothstep(climate.aridity, 0.35, 0.85)
    red = (1.0 - bright) * smoothstep(climate.mean_temperature, 15.0, 24.0) * chance[4] + 0.4 * bright * chance[5]
    rock = 0.3 * climate.relief + 0.3 * chance[6]
    shares = np.array([1.0 - bright, bright, red, rock])
    shares /= shares.sum()
    dark, light, rust, stone = shares.tolist()
    return Cover(codes, phase, tone, patches, grain, deciduous, (dark, light, rust, stone))


def _probit(share: Floats) -> Floats:
    """About the value below which ``share`` of a standard normal lies."""
    share = np.clip(share, 0.01, 0.99)
    return (np.log(share / (1.0 - share)) / 1.7).astype(np.float32)


def _parcels(rng: np.random.Generator, n: int) -> tuple[Floats, Floats, Floats]:
    """Three random numbers in 0..1 a field, (n, n) each: slanted strips of 200 to 400 m x 170 to 300 m."""
    bearing, long, wide = rng.uniform([0.0, 200.0, 170.0], [np.pi, 400.0, 300.0]).tolist()
    cos, sin = math.cos(bearing), math.sin(bearing)
    steps = np.arange(n, dtype=np.float32) * GRID_METRES
    u = np.floor((steps[None] * cos + steps[:, None] * sin) / wide).astype(np.int64)
    shifts = rng.random(64)
    v = steps[:, None] * cos - steps[None] * sin
    v = np.floor(v / long + shifts[u % 64]).astype(np.int64)
    table = rng.random((3, 64, 64), np.float32)
    phase, tone, parcel = table[:, u % 64, v % 64]
    return phase, tone, parcel


def _settled(rng: np.random.Generator, n: int, grain: Floats) -> NDArray[np.bool_]:
    """Where a village or town stands: at most one a 1.92 km cell, in about a third of the cells."""
    metres = np.arange(n, dtype=np.float32) * GRID_METRES
    cell = 1920.0
    density = np.zeros((n, n), np.float32)
    for row in range(-(-n * GRID_METRES // 1920)):
        for column in range(-(-n * GRID_METRES // 1920)):
            south, east, radius, present = rng.uniform([0.1, 0.1, 130.0, 0.0], [0.9, 0.9, 520.0, 1.0]).tolist()
            if present < 0.36:
                down = (metres[:, None] - (row + south) * cell) ** 2
                density = np.maximum(
                    density, np.exp(-(down + (metres[None] - (column + east) * cell) ** 2) / radius**2)
                )
    return density + 0.12 * grain > 0.45
