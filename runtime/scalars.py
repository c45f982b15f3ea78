"""Place and date as a user types them."""

from __future__ import annotations

import re
from datetime import date

from .errors import RequestError

FIRST_YEAR = 1950
LAST_YEAR = 2050
"""The years that the model's encoding maps onto [-1, 1]."""

_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_PLACE = re.compile(rf"\s*({_NUMBER})\s*,\s*({_NUMBER})\s*")
_DATE = re.compile(r"\s*([0-9]{4})-([0-9]{2})-([0-9]{2})\s*")


def parse_place(text: str) -> tuple[float, float]:
    """Latitude and longitude in degrees from ``"lat,lon"``.

    Raises :class:`RequestError` where the text is no such pair, or lies outside [-90, 90] x [-180, 180].
    """
    found = _PLACE.fullmatch(text)
    if found is None:
        raise RequestError(
            f"{text!r} is no place; expected latitude,longitude in decimal degrees, such as 37.68,-75.66"
        )
    lat, lon = float(found[1]), float(found[2])
    if not (-90.0 <= lat <= 90.0 and -180.0 <= lon <= 180.0):
        raise RequestError(
            f"place {text!r} is off the globe; expected latitude in [-90, 90] first, then longitude in [-180, 180]"
        )
    return lat, lon


def parse_date(text: str) -> tuple[int, int, int]:
    """Year, month and day from ``"YYYY-MM-DD"``.

    Raises :class:`RequestError` where the text is no such date, the calendar lacks it, or its year is outside
    1950 to 2050, which is all that the model's encoding of a year spans.
    """
    found = _DATE.fullmatch(text)
    if found is None:
        raise RequestError(f"{text!r} is no date; expected YYYY-MM-DD, such as 2024-06-30")
    year, month, day = (int(part) for part in found.groups())
    try:
        date(year, month, day)
    except ValueError as error:
        raise RequestError(f"{text!r} is not in the calendar ({error}); expected YYYY-MM-DD") from None
    if not FIRST_YEAR <= year <= LAST_YEAR:
        raise RequestError(
            f"date {text!r} is outside {FIRST_YEAR} to {LAST_YEAR}, the years that the model can express; give another"
        )
    return year, month, day
