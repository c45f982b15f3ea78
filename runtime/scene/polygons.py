"""Areas as a user gives them: a box in degrees, or the polygons of a GeoJSON file (RFC 7946)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import atan2, cos, degrees, hypot, isfinite, radians, sin
from pathlib import Path
from typing import Any

from ..errors import RequestError
from ..raster.products.documents import read_json

_EXPECTED = "expected GeoJSON (RFC 7946): a Polygon, a MultiPolygon, or features of them, in degrees"

Ring = list[tuple[float, float]]
"""Longitude and latitude of the corners, the first again at the end; beyond 180 where it crosses the antimeridian."""


def bbox_ring(bbox: tuple[float, float, float, float]) -> Ring:
    """The ring around west, south, east and north in degrees; :class:`RequestError` where they are no area."""
    west, south, east, north = bbox
    spelled = ",".join(f"{side:g}" for side in bbox)
    if not all(map(isfinite, bbox)) or not (-90 <= south < north <= 90):
        raise RequestError(f"--bbox {spelled} is no area; expected west,south,east,north in degrees, south below north")
    if not (-180 <= west <= 180 and -180 <= east <= 180) or west == east:
        raise RequestError(f"--bbox {spelled} is no area; expected west and east in [-180, 180], and not the same")
    # West above east is how RFC 7946 writes a box across the antimeridian.
    end = east if west < east else east + 360
    return [(west, north), (end, north), (end, south), (west, south), (west, north)]


def read_rings(path: Path) -> list[Ring]:
    """The outer ring of every polygon of a GeoJSON file; :class:`RequestError` where it holds anything else."""
    called = f"--geometry {path.name}"
    document = read_json(path, called)
    if isinstance(document, dict) and "crs" in document and "CRS84" not in str(document["crs"]):
        raise RequestError(f"{called} names a CRS of its own, which GeoJSON no longer has; {_EXPECTED}: warp it first")
    rings = list(_rings(document, called))
    if not rings:
        raise RequestError(f"{called} holds no polygon; {_EXPECTED}")
    return rings


def _rings(document: Any, called: str) -> Iterator[Ring]:
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "FeatureCollection":
        features = document.get("features")
        for feature in features if isinstance(features, list) else ():
            if not isinstance(feature, dict) or feature.get("type") != "Feature":
                raise RequestError(f"{called} holds something that is no feature; {_EXPECTED}")
            yield from _rings(feature, called)
    elif kind == "Feature":
        yield from _polygons(document.get("geometry"), called)
    else:
        yield from _polygons(document, called)


def _polygons(geometry: Any, called: str) -> Iterator[Ring]:
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise RequestError(f"{called} holds {str(kind)[:40]!r}; {_EXPECTED}")
    coordinates = geometry.get("coordinates")
    for polygon in [coordinates] if kind == "Polygon" else coordinates if isinstance(coordinates, list) else [None]:
        if not isinstance(polygon, list) or not polygon or not isinstance(polygon[0], list) or len(polygon[0]) < 4:
            raise RequestError(f"{called} has a polygon without a ring of at least four points; {_EXPECTED}")
        ring = [_point(point, called) for point in polygon[0]]
        if any(len(set(numbers)) == 1 for numbers in zip(*ring, strict=True)):
            raise RequestError(f"{called} has a polygon that spans no ground; {_EXPECTED}")
        if any(abs(a[0] - b[0]) > 180 for a, b in pairwise(ring)):
            raise RequestError(f"{called} crosses the antimeridian; cut it there into a MultiPolygon, as RFC 7946 says")
        yield ring


def _point(point: Any, called: str) -> tuple[float, float]:
    numbers = point[:2] if isinstance(point, list) else []
    real = [n for n in numbers if isinstance(n, (int, float)) and not isinstance(n, bool) and abs(n) <= 180]
    if len(real) != 2 or abs(real[1]) > 90:
        raise RequestError(f"{called} has the point {str(point)[:60]}, which is no longitude and latitude; {_EXPECTED}")
    return float(real[0]), float(real[1])


def middle(rings: Sequence[Ring]) -> tuple[float, float]:
    """Latitude and longitude in the middle of some rings, wherever the antimeridian is."""
    lons, lats = zip(*(point for ring in rings for point in ring), strict=True)
    x, y = sum(cos(radians(lon)) for lon in lons), sum(sin(radians(lon)) for lon in lons)
    return (min(lats) + max(lats)) / 2, degrees(atan2(y, x)) if hypot(x, y) > 1e-9 else 0.0
