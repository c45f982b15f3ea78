"""Climate as a smooth, fixed function of place and day, and where the sun stands.

Sun: Spencer (Search 2(5), 1971) for the declination, spherical trigonometry for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from .fields import smoothstep

FIRST_DAY, LAST_DAY = date(2017, 1, 1), date(2024, 12, 31)
MIN_SUN_ALTITUDE = 15.0
"""Degrees above the horizon below which no scene is drawn: Sentinel-2 products get sparse and poor there."""

LAPSE_RATE = 0.0065
"""Kelvin a metre."""

_HOUR_ANGLE = np.radians(-22.5)
_SOUTHERNMOST, _NORTHERNMOST = -56.0, 72.0


@dataclass(frozen=True)
class Climate:
    """What a place (degrees) is like: temperatures at sea level in Celsius and kelvin, the rest in 0..1."""

    latitude: float
    longitude: float
    mean_temperature: float
    seasonal_amplitude: float
    aridity: float
    relief: float
    wet_season: float
    """Day of the year in the middle of the wet season."""

    @property
    def wetness(self) -> float:
        return 1.0 - self.aridity

    @property
    def warmest(self) -> float:
        """Mean temperature of the warmest month at sea level."""
        return self.mean_temperature + self.seasonal_amplitude

    def temperature(self, day_of_year: int) -> float:
        """Expected temperature at sea level on that day, Celsius."""
        hottest = 200.0 if self.latitude >= 0 else 17.5
        return self.mean_temperature + self.seasonal_amplitude * float(_yearly(day_of_year, hottest))

    def season_wetness(self, day_of_year: int) -> float:
        """Wetness 0..1 on that day: the wet and the dry season differ most where it is neither wet nor arid."""
        swing = 1.4 * self.aridity * self.wetness
        return float(np.clip(self.wetness + swing * _yearly(day_of_year, self.wet_season), 0.0, 1.0))


@dataclass(frozen=True)
class Sun:
    """Unit vector toward the sun: east, north, up."""

    east: float
    north: float
    up: float


def draw_place(rng: np.random.Generator) -> tuple[float, float]:
    """Latitude and longitude in degrees, uniform by area between 56 S and 72 N."""
    low, high = np.sin(np.radians([_SOUTHERNMOST, _NORTHERNMOST]))
    return float(np.degrees(np.arcsin(rng.uniform(low, high)))), float(rng.uniform(-180.0, 180.0))


def climate_at(latitude: float, longitude: float) -> Climate:
    """The climate of a place in degrees."""
    lat, lon = np.radians([latitude, longitude])
    away = abs(latitude)
    continental = 0.5 + 0.5 * np.sin(2.0 * lon + 0.4 + np.sin(lat))
    belts = 0.62 * np.sin(3.0 * lon + 1.1 + 1.6 * np.sin(2.0 * lat)) + 0.38 * np.cos(4.0 * lat - 2.0 * lon + 0.7)
    dry_belt = np.exp(-(((away - 25.0) / 12.0) ** 2)) * (0.35 + 0.65 * (0.5 + 0.5 * np.sin(2.0 * lon - 0.6 + lat)))
    inland = 0.35 * continental * smoothstep(away, 25.0, 45.0) * (1.0 - smoothstep(away, 50.0, 62.0))
    return Climate(
        latitude=latitude,
        longitude=longitude,
        mean_temperature=float(27.0 - 35.0 * (away / 70.0) ** 1.7),
        seasonal_amplitude=float(2.0 + 15.0 * (away / 70.0) ** 1.1 * (0.7 + 0.5 * continental)),
        aridity=float(np.clip(0.06 + 0.95 * dry_belt + inland, 0.0, 0.97)),
        relief=float(0.5 + 0.5 * np.clip(belts, -1.0, 1.0)),
        # Summer rain in the tropics and far from them; winter rain between 28 and 42 degrees.
        wet_season=(210.0 if latitude >= 0 else 27.0) + (182.0 if 28.0 <= away <= 42.0 else 0.0),
    )


def sun_on(latitude: float, day: date) -> Sun:
    """The sun at 10:30 local solar time."""
    sin_lat, cos_lat = np.sin(np.radians(latitude)), np.cos(np.radians(latitude))
    declination = float(_declination(np.array([day.timetuple().tm_yday]))[0])
    sin_dec, cos_dec = np.sin(declination), np.cos(declination)
    return Sun(
        east=float(-cos_dec * np.sin(_HOUR_ANGLE)),
        north=float(sin_dec * cos_lat - cos_dec * sin_lat * np.cos(_HOUR_ANGLE)),
        up=float(sin_lat * sin_dec + cos_lat * cos_dec * np.cos(_HOUR_ANGLE)),
    )


def draw_date(rng: np.random.Generator, latitude: float) -> date:
    """A day of 2017 to 2024, uniform among those with the sun at least 15 degrees high."""
    lat = np.radians(latitude)
    up = np.sin(lat) * np.sin(_DECLINATIONS) + np.cos(lat) * np.cos(_DECLINATIONS) * np.cos(_HOUR_ANGLE)
    days = np.flatnonzero(up >= np.sin(np.radians(MIN_SUN_ALTITUDE)))
    return FIRST_DAY + timedelta(days=int(days[int(rng.random() * days.size)]))


def _declination(day_of_year: NDArray[np.int64]) -> NDArray[np.float64]:
    b = 2.0 * np.pi * (day_of_year - 1) / 365.0
    return (
        0.006918
        - 0.399912 * np.cos(b)
        + 0.070257 * np.sin(b)
        - 0.006758 * np.cos(2.0 * b)
        + 0.000907 * np.sin(2.0 * b)
        - 0.002697 * np.cos(3.0 * b)
        + 0.00148 * np.sin(3.0 * b)
    )


def _yearly(day_of_year: int, peak: float) -> np.float64:
    return np.cos(2.0 * np.pi * (day_of_year - peak) / 365.25)


_DECLINATIONS = _declination(
    np.array([(FIRST_DAY + timedelta(days=n)).timetuple().tm_yday for n in range((LAST_DAY - FIRST_DAY).days + 1)])
)
