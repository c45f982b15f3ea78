"""The state of the surface on one day, and the reflectance and backscatter that follow from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .climate import LAPSE_RATE, Climate, Sun
from .cover import BARE, BUILT, CROPS, FLOODED, RANGELAND, SNOW, TREES, WATER, Cover
from .fields import Floats, field, smoothstep
from .terrain import Terrain

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
"""The twelve bands of surface reflectance, in the order in which this module and the atmosphere hold them."""

# Bottom-of-atmosphere reflectance as Sentinel-2 shows these materials, in the order of BANDS.
_SPECTRA = {
    "broadleaf": (0.020, 0.024, 0.046, 0.026, 0.070, 0.220, 0.290, 0.320, 0.340, 0.340, 0.165, 0.075),
    "conifer": (0.014, 0.017, 0.030, 0.019, 0.046, 0.130, 0.165, 0.185, 0.200, 0.205, 0.090, 0.042),
    "leafless": (0.038, 0.048, 0.064, 0.072, 0.100, 0.145, 0.168, 0.182, 0.198, 0.205, 0.205, 0.125),
    "green": (0.024, 0.030, 0.066, 0.034, 0.098, 0.320, 0.410, 0.430, 0.450, 0.445, 0.215, 0.110),
    "straw": (0.058, 0.076, 0.115, 0.150, 0.190, 0.230, 0.260, 0.280, 0.300, 0.310, 0.350, 0.250),
    "dark soil": (0.048, 0.058, 0.082, 0.108, 0.132, 0.152, 0.168, 0.182, 0.196, 0.205, 0.265, 0.225),
    "bright soil": (0.110, 0.140, 0.210, 0.290, 0.330, 0.360, 0.385, 0.400, 0.420, 0.430, 0.500, 0.440),
    "red soil": (0.048, 0.058, 0.096, 0.185, 0.220, 0.245, 0.265, 0.280, 0.300, 0.305, 0.385, 0.315),
    "rock": (0.105, 0.120, 0.140, 0.158, 0.168, 0.176, 0.182, 0.188, 0.192, 0.196, 0.220, 0.198),
    "clear water": (0.032, 0.030, 0.022, 0.012, 0.010, 0.008, 0.007, 0.006, 0.005, 0.005, 0.003, 0.002),
    "turbid water": (0.052, 0.068, 0.092, 0.074, 0.060, 0.035, 0.030, 0.022, 0.020, 0.018, 0.006, 0.004),
    "snow": (0.880, 0.900, 0.900, 0.880, 0.870, 0.860, 0.840, 0.830, 0.810, 0.780, 0.120, 0.090),
    "old ice": (0.560, 0.580, 0.570, 0.530, 0.510, 0.480, 0.450, 0.430, 0.410, 0.370, 0.060, 0.045),
    "buildings": (0.095, 0.112, 0.132, 0.152, 0.165, 0.178, 0.188, 0.198, 0.206, 0.212, 0.228, 0.205),
}
_MATERIALS = tuple(_SPECTRA)
_TABLE = np.array(list(_SPECTRA.values()), np.float32).T
_SOILS = ("dark soil", "bright soil", "red soil", "rock")

# Share of the light that the sky sends, falling from blue to short-wave infrared.
_SKY_SHARE = np.array([0.34, 0.30, 0.24, 0.20, 0.18, 0.17, 0.16, 0.15, 0.14, 0.13, 0.08, 0.07], np.float32)

# Mean gamma nought of VV and VH in dB, as C-band shows these covers in summer.
_GAMMA_NOUGHT = {
    TREES: (-9.0, -14.5),
    FLOODED: (-9.5, -17.0),
    CROPS: (-11.5, -18.5),
    BUILT: (-3.5, -10.5),
    BARE: (-13.0, -21.0),
    SNOW: (-13.5, -21.5),
    RANGELAND: (-12.0, -18.5),
}
_LOOKS = 4.4
_NOISE_FLOOR = 10.0**-3.1
"""Equivalent number of looks, and noise-equivalent power, of a Sentinel-1 IW ground range product."""


@dataclass(frozen=True)
class State:
    """One day's state of the ground, every array (n, n): the day's ``temperature`` in Celsius, and shares in 0..1.

    ``leaf`` of deciduous trees in leaf, ``grass`` and ``crop`` that are green, ``ripe`` crop, soil ``moisture``,
    ``snow`` on open ground, ``turbid`` water, and ``wind`` over water from calm to strong.
    """

    temperature: Floats
    leaf: Floats
    grass: Floats
    crop: Floats
    ripe: Floats
    moisture: Floats
    snow: Floats
    turbid: Floats
    wind: Floats


def draw_state(rng: np.random.Generator, climate: Climate, terrain: Terrain, cover: Cover, day_of_year: int) -> State:
    """The state of the ground on ``day_of_year``."""
    n = terrain.elevation.shape[0]
    drift = field(rng, n, 2.3, 1400.0)
    anomaly, wetting, snowfall = rng.standard_normal(3).tolist()
    breeze, silt = rng.random(2).tolist()
    normal = climate.temperature(day_of_year) - LAPSE_RATE * terrain.elevation
    temperature = normal + 3.0 * anomaly
    rain = climate.season_wetness(day_of_year)
    warm = smoothstep(normal, 3.0, 13.0)
    grass = warm * smoothstep(rain + 0.05 * cover.patches, 0.12, 0.7)
    # Each parcel follows its own calendar: sown, green, ripe and bare again within the season it can grow in.
    calendar = (day_of_year / 365.25 + 0.45 * cover.phase + (0.0 if climate.latitude >= 0 else 0.5)) % 1.0
    growing = np.exp(-(((calendar - 0.62) / 0.17) ** 2)) * smoothstep(normal, 2.0, 9.0) * smoothstep(rain, 0.0, 0.4)
    ripe = np.exp(-(((calendar - 0.88) / 0.09) ** 2))
    wet_soil = np.clip(0.1 + 0.55 * rain + 0.25 * wetting + 0.06 * drift - 0.3 * terrain.slope, 0.0, 1.0)
    # Where it is dry there is little to fall; the edge of the snow is softened by drifts and by the slope's exposure.
    cold = -temperature + 0.7 * drift + 1.2 * snowfall - 7.0 * climate.aridity**2 + 1.5 * terrain.slope_north
    snow = smoothstep(cold, -1.0, 2.5)
    frozen = smoothstep(temperature, -11.0, -16.0)
    snow = np.where(cover.codes == WATER, frozen * snow, snow) * smoothstep(terrain.slope, 1.4, 0.9)
    turbid = np.clip(0.75 * silt + 0.12 * drift + 0.4 * np.exp(-np.abs(terrain.shore) / 120.0) - 0.15, 0.0, 1.0)
    wind = np.clip(breeze + 0.08 * drift, 0.0, 1.0)
    fields = (temperature, warm, grass, growing, ripe, wet_soil, snow, turbid, wind)
    return State(*(f.astype(np.float32) for f in fields))


def reflect(cover: Cover, terrain: Terrain, state: State, sun: Sun) -> Floats:
    """Reflectance of the lit surface without atmosphere, (12, n, n) in the order of ``BANDS``."""
    codes = cover.codes
    n = codes.shape[0]
    share = dict.fromkeys(_MATERIALS, np.zeros((n, n), np.float32))
    trees, crops, grass = codes == TREES, codes == CROPS, codes == RANGELAND
    flooded, built, bare, ice, water = (codes == c for c in (FLOODED, BUILT, BARE, SNOW, WATER))
    broad = np.clip(cover.deciduous + 0.22 * cover.grain, 0.0, 1.0)
    evergreen = 1.0 - broad
    # An evergreen tree of the tropics looks like broadleaf, one of the cold like a conifer.
    tropical = smoothstep(state.temperature, 8.0, 22.0)
    green_grass = grass * state.grass * 0.75
    share["broadleaf"] = trees * (broad * state.leaf + evergreen * tropical)
    share["conifer"] = trees * evergreen * (1.0 - tropical)
    share["leafless"] = trees * broad * (1.0 - state.leaf)
    share["green"] = crops * state.crop + green_grass + flooded * (0.15 + 0.4 * state.leaf) + built * 0.2 * state.leaf
    dry_grass = grass * (0.45 - 0.4 * state.grass)
    share["straw"] = crops * (1.0 - state.crop) * state.ripe + dry_grass + flooded * 0.25 * (1.0 - state.leaf)
    share["clear water"] = water * (1.0 - state.turbid) + flooded * 0.4
    share["turbid water"] = water * state.turbid
    share["buildings"] = built * (1.0 - 0.2 * state.leaf)
    share["old ice"] = ice.astype(np.float32)
    soil = bare + crops * (1.0 - state.crop) * (1.0 - state.ripe) + grass * (1.0 - 0.75 * state.grass) - dry_grass
    # Wet soil is darker in every band.
    soil = soil * (1.15 - 0.55 * state.moisture) * np.exp(0.13 * cover.patches + 0.3 * (cover.tone - 0.5) * crops)
    for name, part in zip(_SOILS, cover.soil, strict=True):
        share[name] = soil * part
    visible_snow = state.snow * np.where(trees, 0.45, np.where(built, 0.7, 0.97))
    mixed = np.stack([share[name] for name in _MATERIALS]).astype(np.float32)
    mixed *= (1.0 - visible_snow) * np.exp(0.07 * cover.grain + 0.05 * cover.patches)
    mixed[_MATERIALS.index("snow")] = visible_snow
    flat = _TABLE @ mixed.reshape(len(_MATERIALS), -1)
    return flat.reshape(len(BANDS), n, n) * illumination(terrain.slope_east, terrain.slope_north, sun)


def illumination(slope_east: Floats, slope_north: Floats, sun: Sun) -> Floats:
    """Light on slopes (n, n), in m/m, over light on level ground, (12, n, n): the sun's share follows the angle of
    incidence."""
    toward = slope_east * sun.east + slope_north * sun.north
    tilt = np.sqrt(1.0 + slope_east**2 + slope_north**2)
    direct = np.clip((sun.up - toward) / (tilt * sun.up), 0.0, 1.6)
    sky = _SKY_SHARE[:, None, None]
    return ((1.0 - sky) * direct + sky * (0.5 + 0.5 / tilt)).astype(np.float32)


def backscatter(rng: np.random.Generator, cover: Cover, terrain: Terrain, state: State) -> Floats:
    """VV and VH, (2, n, n), linear power: terrain-corrected gamma nought of a radar that looks east, with speckle."""
    n = cover.codes.shape[0]
    table = np.zeros((2, 12), np.float32)
    for code, pair in _GAMMA_NOUGHT.items():
        table[:, code] = pair
    decibels = table[:, cover.codes]
    codes = cover.codes
    crops, grass, bare = codes == CROPS, codes == RANGELAND, codes == BARE
    open_land = bare + crops * (1.0 - 0.5 * state.crop) + 0.8 * grass
    decibels += open_land * (3.6 * state.moisture - 1.2)
    plants = crops * (state.crop - 0.4) + 0.6 * grass * (state.grass - 0.5)
    decibels[0] += 1.2 * plants
    decibels[1] += 3.2 * plants
    decibels += (codes == TREES) * (0.8 * state.leaf - 0.6)
    decibels += (codes == BUILT) * 1.4 * cover.grain + 0.5 * cover.patches
    # Frost stills the sap and dry snow hides the soil.
    decibels -= (codes != BUILT) * (1.6 * smoothstep(state.temperature, 1.0, -5.0) + 1.4 * state.snow)
    # What terrain correction leaves of the slope: ground that rises eastward faces the sensor.
    decibels += 3.5 * np.tanh(1.2 * terrain.slope_east)
    water = codes == WATER
    decibels[0][water] = (-24.5 + 10.0 * state.wind + 6.0 * state.snow)[water]
    decibels[1][water] = (-31.0 + 6.0 * state.wind + 6.0 * state.snow)[water]
    power = np.exp(decibels * np.float32(np.log(10.0) / 10.0)) + np.float32(_NOISE_FLOOR)
    speckle = rng.standard_gamma(_LOOKS, (2, n, n), np.float32) / np.float32(_LOOKS)
    return (power * speckle).astype(np.float32)
