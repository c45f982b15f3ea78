"""Errors of the two modalities without pixels: place and date."""

from __future__ import annotations

from calendar import isleap
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import ArrayLike

from ..errors import RequestError
from .checks import Floats, rows_of

EARTH_RADIUS_KM = 6371.0
"""Mean radius of the Earth, as COP-GEN (arXiv 2603.03239) takes it."""

RADII_KM = (1, 10, 100, 500)
"""Distances within which the share of places is told."""


@dataclass(frozen=True)
class PlaceErrors:
    """Great-circle distances in kilometres; ``within`` is the share of rows at most that many kilometres off."""

    mean_km: float
    median_km: float
    p90_km: float
    within: dict[int, float]
    rows: int


@dataclass(frozen=True)
class DateErrors:
    """Circular distances between days of the year, in days, and errors of the year, in years; ``year_bias`` is found
    minus truth."""

    mean_days: float
    median_days: float
    year_mae: float
    year_bias: float
    rows: int


def haversine_km(found: ArrayLike, truth: ArrayLike) -> Floats:
    """Great-circle distance of each row, in kilometres, (rows,).

    ``found`` and ``truth`` are (rows, 2), latitude and longitude in degrees; longitudes may wrap. The haversine
    formula (Sinnott 1984, "Virtues of the haversine") on a sphere of 6371 km. Raises :class:`RequestError` for wrong
    shapes, NaN, or a latitude off the globe.
    """
    a, b = rows_of("place", found, 2), rows_of("place", truth, 2)
    _same_rows("place", a, b)
    for degrees in (a, b):
        if (np.abs(degrees[:, 0]) > 90).any():
            worst = degrees[np.abs(degrees[:, 0]).argmax()].tolist()
            raise RequestError(f"place: found {worst}, expected latitude in -90..90 first, then longitude; swap them?")
    (lat_a, lon_a), (lat_b, lon_b) = np.radians(a).T, np.radians(b).T
    h = np.sin((lat_b - lat_a) / 2) ** 2 + np.cos(lat_a) * np.cos(lat_b) * np.sin((lon_b - lon_a) / 2) ** 2
    # Rounding can lift h of antipodes just above 1, where the arcsine has no value.
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.minimum(h, 1.0)))


def place_errors(found: ArrayLike, truth: ArrayLike) -> PlaceErrors:
    """Mean, median, 90th percentile (linear interpolation) and shares within 1, 10, 100 and 500 km of
    :func:`haversine_km`, whose shapes, units and errors these are."""
    km = haversine_km(found, truth)
    return PlaceErrors(
        float(km.mean()),
        float(np.median(km)),
        float(np.quantile(km, 0.9)),
        {radius: float((km <= radius).mean()) for radius in RADII_KM},
        len(km),
    )


def day_distance(found: ArrayLike, truth: ArrayLike) -> Floats:
    """Distance between the days of the year of each row, the shorter way round the year, in days, (rows,).

    ``found`` and ``truth`` are (rows, 3): year, month, day. A day is the turn doy / days in its year, as the model
    encodes it (COP-GEN, arXiv 2603.03239), and the shorter arc between both turns is told in days of the truth's
    year: a whole number wherever both years have as many days, and at most half a year. The year itself does not
    count. Raises :class:`RequestError` for wrong shapes or a date that the calendar lacks.
    """
    a, b = rows_of("date", found, 3), rows_of("date", truth, 3)
    _same_rows("date", a, b)
    (turn_a, _), (turn_b, days) = _turns(a), _turns(b)
    gap = np.abs(turn_a - turn_b) % 1
    return np.minimum(gap, 1 - gap) * days


def date_errors(found: ArrayLike, truth: ArrayLike) -> DateErrors:
    """Mean and median of :func:`day_distance` (whose shapes and errors these are), and errors of the year."""
    days = day_distance(found, truth)
    years = np.asarray(found, np.float64)[:, 0] - np.asarray(truth, np.float64)[:, 0]
    return DateErrors(
        float(days.mean()), float(np.median(days)), float(np.abs(years).mean()), float(years.mean()), len(days)
    )


def _same_rows(name: str, a: Floats, b: Floats) -> None:
    if len(a) != len(b):
        raise RequestError(f"{name}: found {len(a)} rows, expected {len(b)} as the truth; pair them row by row")


def _turns(ymd: Floats) -> tuple[Floats, Floats]:
    """Share of the year that has passed, and the days of that year."""
    turns, lengths = [], []
    for year, month, day in ymd.tolist():
        try:
            if not (year.is_integer() and month.is_integer() and day.is_integer()):
                raise ValueError
            doy = date(int(year), int(month), int(day)).timetuple().tm_yday
        except (ValueError, OverflowError):
            raise RequestError(
                f"date: found {(year, month, day)}, expected year, month and day of a day in the calendar"
            ) from None
        lengths.append(366 if isleap(int(year)) else 365)
        turns.append(doy / lengths[-1])
    return np.array(turns), np.array(lengths, np.float64)
