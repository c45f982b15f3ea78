"""A made-up alpine scene with a real georeference: elevation, land cover and radar that agree with one another.

It needs no download, so a first run and the tests have something to read. Nothing in it is a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from ..modalities import get
from .palette import CLASS_COLOURS
from .render import horn_gradient
from .window import WGS84, project
from .write import write_geotiff

_EPSG = 32632
_LEFT, _TOP = 674_880, 5_275_020
_SIDE = 3840
_MARGIN = 180
_GRID = (_SIDE + 2 * _MARGIN) // 10
_LAKE_LEVEL = 801.0
_WATER, _TREES, _FLOODED, _CROPS, _BUILT, _BARE, _SNOW, _RANGELAND = 1, 2, 4, 5, 7, 8, 9, 11
# Mean gamma nought of VV and VH in dB, as C-band shows these covers in summer.
_GAMMA_NOUGHT = {
    _WATER: (-21.5, -29.0),
    _TREES: (-9.0, -14.5),
    _FLOODED: (-9.5, -17.0),
    _CROPS: (-11.5, -18.5),
    _BUILT: (-3.5, -10.5),
    _BARE: (-12.5, -21.0),
    _SNOW: (-14.5, -22.5),
    _RANGELAND: (-12.0, -18.0),
}
_LOOKS = 4.4
"""Equivalent number of looks of a Sentinel-1 IW ground range product."""


@dataclass(frozen=True)
class SampleScene:
    """Where a sample scene lies: three rasters in UTM, the centre (latitude, longitude in degrees), and its date."""

    dem: Path
    lulc: Path
    s1rtc: Path
    center: tuple[float, float]
    date: date


def write_sample_scene(folder: Path, *, seed: int = 0) -> SampleScene:
    """Write the scene of ``seed`` into ``folder`` (made where missing) and tell where it is.

    3.84 km x 3.84 km in EPSG:32632 (the Bavarian Alps), its upper left corner on a multiple of 60 m:

    - ``DEM.tif``: float32 metres at 30 m, 180 m wider on every side, as a window may need to interpolate at its edge;
    - ``LULC.tif``: uint8 ESRI codes at 10 m;
    - ``S1RTC.tif``: float32 linear power (gamma nought) at 10 m, bands ``vv`` and ``vh``.

    The same ``seed`` gives the same arrays. Each file is written beside its name and then renamed, so a name never
    holds half a raster. Raises :class:`~copgen_edge.runtime.errors.CopgenError` where a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    elevation, lake = _terrain(rng)
    cover = _land_cover(rng, elevation, lake)
    radar = _radar(rng, elevation, cover)
    inner = slice(_MARGIN // 10, -(_MARGIN // 10))
    coarse = elevation.reshape(_GRID // 3, 3, _GRID // 3, 3).mean(axis=(1, 3))
    lulc = get("LULC_LULC")
    tags = {"TITLE": "copgen-edge sample scene, made up", "SEED": str(seed)}
    common: dict[str, Any] = {"crs": CRS.from_epsg(_EPSG), "tags": tags}
    nan = float("nan")
    scene = SampleScene(folder / "DEM.tif", folder / "LULC.tif", folder / "S1RTC.tif", _center(), date(2021, 7, 14))
    _write_whole(
        scene.dem,
        coarse[None].astype(np.float32),
        transform=Affine(30, 0, _LEFT - _MARGIN, 0, -30, _TOP + _MARGIN),
        nodata=nan,
        descriptions=["DEM"],
        units="m",
        **common,
    )
    common["transform"] = Affine(10, 0, _LEFT, 0, -10, _TOP)
    _write_whole(
        scene.lulc,
        cover[None, inner, inner],
        nodata=0,
        descriptions=["LULC"],
        units="class",
        colours=CLASS_COLOURS[lulc.key],
        band_tags={f"CLASS_{code}": name for code, name in lulc.codes.items()},
        **common,
    )
    _write_whole(
        scene.s1rtc,
        radar[:, inner, inner],
        nodata=nan,
        descriptions=["vv", "vh"],
        units="linear power",
        **common,
    )
    return scene


def _write_whole(path: Path, pixels: np.ndarray, **metadata: Any) -> None:
    partial = path.with_name(path.name + ".partial")
    write_geotiff(partial, pixels, **metadata)
    partial.replace(path)


def _center() -> tuple[float, float]:
    (lon,), (lat,) = project(CRS.from_epsg(_EPSG), WGS84, [_LEFT + _SIDE / 2], [_TOP - _SIDE / 2])
    return float(lat), float(lon)


def _fractal(rng: np.random.Generator, slope: float, longest: float = np.inf) -> np.ndarray:
    """Gaussian noise (grid, grid) of mean 0 and standard deviation 1 whose amplitudes fall as frequency^-slope.

    Waves of more than ``longest`` metres are left out.
    """
    east = np.fft.rfftfreq(_GRID, 10.0)
    north = np.fft.fftfreq(_GRID, 10.0)
    frequency = np.hypot(north[:, None], east[None])
    frequency[0, 0] = np.inf
    amplitude = np.where(frequency * longest >= 1.0, frequency**-slope, 0.0)
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((_GRID, _GRID))) * amplitude, s=(_GRID, _GRID))
    return (field - field.mean()) / field.std()


def _smoothstep(values: np.ndarray, start: float, end: float) -> np.ndarray:
    t = np.clip((values - start) / (end - start), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _terrain(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Elevation in metres and whether a pixel is lake, both (grid, grid) at 10 m.

    A winding valley that falls toward a basin; above its floor ridges rise, the rougher the higher.
    """
    metres = 10.0 * np.arange(_GRID) - 5.0 * _GRID
    south, east = np.meshgrid(metres, metres, indexing="ij")
    bearing = rng.uniform(0.15, 0.45) * np.pi
    along = east * np.cos(bearing) + south * np.sin(bearing)
    across = south * np.cos(bearing) - east * np.sin(bearing)
    across = across - 260.0 * np.sin(along / 900.0 + rng.uniform(0.0, 2.0 * np.pi)) + 90.0 * _fractal(rng, 2.0)
    distance = np.abs(across)
    foot = 420.0 + 120.0 * np.cos(along / 700.0 + rng.uniform(0.0, 2.0 * np.pi))
    rise = _smoothstep(distance, foot, foot + 2100.0)
    roughness = _fractal(rng, 2.1)
    ridges = 1.0 - np.abs(_fractal(rng, 2.2, longest=1500.0))
    floor = _LAKE_LEVEL + 26.0 * _smoothstep(along, -300.0, 1500.0) - 30.0 * _smoothstep(-along, 0.0, 500.0)
    floor = floor + 10.0 * _smoothstep(distance, 150.0, foot) + 2.0 * roughness
    relief = rise * (1000.0 + 210.0 * roughness + 210.0 * ridges)
    ground = floor + relief
    lake = ground < _LAKE_LEVEL
    return np.where(lake, _LAKE_LEVEL, ground), lake


def _land_cover(rng: np.random.Generator, elevation: np.ndarray, lake: np.ndarray) -> np.ndarray:
    """ESRI codes, uint8 (grid, grid): later lines overrule earlier ones."""
    east, north = horn_gradient(elevation, 10.0)
    slope = np.degrees(np.arctan(np.hypot(east, north)))
    patches, grain = _fractal(rng, 1.6, longest=900.0), _fractal(rng, 1.2, longest=400.0)
    height = elevation + 55.0 * patches
    cover = np.full(elevation.shape, _TREES, dtype=np.uint8)
    cover[(slope < 28.0) & (patches > 1.2)] = _RANGELAND
    flat = (elevation < _LAKE_LEVEL + 45.0) & (slope < 11.0)
    cover[flat] = _RANGELAND
    cover[flat & (_parcels(rng) < 0.55)] = _CROPS
    cover[flat & (patches > 1.0)] = _TREES
    cover[height > 1480.0] = _RANGELAND
    cover[(height > 1480.0) & (slope + 6.0 * grain > 36.0)] = _BARE
    cover[height > 1720.0] = _BARE
    # Old snow outlasts the spring where it is high and turned away from the noon sun.
    cover[(height > 1800.0) & (north < 0.1)] = _SNOW
    cover[flat & (elevation < _LAKE_LEVEL + 1.2) & (grain > 0.2)] = _FLOODED
    row, column = _village(flat & (elevation > _LAKE_LEVEL + 3.0))
    rows, columns = np.ogrid[:_GRID, :_GRID]
    settled = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2.0 * 24.0**2)) + 0.22 * grain
    cover[flat & (settled > 0.55)] = _BUILT
    cover[lake] = _WATER
    return cover


def _parcels(rng: np.random.Generator) -> np.ndarray:
    """A random number in 0..1 a field, (grid, grid): slanted strips of about 170 m x 90 m."""
    rows, columns = np.meshgrid(np.arange(_GRID), np.arange(_GRID), indexing="ij")
    bearing = rng.uniform(0.0, np.pi)
    u = np.floor((columns * np.cos(bearing) + rows * np.sin(bearing)) / 17.0).astype(np.int64)
    v = np.floor((rows * np.cos(bearing) - columns * np.sin(bearing)) / 9.0).astype(np.int64)
    table = rng.random((64, 128))
    return table[u % 64, v % 128]


def _village(ground: np.ndarray) -> tuple[int, int]:
    """Pixel of ``ground`` that is nearest to the middle of all of it."""
    rows, columns = np.nonzero(ground)
    nearest = int(np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2))
    return int(rows[nearest]), int(columns[nearest])


def _radar(rng: np.random.Generator, elevation: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """VV and VH, float32 (2, grid, grid), linear power.

    Mean of the cover, what terrain correction leaves of the slope toward an eastward looking radar, and speckle.
    """
    decibels = np.zeros((2, *cover.shape))
    for code, (vv, vh) in _GAMMA_NOUGHT.items():
        decibels[:, cover == code] = np.array([[vv], [vh]])
    facing, _ = horn_gradient(elevation, 10.0)
    land = cover != _WATER
    decibels += land * (3.5 * np.tanh(1.2 * facing) + 0.7 * _fractal(rng, 1.0, longest=600.0))
    speckle = rng.gamma(_LOOKS, 1.0 / _LOOKS, decibels.shape)
    return (10.0 ** (decibels / 10.0) * speckle).astype(np.float32)
