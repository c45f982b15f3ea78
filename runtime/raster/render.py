"""Physical values as colours: what one tile of the quicklook shows, in numpy alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..modalities import get
from .palette import CLASS_COLOURS, HEAT, HYPSOMETRIC, ramp
from .storage import REFLECTANCE_SCALE
from .write import mode_and_agreement

SUN_AZIMUTH, SUN_ALTITUDE = 315.0, 45.0
"""Where the light of the shaded relief comes from, in degrees clockwise from north and above the horizon."""

GAMMA = 1.5
PERCENTILES = (1.0, 99.0)

Limits = Mapping[str, tuple[float, float]]
"""Name of a stretch -> (value shown darkest, value shown brightest)."""

_TRUE_COLOUR = ("B04", "B03", "B02")
_COMPOSITES: Mapping[str, tuple[str, str, str]] = {
    "S2L1C_B01_B09_B10": ("B10", "B09", "B01"),
    "S2L1C_B02_B03_B04_B08": _TRUE_COLOUR,
    "S2L1C_B05_B06_B07_B11_B12_B8A": ("B12", "B8A", "B05"),
    "S2L2A_B01_B09": ("B09", "B09", "B01"),
    "S2L2A_B02_B03_B04_B08": _TRUE_COLOUR,
    "S2L2A_B05_B06_B07_B11_B12_B8A": ("B12", "B8A", "B05"),
}
_RADAR_DB = {"VV": (-20.0, 0.0), "VH": (-27.0, -7.0), "VV/VH": (2.0, 14.0)}
_MISSING = (128, 128, 128)
# Narrower than this and the stretch would show the noise of an even surface as if it were structure.
_MIN_SPAN_DN, _MIN_SPAN_METRES = 300.0, 40.0


@dataclass(frozen=True)
class Spread:
    """How much samples differ: ``rgb`` (H, W, 3) uint8, the measure in words, values at the ramp's two ends."""

    rgb: np.ndarray
    words: tuple[str, ...]
    low: str
    high: str


def measure_limits(images: Iterable[tuple[str, np.ndarray]]) -> Limits:
    """The stretches that all tiles of a modality share, from ``images``: pairs of key and (rows, C, H, W), physical.

    Sentinel-2: percentiles of the finite, positive values, a band each; true colour has one stretch for its three
    bands, which keeps the hues. Elevation: the full range.
    """
    pools: dict[str, list[np.ndarray]] = {}
    for key, rows in images:
        modality = get(key)
        if modality.kind == "elevation":
            pools.setdefault(key, []).append(rows[np.isfinite(rows)])
        for band in set(_COMPOSITES.get(key, ())):
            values = rows[:, modality.bands.index(band)]
            pools.setdefault(_stretch(key, band), []).append(values[np.isfinite(values) & (values > 0)])
    limits: dict[str, tuple[float, float]] = {}
    for name, parts in pools.items():
        values = np.concatenate(parts)
        relief = name == "DEM_DEM"
        low, high = np.percentile(values, (0.0, 100.0) if relief else PERCENTILES) if values.size else (0.0, 0.0)
        limits[name] = (float(low), max(float(high), float(low) + (_MIN_SPAN_METRES if relief else _MIN_SPAN_DN)))
    return limits


def render(key: str, image: np.ndarray, limits: Limits, *, resolution: float | None = None) -> np.ndarray:
    """``image`` (C, H, W), physical, of image modality ``key`` as uint8 RGB (H, W, 3); missing values are grey.

    ``resolution`` is metres a pixel where it is not the modality's own, for the slopes of elevation.
    """
    modality = get(key)
    if modality.is_codes:
        return _class_colours(key, image[0])
    missing = ~np.isfinite(image).all(axis=0)
    # Any finite value does, but the foot of a relief casts the least false shade.
    filler = limits[key][0] if modality.kind == "elevation" else 1.0
    image = np.where(missing, filler, image).astype(np.float64)
    if modality.kind == "elevation":
        tint = ramp(_unit(image[0], limits[key]), HYPSOMETRIC)
        light = hillshade(image[0], resolution or modality.resolution) / np.sin(np.radians(SUN_ALTITUDE))
        rgb = tint * (0.3 + 0.7 * light)[..., None]
    elif modality.kind == "backscatter":
        vv, vh = _decibels(image)
        rgb = 255.0 * np.stack([_unit(v, r) for v, r in zip((vv, vh, vv - vh), _RADAR_DB.values(), strict=True)], -1)
    else:
        planes = [
            _unit(image[modality.bands.index(band)], limits[_stretch(key, band)]) ** (1.0 / GAMMA)
            for band in _COMPOSITES[key]
        ]
        rgb = 255.0 * np.stack(planes, axis=-1)
    rgb[missing] = _MISSING
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def describe(key: str, limits: Limits) -> list[str]:
    """What a tile of ``key`` shows, in short lines: the rendering, then its range."""
    modality = get(key)
    if modality.is_codes:
        return ["class colours"]
    if modality.kind == "elevation":
        low, high = limits[key]
        return ["shaded relief", f"tint {low:.0f} to {high:.0f} m"]
    if modality.kind == "backscatter":
        return [
            "red VV, green VH, blue VV/VH",
            ", ".join(f"{name} {low:.0f} to {high:.0f}" for name, (low, high) in list(_RADAR_DB.items())[:2]) + " dB",
        ]
    bands = _COMPOSITES[key]
    name = "true colour" if bands == _TRUE_COLOUR else "false colour"
    low, high = limits[_stretch(key, bands[0])]
    reach = f"DN {low:.0f} to {high:.0f}" if bands == _TRUE_COLOUR else "each band stretched"
    return [f"{name} {' '.join(bands)}", reach]


def measure_spread(key: str, samples: np.ndarray) -> Spread:
    """The spread of ``samples`` (S, C, H, W), physical, S > 1.

    Population standard deviation, averaged over the bands that a tile shows: reflectance, decibels (whose spread does
    not follow the brightness, as that of linear power does) or metres. Codes: the share that agrees with the mode.
    """
    modality = get(key)
    if modality.is_codes:
        agreement = mode_and_agreement(samples[:, 0], modality.codes)[1]
        least = 1.0 / min(len(samples), len(modality.codes))
        return Spread(_heat((1.0 - agreement) / (1.0 - least)), ("agreement", "with mode"), "1.00", f"{least:.2f}")
    values = samples.astype(np.float64)
    unit, digits = modality.units, 1
    if modality.kind == "backscatter":
        values, unit = _decibels(values), "dB"
    elif modality.kind == "reflectance":
        shown = [modality.bands.index(band) for band in dict.fromkeys(_COMPOSITES[key])]
        values, digits = values[:, shown] * REFLECTANCE_SCALE, 3
    std = values.std(axis=0).mean(axis=0)
    high = max(float(np.percentile(std, 99.0)), 10.0**-digits)
    words = ("std of", "reflectance") if modality.kind == "reflectance" else ("std", f"in {unit}")
    return Spread(_heat(std / high), words, "0", f"{high:.{digits}f}")


def horn_gradient(elevation: np.ndarray, resolution: float) -> tuple[np.ndarray, np.ndarray]:
    """Slope of ``elevation`` (H, W; metres, north up) toward the east and toward the north, metres a metre.

    Horn's third-order finite differences (Proc. IEEE 69(1), 1981) on 3x3 pixels; the border is repeated outward.
    """
    z = np.pad(elevation, 1, mode="edge")
    across = z[:-2] + 2.0 * z[1:-1] + z[2:]
    along = z[:, :-2] + 2.0 * z[:, 1:-1] + z[:, 2:]
    east = (across[:, 2:] - across[:, :-2]) / (8.0 * resolution)
    north = (along[:-2] - along[2:]) / (8.0 * resolution)
    return east, north


def hillshade(elevation: np.ndarray, resolution: float) -> np.ndarray:
    """Share of the sun's light (0..1) that each pixel of ``elevation`` (H, W; metres, north up) receives."""
    east, north = horn_gradient(elevation, resolution)
    azimuth, altitude = np.radians(SUN_AZIMUTH), np.radians(SUN_ALTITUDE)
    toward_sun = east * np.sin(azimuth) + north * np.cos(azimuth)
    light = (np.sin(altitude) - np.cos(altitude) * toward_sun) / np.sqrt(1.0 + east**2 + north**2)
    return np.clip(light, 0.0, 1.0)


def _stretch(key: str, band: str) -> str:
    return f"{key} true colour" if _COMPOSITES[key] == _TRUE_COLOUR else f"{key} {band}"


def _unit(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    low, high = limits
    return np.clip((values - low) / (high - low), 0.0, 1.0)


def _decibels(power: np.ndarray) -> np.ndarray:
    return 10.0 * np.log10(np.maximum(power, 1e-6))


def _heat(share: np.ndarray) -> np.ndarray:
    return np.rint(ramp(share, HEAT)).astype(np.uint8)


def _class_colours(key: str, codes: np.ndarray) -> np.ndarray:
    rgb = np.full((*codes.shape, 3), _MISSING, dtype=np.uint8)
    for code, colour in CLASS_COLOURS[key].items():
        rgb[codes == code] = colour
    return rgb
