"""Whose pixels a scene lies along."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite

from ...modalities import PATCH_METRES, get
from ..conditions import ANCHOR_RANK
from ..window import STEP_METRES, WGS84, Grid, GroundWindow, project, utm


def find_anchor(grids: Iterable[tuple[str, Grid]]) -> Grid | None:
    """The grid of the best raster that a scene can lie along, from (modality key, grid) pairs; None where none can.

    Sentinel-2 comes first, then Sentinel-1, land cover and elevation; of two alike, the finer, then the first.
    """
    ranked = sorted(grids, key=lambda entry: (ANCHOR_RANK[get(entry[0]).family], entry[1].resolution))
    return next((grid for _, grid in ranked if grid.can_anchor), None)


def window_near(grid: Grid, anchor: Grid | None) -> GroundWindow | None:
    """A window in the middle of ``grid`` on the 60 m steps of ``anchor``, or of the UTM zone; None if none can be."""
    lat, lon = grid.center
    if not isfinite(lat):
        return None
    crs, left, top = (anchor.crs, *anchor.point(0, 0)) if anchor else (utm(lat, lon), 0.0, 0.0)
    (x,), (y,) = project(WGS84, crs, [lon], [lat])
    if not isfinite(x):
        return None
    half = PATCH_METRES / 2
    across, down = round((float(x) - half - left) / STEP_METRES), round((top - float(y) - half) / STEP_METRES)
    return GroundWindow(crs, left + across * STEP_METRES, top - down * STEP_METRES)
