"""Clouds with their shadows, and what the air adds and takes: from lit surface to top of atmosphere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .climate import Climate, Sun
from .fields import GRID_METRES, Floats, field, padded, periodic_field, smoothstep
from .surface import BANDS

CLEAR, THICK, THIN, SHADOW = 0, 1, 2, 3

# Central wavelengths in micrometres, in the order of BANDS.
_WAVELENGTH = np.array([0.443, 0.490, 0.560, 0.665, 0.705, 0.740, 0.783, 0.842, 0.865, 0.945, 1.610, 2.190], np.float32)
# What a thick cloud reflects: even up to the near infrared; ice and droplets absorb beyond.
_CLOUD = np.array([1.0, 1.0, 0.99, 0.98, 0.98, 0.98, 0.98, 0.97, 0.96, 0.80, 0.66, 0.48], np.float32)
# Share of the light that a thick cloud's shadow takes: the sky still lights the blue.
_SHADED = np.array([0.45, 0.50, 0.56, 0.61, 0.63, 0.65, 0.67, 0.68, 0.69, 0.70, 0.76, 0.78], np.float32)
_VAPOUR = BANDS.index("B09")
_THIN_FROM, _THICK_FROM, _SHADE_FROM = 0.06, 0.5, 0.3
_SCALE_HEIGHT = 8000.0


@dataclass(frozen=True)
class Sky:
    """Clouds of one moment: opacity (n, n) over a pixel and over its line to the sun, 0..1, and the mask's codes.

    ``brightness`` is a thick cloud's reflectance, ``height`` its top's in metres above the ground.
    """

    opacity: Floats
    shade: Floats
    mask: NDArray[np.uint8]
    brightness: float
    height: float


def draw_sky(rng: np.random.Generator, climate: Climate, sun: Sun, n: int) -> Sky:
    """The clouds over ``n`` x ``n`` pixels, their shadows thrown away from the sun."""
    chance = rng.random(6).tolist()
    whole = periodic_field(rng, padded(n), 2.2, 1500.0)
    height = 400.0 + 2100.0 * chance[0] ** 1.5
    if chance[1] < 0.3 + 0.38 * climate.aridity:
        opacity = np.zeros_like(whole)
    else:
        # One draw in five covers most of the patch; the rest are scattered clouds.
        level = 1.6 - 1.5 * chance[2] if chance[3] > 0.2 else -2.2 * chance[2]
        depth = np.maximum(whole - np.float32(level), 0.0)
        cirrus = chance[4] < 0.2
        opacity = 0.42 * (1.0 - np.exp(-1.2 * depth)) if cirrus else 1.0 - np.exp(-(2.0 + 3.0 * chance[5]) * depth)
        height = 9000.0 if cirrus else height
    opacity = np.where(opacity < _THIN_FROM, 0.0, opacity).astype(np.float32)
    # A cloud over (x, y) shades the ground that lies away from the sun; rows count southward.
    reach = height / sun.up / GRID_METRES
    shift = (round(reach * sun.north), round(-reach * sun.east))
    shade = np.roll(opacity, shift, axis=(0, 1))[:n, :n]
    opacity = opacity[:n, :n]
    mask = np.full((n, n), CLEAR, np.uint8)
    mask[shade > _SHADE_FROM] = SHADOW
    mask[opacity > 0.0] = THIN
    mask[opacity > _THICK_FROM] = THICK
    return Sky(opacity, shade, mask, float(rng.uniform(0.5, 0.85)), height)


def observe(
    rng: np.random.Generator, lit: Floats, sky: Sky, climate: Climate, sun: Sun, temperature: float, elevation: float
) -> tuple[Floats, Floats, Floats]:
    """L2A (12, n, n), L1C (12, n, n) and L1C B10 (n, n), reflectances, from the ``lit`` surface (12, n, n).

    ``temperature`` (Celsius) bounds the water vapour; ``elevation`` (metres) thins the air.
    """
    n = lit.shape[-1]
    aerosol = 0.04 + 0.16 * rng.random() ** 2 * (1.0 + climate.aridity)
    vapour = (
        (0.25 + 3.6 * smoothstep(temperature, -12.0, 30.0))
        * np.exp(0.3 * rng.standard_normal())
        * (0.5 + 0.5 * climate.wetness)
    )
    misjudged = 0.006 * rng.standard_normal()
    haze = (1.0 + 0.12 * field(rng, n, 2.2, 2500.0)).astype(np.float32)

    thinner = np.exp(-elevation / _SCALE_HEIGHT)
    airmass = 1.0 + 1.0 / sun.up
    rayleigh = 0.235 * thinner * (0.443 / _WAVELENGTH) ** 4
    aerosols = aerosol * (0.55 / _WAVELENGTH) ** 1.2
    path = (0.47 * rayleigh * (0.7 + 0.15 / sun.up))[:, None, None] + (0.14 * aerosols)[:, None, None] * haze
    through = np.exp(-(0.42 * rayleigh + 0.22 * aerosols) * airmass / 1.6)
    through[_VAPOUR] *= np.exp(-0.5 * np.sqrt(vapour * thinner * airmass))

    shaded = lit * (1.0 - _SHADED[:, None, None] * sky.shade)
    clear = np.float32(1.0) - sky.opacity
    cloud = (sky.brightness * _CLOUD)[:, None, None] * (sky.opacity * (0.9 + 0.1 * sky.opacity))
    blue = ((0.49 / _WAVELENGTH) ** 2)[:, None, None].astype(np.float32)
    surface = clear * (shaded + np.float32(misjudged) * blue * haze) + cloud
    top = clear * (path.astype(np.float32) + through[:, None, None].astype(np.float32) * shaded)
    # Little vapour is left above a high cloud.
    dimmed = np.ones(len(BANDS), np.float32)
    dimmed[_VAPOUR] = through[_VAPOUR] ** (0.6 * np.exp(-sky.height / 2500.0))
    top = top + dimmed[:, None, None] * cloud
    above = 0.006 + 0.11 * smoothstep(sky.height, 1500.0, 9000.0)
    cirrus_band = 0.0012 + 0.0025 * smoothstep(elevation, 2000.0, 5000.0) + above * sky.opacity
    return surface.astype(np.float32), top.astype(np.float32), cirrus_band.astype(np.float32)
