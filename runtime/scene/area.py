"""Where a scene is: on whose pixels, and from where to where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import ceil, floor, isfinite
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.coords import BoundingBox
from rasterio.crs import CRS

from ..errors import RequestError
from ..modalities import PATCH_METRES, get
from ..raster.products import SceneSource
from ..raster.products.anchor import find_anchor
from ..raster.window import STEP_METRES, WGS84, Grid, project, utm
from .grid import SceneGrid
from .polygons import Ring, bbox_ring, middle, read_rings

_SLACK = 1e-3
"""Steps of 60 m that float noise in a corner may amount to."""

_WIDEST = 90.0
"""Degrees of longitude beyond which an outline no longer has its area on one side in every projection."""

_MOST_CHECKED = 64
"""Points of an outline at which the grid is held to true metres."""

_FAR = 100_000.0
"""Metres around the scene within which a raster counts: more than the neighbours of a mosaic's first tile reach."""

_ALONG = 17
"""Points along a side, which is curved in another CRS."""


@dataclass(frozen=True)
class _Lattice:
    """The pixels that a scene lies along. ``anchor`` is the raster whose they are, None for those of a UTM zone."""

    crs: CRS
    left: float
    top: float
    anchor: Grid | None

    def steps(self, bounds: BoundingBox, *, inwards: bool) -> tuple[int, int, int, int]:
        """First column, first row, end column, end row of 60 m, rounded ``inwards`` or outwards."""
        low, high = (ceil, floor) if inwards else (floor, ceil)
        # Noise must not cost a step inwards, nor add one outwards.
        slack = _SLACK if inwards else -_SLACK
        return (
            low((bounds.left - self.left) / STEP_METRES - slack),
            low((self.top - bounds.top) / STEP_METRES - slack),
            high((bounds.right - self.left) / STEP_METRES + slack),
            high((self.top - bounds.bottom) / STEP_METRES + slack),
        )


def choose_grid(
    sources: Sequence[SceneSource],
    *,
    bbox: tuple[float, float, float, float] | None = None,
    geometry: Path | None = None,
) -> tuple[SceneGrid, tuple[str, ...]]:
    """The grid of a scene, and what is worth saying about it.

    ``bbox`` is west, south, east and north in degrees, west above east where it crosses the antimeridian; ``geometry``
    is a GeoJSON file, of which the bounding rectangle on the grid counts; without either, the scene is where all
    sources overlap. The grid is that of the Sentinel-2 input, else of the best that can anchor one, else of the
    area's UTM zone. Its corner is a multiple of 60 m from that raster's, so that pixels are copied.

    Raises :class:`RequestError` where nothing says where the scene is, two sources do not meet, a source lies outside
    the area, or the area is none.
    """
    if bbox is not None and geometry is not None:
        raise RequestError("both --bbox and --geometry were given; the area is chosen by one of them: leave one out")
    if not sources and bbox is None and geometry is None:
        raise RequestError("no raster says where the scene is; give it with --bbox west,south,east,north or --geometry")
    rings = [bbox_ring(bbox)] if bbox is not None else read_rings(geometry) if geometry is not None else []
    said = "--bbox" if bbox is not None else "--geometry"
    lattice = _lattice(sources, rings)
    bounds = _bounds(rings, lattice, said) if rings else None
    near = _near(sources, lattice, bounds)
    footprints = {source.key: _footprint(source, lattice.crs, near) for source in sources}
    if bounds is not None:
        for key, footprint in footprints.items():
            if footprint is None or not _meet(bounds, footprint):
                raise RequestError(f"{key} does not meet {said}; choose another area, or leave that condition out")
        notes = [f"area: {said}, its bounding rectangle on the grid"]
    else:
        bounds = _overlap(footprints, lattice.crs)
        families = dict.fromkeys(get(source.key).family for source in sources)
        notes = [f"area: where {' and '.join(families)} overlap" if len(families) > 1 else "area: all of the input"]
    grid, grown = _grid(lattice, bounds, inwards=not rings)
    if grown:
        notes.append(grown)
    notes.extend(_coverage(grid, footprints))
    whose = f"pixels of {lattice.anchor.name}" if lattice.anchor else "the UTM zone's own, as no input can be followed"
    notes.append(
        f"grid: {_spell(lattice.crs)}, {whose}; upper-left corner {grid.left:.10g}, {grid.top:.10g}; "
        f"{grid.width / 1000:g} x {grid.height / 1000:g} km"
    )
    return grid, tuple(notes)


def _spell(crs: CRS) -> str:
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else crs.to_string().split("[")[0]


def _lattice(sources: Sequence[SceneSource], rings: Sequence[Ring]) -> _Lattice:
    anchor = find_anchor((source.key, grid) for source in sources for grid in source.grids)
    if anchor is not None:
        return _Lattice(anchor.crs, *anchor.point(0, 0), anchor)
    lat, lon = middle(rings) if rings else sources[0].grids[0].center
    if not isfinite(lat):
        raise RequestError(
            f"the middle of {sources[0].grids[0].name} is nowhere on the earth; give it its own CRS first"
        )
    return _Lattice(utm(lat, lon), 0.0, 0.0, None)


def _bounds(rings: Sequence[Ring], lattice: _Lattice, said: str) -> BoundingBox:
    """The bounding rectangle of rings on the grid; :class:`RequestError` where its metres are none on the ground."""
    xs, ys = (np.concatenate(parts) for parts in zip(*(_project(ring, lattice.crs) for ring in rings), strict=True))
    box = BoundingBox(float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max()))
    some = slice(None, None, -(-len(xs) // _MOST_CHECKED))
    places = [*zip(xs[some], ys[some], strict=True), *product((box.left, box.right), (box.bottom, box.top))]
    # Whether a window there could be laid along the grid's pixels.
    wide = max(max(lon for lon, _ in ring) - min(lon for lon, _ in ring) for ring in rings)
    true = (
        wide < _WIDEST
        and np.isfinite(places).all()
        and all(Grid("", lattice.crs, Affine(10, 0, x - 960, 0, -10, y + 960), 192, 192).can_anchor for x, y in places)
    )
    if not true:
        crossed = (
            " (west lies above east, so it crosses the antimeridian)"
            if max(lon for ring in rings for lon, _ in ring) > 180
            else ""
        )
        raise RequestError(
            f"{said}{crossed} reaches too far from {_spell(lattice.crs)}, the grid of the scene, for its metres to be "
            "true; choose a smaller area, or inputs of that place"
        )
    return box


def _project(ring: Ring, crs: CRS) -> NDArray[np.float64]:
    xs, ys = _densified(ring)
    return project(WGS84, crs, xs.tolist(), ys.tolist())


def _densified(ring: Ring) -> NDArray[np.float64]:
    """Points along the sides of a ring, (2, n)."""
    points = np.array(ring, dtype=np.float64)
    share = np.linspace(0, 1, _ALONG)[:, None, None]
    return (points[:-1] * (1 - share) + points[1:] * share).reshape(-1, 2).T


# Areas of rasters


def _near(sources: Sequence[SceneSource], lattice: _Lattice, bounds: BoundingBox | None) -> BoundingBox | None:
    """Where the scene can be, and far around; None where nothing on the grid says it."""
    if bounds is None and lattice.anchor is None:
        return None
    box = bounds or _around([grid.bounds for source in sources for grid in source.grids if grid.crs == lattice.crs])
    return BoundingBox(box.left - _FAR, box.bottom - _FAR, box.right + _FAR, box.top + _FAR)


def _around(boxes: Sequence[BoundingBox]) -> BoundingBox:
    return BoundingBox(
        min(box.left for box in boxes),
        min(box.bottom for box in boxes),
        max(box.right for box in boxes),
        max(box.top for box in boxes),
    )


def _footprint(source: SceneSource, crs: CRS, near: BoundingBox | None) -> BoundingBox | None:
    """The rectangle that the rasters of a source fill, together; None where none is ``near``, or the CRS has none."""
    boxes = [box for grid in source.grids if (box := _filled(grid, crs, near)) is not None]
    return _around(boxes) if boxes else None


def _filled(grid: Grid, crs: CRS, near: BoundingBox | None) -> BoundingBox | None:
    """The rectangle within the part of one raster that is ``near``; its bounds where it lies too slanting to hold
    one."""
    if grid.crs == crs and not grid.transform.b and not grid.transform.d:
        return grid.bounds
    left, top, right, bottom = 0, 0, grid.width, grid.height
    if near is not None:
        # The sides of half a world have no place in a projection that is true here.
        xs, ys = (near.left, near.right), (near.bottom, near.top)
        ring = [(xs[0], ys[0]), (xs[0], ys[1]), (xs[1], ys[1]), (xs[1], ys[0]), (xs[0], ys[0])]
        cols, rows = grid.pixels(crs, *_densified(ring))
        if not (np.isfinite(cols).all() and np.isfinite(rows).all()):
            return None
        left, right = max(left, floor(cols.min())), min(right, ceil(cols.max()))
        top, bottom = max(top, floor(rows.min())), min(bottom, ceil(rows.max()))
        if left >= right or top >= bottom:
            return None
    across, down = np.linspace(left, right, _ALONG), np.linspace(top, bottom, _ALONG)
    sides = [
        [grid.point(col, row) for col, row in side]
        for side in (
            [(left, row) for row in down],
            [(right, row) for row in down],
            [(col, top) for col in across],
            [(col, bottom) for col in across],
        )
    ]
    moved = [project(grid.crs, crs, [x for x, _ in side], [y for _, y in side]) for side in sides]
    if not np.isfinite(moved).all():
        return None
    (first, last), (upper, lower) = ([side[0] for side in moved[:2]], [side[1] for side in moved[2:]])
    if first.mean() > last.mean():
        first, last = last, first
    if upper.mean() < lower.mean():
        upper, lower = lower, upper
    box = BoundingBox(float(first.max()), float(lower.max()), float(last.min()), float(upper.min()))
    if box.left < box.right and box.bottom < box.top:
        return box
    xs, ys = np.concatenate(moved, axis=1)
    return BoundingBox(float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max()))


def _meet(a: BoundingBox, b: BoundingBox) -> bool:
    return max(a.left, b.left) < min(a.right, b.right) and max(a.bottom, b.bottom) < min(a.top, b.top)


def _overlap(footprints: dict[str, BoundingBox | None], crs: CRS) -> BoundingBox:
    known = {key: box for key, box in footprints.items() if box is not None}
    for key in footprints:
        if key not in known:
            raise RequestError(
                f"{key} is nowhere near the scene's grid in {_spell(crs)}; give rasters of one place, each in "
                "the CRS that is its own, or leave one out"
            )
    # Of rectangles that meet two by two, all meet in one.
    for (a, left), (b, right) in combinations(known.items(), 2):
        if not _meet(left, right):
            raise RequestError(f"{a} and {b} do not overlap; give rasters of one place, or leave one out")
    boxes = list(known.values())
    return BoundingBox(
        max(box.left for box in boxes),
        max(box.bottom for box in boxes),
        min(box.right for box in boxes),
        min(box.top for box in boxes),
    )


# The grid


def _grid(lattice: _Lattice, bounds: BoundingBox, *, inwards: bool) -> tuple[SceneGrid, str]:
    left, top, right, bottom = lattice.steps(bounds, inwards=inwards)
    if right <= left or bottom <= top:
        raise RequestError(
            f"the inputs overlap in {bounds.right - bounds.left:.0f} x {bounds.top - bounds.bottom:.0f} m, less than a "
            f"pixel of {STEP_METRES} m; give rasters that share more ground"
        )
    limits = lattice.steps(lattice.anchor.bounds, inwards=True) if lattice.anchor else None
    across = _grown(left, right, (limits[0], limits[2]) if limits else None, within=inwards)
    down = _grown(top, bottom, (limits[1], limits[3]) if limits else None, within=inwards)
    grown = ""
    if (across, down) != ((left, right), (top, bottom)):
        was = f"{(right - left) * STEP_METRES} x {(bottom - top) * STEP_METRES} m"
        now = f"{(across[1] - across[0]) * STEP_METRES} x {(down[1] - down[0]) * STEP_METRES} m"
        grown = f"area: grown from {was} to {now}, as a window of the model is {PATCH_METRES} m"
    return SceneGrid(
        lattice.crs,
        lattice.left + across[0] * STEP_METRES,
        lattice.top - down[0] * STEP_METRES,
        (across[1] - across[0]) * STEP_METRES,
        (down[1] - down[0]) * STEP_METRES,
    ), grown


def _grown(start: int, end: int, limits: tuple[int, int] | None, *, within: bool) -> tuple[int, int]:
    """A side of at least one window, moved into the anchor's where that has room; ``within``, it never leaves it."""
    side = PATCH_METRES // STEP_METRES
    if end - start >= side or (within and limits is None):
        return start, end
    if limits is not None and within:
        side = min(side, limits[1] - limits[0])
    first = start - (side - (end - start)) // 2
    if limits is not None and limits[0] <= start and end <= limits[1] and limits[1] - limits[0] >= side:
        first = min(max(first, limits[0]), limits[1] - side)
    return first, first + side


def _coverage(grid: SceneGrid, footprints: dict[str, BoundingBox | None]) -> Iterator[str]:
    scene = grid.bounds
    for key, box in footprints.items():
        if box is None:
            continue
        width = min(scene.right, box.right) - max(scene.left, box.left)
        height = min(scene.top, box.top) - max(scene.bottom, box.bottom)
        share = max(0.0, width) * max(0.0, height) / (grid.width * grid.height)
        # A raster that ends between two steps of 60 m is as good as one that reaches the next.
        if share < 0.999:
            yield f"{key}: its rasters span {share:.0%} of the scene; it is absent elsewhere"
