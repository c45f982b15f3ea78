"""Place and date as small pictures: a dot on a graticule, a dot on the ring of the year, and the value as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .palette import Colour

INK: Colour = (28, 32, 38)
FADED: Colour = (104, 110, 118)
RULE: Colour = (206, 208, 212)
_ACCENT: Colour = (206, 58, 40)
_SEA: Colour = (236, 241, 245)
_EARTH_KM = 6371.0
_SUPERSAMPLING = 4

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@cache
def font(size: int) -> Font:
    """Pillow's own face at ``size`` pixels."""
    return ImageFont.load_default(size)


def place_card(places: np.ndarray, size: int) -> Image.Image:
    """``places`` (rows, 2), latitude and longitude in degrees, on a world graticule of 30 degrees.

    One row: its value. More: the root mean square of the great-circle distances to the mean direction.
    """
    width, height = size * _SUPERSAMPLING, size * _SUPERSAMPLING // 2
    world = Image.new("RGB", (width, height), _SEA)
    draw = ImageDraw.Draw(world)
    for k in range(13):
        colour = FADED if k == 6 else RULE
        draw.line([(k * width / 12, 0), (k * width / 12, height)], colour, _SUPERSAMPLING)
    for k in range(7):
        colour = FADED if k == 3 else RULE
        draw.line([(0, k * height / 6), (width, k * height / 6)], colour, _SUPERSAMPLING)
    for lat, lon in places:
        _dot(draw, ((lon + 180.0) / 360.0 * width, (90.0 - lat) / 180.0 * height), size)
    if len(places) == 1:
        lat, lon = places[0]
        words = (f"{abs(lat):.2f}° {'NS'[int(lat < 0)]}  {abs(lon):.2f}° {'EW'[int(lon < 0)]}", "latitude, longitude")
    else:
        words = (f"{rms_distance_km(places):.0f} km", "RMS distance to the mean")
    return _card(world, words, size)


def date_card(dates: np.ndarray, size: int) -> Image.Image:
    """``dates`` (rows, 3), year, month, day, on the ring of the year: January at the top, clockwise.

    One row: its value. More: the circular standard deviation of the day of the year, and the years' range.
    """
    days = [date(*(int(part) for part in row)) for row in dates]
    turns = np.array([day.timetuple().tm_yday / date(day.year, 12, 31).timetuple().tm_yday for day in days])
    side = size * _SUPERSAMPLING
    year = Image.new("RGB", (side, side // 2), _SEA)
    draw = ImageDraw.Draw(year)
    centre, radius = (side / 2, side / 4), side * 0.19
    box = [centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius]
    draw.ellipse(box, outline=FADED, width=_SUPERSAMPLING)
    for month in range(12):
        angle = 2.0 * math.pi * month / 12.0
        inner = radius * (0.82 if month % 3 == 0 else 0.9)
        draw.line([_on_ring(centre, inner, angle), _on_ring(centre, radius, angle)], FADED, _SUPERSAMPLING)
    for turn in turns:
        _dot(draw, _on_ring(centre, radius, 2.0 * math.pi * turn), size)
    if len(days) == 1:
        words = (days[0].isoformat(), f"day {days[0].timetuple().tm_yday} of the year")
    else:
        first, last = min(day.year for day in days), max(day.year for day in days)
        words = (f"±{circular_std_days(turns):.0f} days", f"{first}" if first == last else f"{first} to {last}")
    return _card(year, words, size)


def _card(picture: Image.Image, words: Sequence[str], size: int) -> Image.Image:
    card = Image.new("RGB", (size, size), (255, 255, 255))
    card.paste(picture.resize((size, size // 2), Image.Resampling.LANCZOS), (0, 0))
    draw = ImageDraw.Draw(card)
    draw.rectangle([0, 0, size - 1, size - 1], outline=RULE)
    large, small = font(size // 10), font(size // 15)
    draw.text((size / 2, size * 0.66), words[0], INK, large, anchor="mm")
    draw.text((size / 2, size * 0.83), words[1], FADED, small, anchor="mm")
    return card


def _dot(draw: ImageDraw.ImageDraw, centre: tuple[float, float], size: int) -> None:
    radius = size * _SUPERSAMPLING / 42
    box = [centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius]
    draw.ellipse(box, _ACCENT, outline=(255, 255, 255), width=_SUPERSAMPLING)


def _on_ring(centre: tuple[float, float], radius: float, angle: float) -> tuple[float, float]:
    return centre[0] + radius * math.sin(angle), centre[1] - radius * math.cos(angle)


def rms_distance_km(places: np.ndarray) -> float:
    """Root mean square of the great-circle distances of ``places`` (rows, 2), degrees, to their mean direction."""
    lat, lon = np.radians(places.T.astype(np.float64))
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    mean = points.mean(axis=0)
    # atan2 of both products keeps its precision for the metres that arccos would lose.
    angles = np.arctan2(np.linalg.norm(np.cross(points, mean), axis=-1), points @ mean)
    return float(_EARTH_KM * np.sqrt(np.mean(angles**2)))


def circular_std_days(turns: np.ndarray) -> float:
    """Circular standard deviation, in days, of days of the year given as shares of a year.

    sqrt(-2 ln R) radians, with R the length of the mean of their unit vectors.
    """
    resultant = min(1.0, abs(np.exp(2j * np.pi * turns).mean()))
    return float(np.sqrt(-2.0 * np.log(max(resultant, 1e-12))) * 365.25 / (2.0 * np.pi))
