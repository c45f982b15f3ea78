"""The ground window: which 1920 m square of the earth a request is about.

A window is a place on the ground and not a range of pixels, so that rasters at 10, 20, 30 and 60 m, and rasters in
another CRS, can all be read for the same square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, hypot, isfinite, pi

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # what rasterio.warp.transform raises; rasterio.errors has no name for it
from rasterio.coords import BoundingBox
from rasterio.crs import CRS
from rasterio.io import DatasetReader
from rasterio.warp import transform as warp_points

from ..errors import RasterError, RequestError
from ..modalities import PATCH_METRES

STEP_METRES = 60
"""Windows start on multiples of this from a raster's corner: whole pixels at 10, 20, 30 and 60 m."""

WGS84 = CRS.from_epsg(4326)

_PIXEL_SLACK = 1e-3
"""Pixels that float noise in a transform may amount to."""

_MAX_DISTORTION = 0.02
"""How far a metre of the grid may be from one on the ground. UTM stays within 0.001; Web Mercator is 1.0 at 60 N."""


def project(source: CRS, target: CRS, xs: Sequence[float], ys: Sequence[float]) -> NDArray[np.float64]:
    """Points of ``source`` in ``target``, (2, n), x or longitude first; NaN where either CRS has no such point."""
    try:
        moved = warp_points(source, target, xs, ys)
    except CPLE_BaseError:
        return np.full((2, len(xs)), np.nan)
    points = np.array(moved[:2], dtype=np.float64)
    points[:, ~np.isfinite(points).all(axis=0)] = np.nan
    return points


@dataclass(frozen=True)
class GroundWindow:
    """A square of 1920 m, north up, on a projected grid in metres. ``left`` and ``top`` are its upper-left corner."""

    crs: CRS
    left: float
    top: float

    def transform(self, resolution: int) -> Affine:
        """The geotransform of the window's pixels at ``resolution`` metres."""
        return Affine(float(resolution), 0.0, self.left, 0.0, -float(resolution), self.top)

    @property
    def bounds(self) -> BoundingBox:
        """Left, bottom, right, top in metres of the window's CRS."""
        return BoundingBox(self.left, self.top - PATCH_METRES, self.left + PATCH_METRES, self.top)

    @property
    def center(self) -> tuple[float, float]:
        """Latitude and longitude of the middle, in degrees (WGS84)."""
        half = PATCH_METRES / 2
        (lon,), (lat,) = project(self.crs, WGS84, [self.left + half], [self.top - half])
        return float(lat), float(lon)


@dataclass(frozen=True)
class Grid:
    """Where a raster's pixels lie. ``name`` is how messages call the raster."""

    name: str
    crs: CRS
    transform: Affine
    width: int
    height: int

    @classmethod
    def of(cls, dataset: DatasetReader, name: str) -> Grid:
        """The grid of an open raster; :class:`RasterError` where it has no place on the earth."""
        if dataset.crs is None:
            raise RasterError(f"{name} has no CRS; expected a georeferenced raster: assign its CRS (gdal_edit -a_srs)")
        if dataset.transform == Affine.identity() or dataset.transform.is_degenerate:
            raise RasterError(f"{name} has a CRS but no geotransform; expected a georeferenced raster: warp it first")
        return cls(name, dataset.crs, dataset.transform, dataset.width, dataset.height)

    def point(self, col: float, row: float) -> tuple[float, float]:
        """The x and y of a place among the pixels, whose own corners are whole numbers."""
        t = self.transform
        return t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f

    @property
    def resolution(self) -> float:
        """Pixel width, in units of the CRS."""
        return hypot(self.transform.a, self.transform.d)

    @property
    def center(self) -> tuple[float, float]:
        """Latitude and longitude of the middle, in degrees (WGS84); NaN where the CRS does not reach it."""
        x, y = self.point(self.width / 2, self.height / 2)
        (lon,), (lat,) = project(self.crs, WGS84, [x], [y])
        return float(lat), float(lon)

    @property
    def bounds(self) -> BoundingBox:
        """Left, bottom, right, top of all its pixels, rotated or not, in units of the CRS."""
        corners = [self.point(col, row) for col in (0, self.width) for row in (0, self.height)]
        xs, ys = zip(*corners, strict=True)
        return BoundingBox(min(xs), min(ys), max(xs), max(ys))

    @property
    def can_anchor(self) -> bool:
        """Whether a window can lie along its pixels: north up, square, in metres that are metres on the ground."""
        t = self.transform
        square = max(abs(t.b), abs(t.d)) <= 1e-9 * t.a and abs(t.a + t.e) <= 1e-3 * t.a
        if not (square and self.crs.is_projected and self.crs.linear_units_factor[1] == 1.0):
            return False
        lat, lon = self.center
        if not isfinite(lat):
            return False
        x, y = self.point(self.width / 2, self.height / 2)
        half = PATCH_METRES / 2
        east, north = project(self.crs, utm(lat, lon), [x - half, x + half, x, x], [y, y, y - half, y + half])
        sides = np.hypot(east[1::2] - east[::2], north[1::2] - north[::2])
        return bool((np.abs(sides / PATCH_METRES - 1) < _MAX_DISTORTION).all())

    def span(self, window: GroundWindow) -> tuple[float, float, float, float]:
        """The pixels that hold ``window``: first column, first row, end column, end row; NaN where there are none."""
        # Points along the sides, since a straight side is curved in another CRS.
        along = np.linspace(0.0, PATCH_METRES, 33)
        zero, full = np.zeros_like(along), np.full_like(along, PATCH_METRES)
        xs = window.left + np.concatenate([along, along, zero, full])
        ys = window.top - np.concatenate([zero, full, along, along])
        cols, rows = self.pixels(window.crs, xs, ys)
        return float(cols.min()), float(rows.min()), float(cols.max()), float(rows.max())

    def oversampling(self, window: GroundWindow, resolution: int) -> float:
        """How many pixels of the raster, along a side, one pixel of the window at ``resolution`` metres holds."""
        east, south = np.array([0.0, PATCH_METRES, PATCH_METRES]), np.array([0.0, 0.0, PATCH_METRES])
        cols, rows = np.diff(self.pixels(window.crs, window.left + east, window.top - south))
        return float(np.sqrt(abs(cols[0] * rows[1] - cols[1] * rows[0]))) * resolution / PATCH_METRES

    def pixels(
        self, crs: CRS, xs: NDArray[np.float64], ys: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Columns and rows, (n,) each, of points in ``crs``; NaN where the raster's CRS has no such point."""
        if crs != self.crs:
            xs, ys = project(crs, self.crs, xs.tolist(), ys.tolist())
            if self.crs.is_geographic:
                # A raster across the antimeridian, or from 0 to 360, has longitudes that no projection gives.
                turn = 2 * pi / self.crs.units_factor[1]
                xs = xs + turn * np.round((self.point(self.width / 2, self.height / 2)[0] - xs) / turn)
        inverse = ~self.transform
        return inverse.a * xs + inverse.b * ys + inverse.c, inverse.d * xs + inverse.e * ys + inverse.f

    def covers(self, window: GroundWindow) -> bool:
        """Whether every pixel of ``window`` lies within the raster."""
        left, top, right, bottom = self.span(window)
        slack = _PIXEL_SLACK
        return left >= -slack and top >= -slack and right <= self.width + slack and bottom <= self.height + slack

    def require(self, window: GroundWindow) -> None:
        """Raise :class:`RasterError` where the raster does not cover ``window``."""
        if self.covers(window):
            return
        needed = window.bounds
        corners = project(
            window.crs,
            self.crs,
            [needed.left, needed.right, needed.left, needed.right],
            [needed.top, needed.top, needed.bottom, needed.bottom],
        )
        lat, lon = window.center
        wanted = _spell(BoundingBox(*corners.min(axis=1), *corners.max(axis=1)))
        raise RasterError(
            f"{self.name} does not cover the window: it spans {_spell(self.bounds)} ({_crs_name(self.crs)}), and the "
            f"window around {lat:.5f},{lon:.5f} {wanted if np.isfinite(corners).all() else 'none of that CRS'}; "
            "choose another with --center or --window"
        )


def choose_window(
    grids: Sequence[Grid],
    *,
    center: tuple[float, float] | None = None,
    pixel: tuple[int, int] | None = None,
    place: tuple[float, float] | None = None,
) -> tuple[GroundWindow, tuple[str, ...]]:
    """The window of a request, and what is worth saying about it.

    ``grids`` are those of the condition rasters, the preferred one first: the first that can anchor a window is the
    reference, and the window starts a multiple of 60 m from its upper-left corner. Without one, the window lies on
    multiples of 60 m of the UTM zone, where the first grid leaves room for that. ``center`` and ``place`` are latitude
    and longitude in degrees; ``pixel`` is the window's upper-left corner as column and row of the reference. Without
    ``center`` and ``pixel`` it is the middle of the reference, or of the first grid, or ``place``.

    Raises :class:`RequestError` where nothing says where the window is, and :class:`RasterError` where it leaves the
    reference.
    """
    if center is not None and pixel is not None:
        raise RequestError("both --center and --window were given; the window is chosen by one of them: leave one out")
    anchor = next((grid for grid in grids if grid.can_anchor), None)
    if pixel is not None:
        return _at_pixel(anchor, grids, pixel)
    if anchor is None:
        where = center or (grids[0].center if grids else place)
        if where is None:
            raise RequestError("no raster and no place says where the window is; give it with --center lat,lon")
        if not isfinite(where[0]):
            raise RasterError(f"the middle of {grids[0].name} is nowhere on the earth; give the window by --center")
        return _on_utm(*where, grids)
    if center is None:
        return _in_the_middle(anchor)
    return _around(anchor, center)


def utm(lat: float, lon: float) -> CRS:
    """The UTM zone (WGS84) of a place in degrees, or the polar stereographic one beyond 84 N and 80 S."""
    if lat > 84.0:
        return CRS.from_epsg(32661)
    if lat < -80.0:
        return CRS.from_epsg(32761)
    zone = int((lon + 180.0) // 6) % 60 + 1
    return CRS.from_epsg((32600 if lat >= 0 else 32700) + zone)


def _crs_name(crs: CRS) -> str:
    return crs.to_string().split("[")[0] if crs.to_epsg() is None else f"EPSG:{crs.to_epsg()}"


def _spell(bounds: BoundingBox) -> str:
    return f"{bounds.left:.10g}..{bounds.right:.10g}, {bounds.bottom:.10g}..{bounds.top:.10g}"


def _at_pixel(
    anchor: Grid | None, grids: Sequence[Grid], pixel: tuple[int, int]
) -> tuple[GroundWindow, tuple[str, ...]]:
    if anchor is None:
        found = f"{grids[0].name} is in {_crs_name(grids[0].crs)}" if grids else "no raster was given"
        raise RequestError(
            f"--window counts pixels of a north-up raster in a CRS of true metres, but {found}; use --center lat,lon"
        )
    col, row = pixel
    window = GroundWindow(anchor.crs, *anchor.point(col, row))
    if not anchor.covers(window):
        side = PATCH_METRES / anchor.resolution
        raise RasterError(
            f"window {col},{row} leaves {anchor.name}, which has {anchor.width} x {anchor.height} pixels: a window "
            f"needs {side:g} x {side:g} of them; choose another with --window or --center"
        )
    notes = [f"window: starts at column {col}, row {row} of {anchor.name}"]
    steps = [offset * anchor.resolution / STEP_METRES for offset in pixel]
    if any(abs(step - round(step)) > 1e-6 for step in steps):
        notes.append(
            f"window: {col},{row} is no multiple of {STEP_METRES} m from that raster's corner, so bands at other "
            "resolutions may have to be resampled"
        )
    return window, tuple(notes)


def _steps_that_fit(anchor: Grid) -> tuple[int, int]:
    width, height = anchor.width * anchor.resolution, anchor.height * anchor.resolution
    slack = _PIXEL_SLACK * anchor.resolution
    if min(width, height) < PATCH_METRES - slack:
        raise RasterError(
            f"{anchor.name} is {width:g} m x {height:g} m; a window needs {PATCH_METRES} m x {PATCH_METRES} m: "
            "give a larger raster"
        )
    return (floor((width - PATCH_METRES + slack) / STEP_METRES), floor((height - PATCH_METRES + slack) / STEP_METRES))


def _in_the_middle(anchor: Grid) -> tuple[GroundWindow, tuple[str, ...]]:
    across, down = (steps // 2 for steps in _steps_that_fit(anchor))
    left, top = anchor.transform.c + across * STEP_METRES, anchor.transform.f - down * STEP_METRES
    return GroundWindow(anchor.crs, left, top), (f"window: the middle of {anchor.name}",)


def _around(anchor: Grid, center: tuple[float, float]) -> tuple[GroundWindow, tuple[str, ...]]:
    (x,), (y,) = project(WGS84, anchor.crs, [center[1]], [center[0]])
    if not isfinite(x):
        raise RasterError(f"--center {center[0]:g},{center[1]:g} is far from {anchor.name}; choose a place on it")
    half = PATCH_METRES / 2
    exact = GroundWindow(anchor.crs, float(x) - half, float(y) + half)
    across = round((exact.left - anchor.transform.c) / STEP_METRES)
    down = round((anchor.transform.f - exact.top) / STEP_METRES)
    if anchor.covers(exact):
        # Rounding to the next step must not push a window off a raster that holds it.
        most = _steps_that_fit(anchor)
        across, down = min(across, most[0]), min(down, most[1])
    window = GroundWindow(
        anchor.crs, anchor.transform.c + across * STEP_METRES, anchor.transform.f - down * STEP_METRES
    )
    anchor.require(window)
    moved = hypot(window.left - exact.left, window.top - exact.top)
    return window, (f"window: {moved:.1f} m from --center, on the {STEP_METRES} m steps of {anchor.name}",)


def _on_utm(lat: float, lon: float, grids: Sequence[Grid]) -> tuple[GroundWindow, tuple[str, ...]]:
    crs = utm(lat, lon)
    (x,), (y,) = project(WGS84, crs, [lon], [lat])
    half = PATCH_METRES / 2
    exact = GroundWindow(crs, float(x) - half, float(y) + half)
    left, top = (float(STEP_METRES * round(side / STEP_METRES)) for side in (exact.left, exact.top))
    window = GroundWindow(crs, left, top)
    if grids and grids[0].covers(exact) and not grids[0].covers(window):
        window = exact
    why = f"{grids[0].name} is in {_crs_name(grids[0].crs)}, not north up in metres" if grids else "no raster was given"
    return window, (f"window: on the UTM grid {_crs_name(crs)}, since {why}",)
