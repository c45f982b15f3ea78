"""A procedural Earth whose conditionals are known: co-registered patches of all twelve modalities from one seed.

Nothing in it is a measurement. The ground follows from (seed, place); the day, the air, the clouds and the state of the
ground follow from (seed, weather) and the ground, so that draws of one seed that differ in ``weather`` alone are draws
from the true conditional given terrain, cover and place.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date as Date  # noqa: N812
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import RequestError
from ...runtime.modalities import CELL_METRES, MODALITIES, PATCH_METRES
from .atmosphere import draw_sky, observe
from .climate import FIRST_DAY, LAST_DAY, MIN_SUN_ALTITUDE, climate_at, draw_date, draw_place, sun_on
from .cover import draw_cover
from .fields import GRID_METRES, Floats, block_mean
from .surface import BANDS, backscatter, draw_state, reflect
from .terrain import draw_terrain

__all__ = ["draw", "draw_many"]

Rows = dict[str, NDArray[Any]]

_PLACE, _TERRAIN, _COVER, _DATE, _STATE, _SKY, _AIR, _SPECKLE = range(1, 9)
_MAX_WEATHER = 2**32


def draw(
    seed: int,
    *,
    weather: int = 0,
    place: tuple[float, float] | None = None,
    date: Date | None = None,
    size: int = PATCH_METRES,
) -> Rows:
    """One patch, every modality in physical units, keyed and shaped as the model's transforms take them, one row each.

    Images are (1, C, H, W), bands in the modality's order: Sentinel-2 in DN (float32, whole numbers from 1), Sentinel-1
    in linear power (float32), elevation in metres (float32), codes in uint8. The place is (1, 2) float64 latitude and
    longitude in degrees, the date (1, 3) int64 year, month, day.

    ``size`` is the side in metres, a multiple of 480 from 1920 on. ``place`` and ``date`` pin what is drawn otherwise,
    and move no other random number. Raises :class:`RequestError` for a request that the world cannot meet.
    """
    _check(seed, weather, place, size)
    n = size // GRID_METRES
    latitude, longitude = place if place is not None else draw_place(_stream(_PLACE, seed))
    climate = climate_at(float(latitude), float(longitude))
    terrain = draw_terrain(_stream(_TERRAIN, seed), climate, n)
    cover = draw_cover(_stream(_COVER, seed), climate, terrain)

    day = date if date is not None else draw_date(_stream(_DATE, seed, weather), climate.latitude)
    sun = sun_on(climate.latitude, day)
    _check_day(day, np.degrees(np.arcsin(sun.up)), climate.latitude)
    state = draw_state(_stream(_STATE, seed, weather), climate, terrain, cover, day.timetuple().tm_yday)
    sky = draw_sky(_stream(_SKY, seed, weather), climate, sun, n)
    lit = reflect(cover, terrain, state, sun)
    air = _stream(_AIR, seed, weather)
    height = float(terrain.elevation.mean())
    surface, top, cirrus = observe(air, lit, sky, climate, sun, float(state.temperature.mean()), height)

    l2a = dict(zip(BANDS, surface, strict=True))
    l1c = {**dict(zip(BANDS, top, strict=True)), "B10": cirrus}
    images = {
        "DEM": block_mean(terrain.elevation, 3)[None],
        "LULC": cover.codes[None],
        "S1RTC": backscatter(_stream(_SPECKLE, seed, weather), cover, terrain, state),
        "cloud_mask": sky.mask[None],
    }
    rows: Rows = {}
    for m in MODALITIES:
        if m.family in ("S2L1C", "S2L2A"):
            bands = l1c if m.family == "S2L1C" else l2a
            rows[m.key] = _digital_numbers(np.stack([bands[b] for b in m.bands]), m.resolution)[None]
        elif m.kind == "place":
            rows[m.key] = np.array([[climate.latitude, climate.longitude]])
        elif m.kind == "date":
            rows[m.key] = np.array([[day.year, day.month, day.day]], np.int64)
        else:
            rows[m.key] = images[m.family][None]
    return rows


def draw_many(seeds: Iterable[int], **same: Any) -> Rows:
    """:func:`draw` for each of ``seeds`` with the ``same`` other arguments, rows stacked in their order."""
    drawn = [draw(seed, **same) for seed in seeds]
    if not drawn:
        raise RequestError("found no seed to draw, expected at least one")
    return {m.key: np.concatenate([rows[m.key] for rows in drawn]) for m in MODALITIES}


def _stream(purpose: int, seed: int, weather: int = 0) -> np.random.Generator:
    """A generator of its own for each purpose, so that one draw more or less elsewhere moves nothing here."""
    return np.random.default_rng((purpose, weather, seed))


def _digital_numbers(reflectance: Floats, resolution: int) -> Floats:
    factor = resolution // GRID_METRES
    means = block_mean(reflectance, factor) if factor > 1 else reflectance
    return np.maximum(np.rint(means * np.float32(10000.0)), np.float32(1.0))


def _check(seed: int, weather: int, place: tuple[float, float] | None, size: int) -> None:
    if seed < 0:
        raise RequestError(f"found seed {seed}, expected a whole number from 0 on")
    if not 0 <= weather < _MAX_WEATHER:
        raise RequestError(f"found weather {weather}, expected a whole number from 0 to {_MAX_WEATHER - 1}")
    if size < PATCH_METRES or size % CELL_METRES:
        raise RequestError(f"found size {size} m, expected a multiple of {CELL_METRES} m from {PATCH_METRES} m on")
    if place is not None and not (abs(place[0]) <= 90.0 and abs(place[1]) <= 180.0):
        raise RequestError(f"found place {place}, expected latitude in -90..90 and longitude in -180..180 degrees")


def _check_day(day: Date, altitude: float, latitude: float) -> None:
    if not FIRST_DAY <= day <= LAST_DAY:
        raise RequestError(f"found date {day}, expected one from {FIRST_DAY} to {LAST_DAY}")
    if altitude < MIN_SUN_ALTITUDE:
        raise RequestError(
            f"on {day} the sun at latitude {latitude:.1f} stands {altitude:.0f} degrees high at 10:30, expected at "
            f"least {MIN_SUN_ALTITUDE:.0f}; choose a day nearer to that hemisphere's summer"
        )
