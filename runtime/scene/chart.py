"""A map of a scene as SVG: its outline and windows on the graticule, and where on the earth that is."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

import numpy as np
from numpy.typing import NDArray

from ..modalities import CELL_METRES, PATCH_METRES
from ..raster.window import WGS84, project
from .grid import SceneGrid

_SIDE, _FRAME = 420.0, 34.0
_AROUND = 0.18
"""What is shown around the scene, as a share of its longer side."""
_STEPS = (10.0, 5.0, 2.0, 1.0, 0.5, 0.25, 0.1, 0.05, 0.025, 0.01, 0.005, 0.0025, 0.001)
"""Degrees between the lines of a graticule."""
_BARS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_INK, _FADED, _RULE, _SEA, _ACCENT = "#1c2026", "#686e76", "#b9bec5", "#ecf1f5", "#ce3a28"
_WORLD = (360.0, 180.0)


def draw_map(grid: SceneGrid, overlap: int | None) -> str:
    """Two SVGs: the scene on its graticule, with its windows where ``overlap``, in percent, is known; and the world."""
    return f"{_draw_scene(grid, overlap)} {_draw_world(grid)}"


def _draw_scene(grid: SceneGrid, overlap: int | None) -> str:
    bounds = grid.bounds
    margin = _AROUND * max(grid.width, grid.height)
    west, east = bounds.left - margin, bounds.right + margin
    south, north = bounds.bottom - margin, bounds.top + margin
    scale = _SIDE / max(east - west, north - south)
    width, height = (east - west) * scale, (north - south) * scale

    def place(xs: NDArray[np.float64], ys: NDArray[np.float64]) -> list[tuple[float, float]]:
        across, down = (xs - west) * scale + _FRAME, (north - ys) * scale + _FRAME
        return list(zip(across.round(1).tolist(), down.round(1).tolist(), strict=True))

    parts = [
        f'<clipPath id="frame"><rect x="{_FRAME}" y="{_FRAME}" width="{width:.1f}" height="{height:.1f}"/></clipPath>',
        f'<rect x="{_FRAME}" y="{_FRAME}" width="{width:.1f}" height="{height:.1f}" fill="{_SEA}"/>',
    ]
    labels: list[str] = []
    sides = np.linspace(0.0, 1.0, 33)
    xs = west + (east - west) * np.concatenate([sides, sides, 0 * sides, 0 * sides + 1])
    ys = south + (north - south) * np.concatenate([0 * sides, 0 * sides + 1, sides, sides])
    lons, lats = project(grid.crs, WGS84, xs.tolist(), ys.tolist())
    if np.ptp(lons) > 180.0:
        lons = lons % 360.0
    step = _step(float(max(np.ptp(lons), np.ptp(lats))))
    for is_lon, low, high in ((True, lons.min(), lons.max()), (False, lats.min(), lats.max())):
        for value in _multiples(float(low), float(high), step):
            along = np.linspace(*((lats.min(), lats.max()) if is_lon else (lons.min(), lons.max())), 33)
            fixed = np.full_like(along, value)
            line = project(WGS84, grid.crs, *((fixed.tolist(), along.tolist()) if is_lon else (along, fixed)))
            points = place(line[0], line[1])
            parts.append(_line(points, _RULE, "1", clip=True))
            labels.extend(_label(points, value, step, is_lon, width, height))
    corners = np.array([bounds.left, bounds.right]), np.array([bounds.top, bounds.bottom])
    (x, y), (right, bottom) = place(*corners)
    box = f'x="{x}" y="{y}" width="{right - x:.1f}" height="{bottom - y:.1f}"'
    parts.append(f'<rect {box} fill="{_ACCENT}" fill-opacity="0.14"/>')
    if overlap is not None:
        parts.append(_windows(grid, overlap, x, y, scale))
    parts.append(f'<rect {box} fill="none" stroke="{_ACCENT}" stroke-width="2"/>')
    return _svg(width + 2 * _FRAME, height + 2 * _FRAME + 18, "the scene", [*parts, *labels, _bar(scale, height)])


def _windows(grid: SceneGrid, overlap: int, x: float, y: float, scale: float) -> str:
    """The borders of windows as lines across the scene: a scene may have thousands of windows, but few borders."""
    lines = []
    windows = grid.windows(overlap)
    for axis, (length, across) in enumerate(((grid.height, grid.width), (grid.width, grid.height))):
        edges = {cell[axis] * CELL_METRES + side for cell in windows for side in (0, PATCH_METRES)}
        for edge in sorted(edge for edge in edges if 0 < edge < length):
            at, end = edge * scale, across * scale
            ends = [(x, y + at), (x + end, y + at)] if axis == 0 else [(x + at, y), (x + at, y + end)]
            lines.append("M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in ends))
    return f'<path d="{"".join(lines)}" stroke="{_ACCENT}" stroke-width="0.5" stroke-opacity="0.6" fill="none"/>'


def _step(extent: float) -> float:
    return next((step for step in _STEPS if extent / step >= 3), _STEPS[-1])


def _multiples(low: float, high: float, step: float) -> Iterable[float]:
    return (k * step for k in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1))


def _label(
    points: list[tuple[float, float]], value: float, step: float, is_lon: bool, width: float, height: float
) -> list[str]:
    """What a line of the graticule is called, where it leaves the map at the left or the bottom."""
    digits = max(0, -int(np.floor(np.log10(step) + 1e-9))) + (1 if step in (0.25, 0.025, 0.0025) else 0)
    if is_lon:
        value = (value + 180.0) % 360.0 - 180.0
    name = f"{abs(value):.{digits}f}°{('EW' if is_lon else 'NS')[int(value < 0)]}"
    limit, axis = (height + _FRAME, 1) if is_lon else (_FRAME, 0)
    line = np.array(sorted(points, key=lambda point: point[axis]))
    at = float(np.interp(limit, line[:, axis], line[:, 1 - axis]))
    if not _FRAME <= at <= _FRAME + (width if is_lon else height):
        return []
    if is_lon:
        return [_text(at, height + _FRAME + 13, name, "middle")]
    return [f'<g transform="rotate(-90 {_FRAME - 5:.1f} {at:.1f})">{_text(_FRAME - 5, at, name, "middle")}</g>']


def _bar(scale: float, height: float) -> str:
    metres = 1000 * max((km for km in _BARS if km * 1000 * scale <= _SIDE / 3), default=1)
    y = height + _FRAME + 36
    length = metres * scale
    line = f'<path d="M{_FRAME} {y - 4:.1f}v4h{length:.1f}v-4" stroke="{_INK}" fill="none"/>'
    return line + _text(_FRAME + length + 8, y + 1, f"{metres // 1000} km", "start")


def _draw_world(grid: SceneGrid) -> str:
    bounds = grid.bounds
    x, y = (bounds.left + bounds.right) / 2, (bounds.bottom + bounds.top) / 2
    (lon,), (lat,) = project(grid.crs, WGS84, [x], [y])
    width, height = _WORLD
    parts = [f'<rect width="{width}" height="{height}" fill="{_SEA}"/>']
    for k in range(-180, 181, 30):
        parts.append(_line([(k + 180, 0), (k + 180, height)], _FADED if k == 0 else _RULE, "0.6"))
    for k in range(-90, 91, 30):
        parts.append(_line([(0, 90 - k), (width, 90 - k)], _FADED if k == 0 else _RULE, "0.6"))
    parts.append(f'<circle cx="{lon + 180:.2f}" cy="{90 - lat:.2f}" r="4" fill="{_ACCENT}" stroke="#fff"/>')
    words = f"{abs(lat):.4f}° {'NS'[int(lat < 0)]}, {abs(lon):.4f}° {'EW'[int(lon < 0)]}"
    parts.append(_text(width / 2, height + 16, words, "middle"))
    return _svg(width, height + 22, "where on the earth, lines every 30 degrees", parts)


def _line(points: list[tuple[float, float]], colour: str, width: str, *, clip: bool = False) -> str:
    drawn = " ".join(f"{x:g},{y:g}" for x, y in points)
    clipped = ' clip-path="url(#frame)"' if clip else ""
    return f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="{width}"{clipped}/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    style = f'font-size="11" font-family="system-ui,sans-serif" fill="{_FADED}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _svg(width: float, height: float, title: str, parts: list[str]) -> str:
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><title>{title}</title>{"".join(parts)}</svg>'
