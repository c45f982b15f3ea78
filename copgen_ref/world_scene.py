"""A scene of the made-up world as rasters with a real georeference: elevation, land cover, radar, optical, clouds.

It needs no download, so a first run and the tests have something to read. Nothing in it is a measurement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date as Date  # noqa: N812
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from ..runtime.errors import RequestError
from ..runtime.folders import whole_file
from ..runtime.modalities import CELL_METRES, MODALITIES, PATCH_METRES, Modality
from ..runtime.raster.storage import Storage, of_values
from ..runtime.raster.window import STEP_METRES, WGS84, project, utm
from ..runtime.raster.write import write_geotiff
from .world import draw

# Chosen by eye, of seeds that the small model has not seen: the middle 1.92 km have a river, woods, fields and a wide,
# steep slope away from a low sun, small clouds with their shadows, and a little snow.
SEED = 5624
WEATHER = 234
PLACE = (42.61, 107.97)
DATE = Date(2021, 10, 15)
SIZE = 2 * PATCH_METRES

_MARGIN = CELL_METRES // 2
"""Metres that the elevation reaches beyond the rest, so that a window at the edge can interpolate it. Windows on the
scene's own grid need none."""

_OFFSETS = {"S2L1C": "RADIO_ADD_OFFSET", "S2L2A": "BOA_ADD_OFFSET"}


@dataclass(frozen=True)
class WorldScene:
    """Where a scene lies: rasters and folders of bands, the centre (latitude, longitude in degrees), and its date."""

    dem: Path
    lulc: Path
    s1rtc: Path
    s2l1c: Path
    s2l2a: Path
    cloud_mask: Path
    center: tuple[float, float]
    date: Date


def write_world_scene(
    folder: Path,
    *,
    seed: int = SEED,
    place: tuple[float, float] | None = PLACE,
    date: Date | None = DATE,
    weather: int = WEATHER,
    size: int = SIZE,
) -> WorldScene:
    """Write one draw of the world into ``folder`` (made where missing) and tell where it is.

    ``seed``, ``weather``, ``place`` (latitude, longitude in degrees) and ``date`` are those of
    :func:`~copgen_edge.copgen_ref.world.draw`; None leaves place or date to the seed. The flat world is laid on the UTM
    zone of its place as it is, ``size`` metres a side (a multiple of 480 from 1920 on), its upper left corner on a
    multiple of 60 m:

    - ``DEM.tif``: float32 metres at 30 m, 240 m wider on every side;
    - ``LULC.tif``, ``cloud_mask.tif``: uint8 codes at 10 m with their colours, nodata 0 and 255;
    - ``S1RTC.tif``: float32 linear power (gamma nought) at 10 m, bands ``vv`` and ``vh``, nodata NaN;
    - ``S2L1C/B01.tif`` .. ``B12.tif``, ``S2L2A/`` the same without B10: uint16 DN at 10, 20 or 60 m, nodata 0.

    The same arguments give the same arrays. Each file is written beside its name and then renamed, so a name never
    holds half a raster. Raises :class:`RequestError` for what the world cannot draw or a folder that cannot be made,
    and :class:`~copgen_edge.runtime.errors.CopgenError` where a file cannot be written.
    """
    if size < PATCH_METRES or size % CELL_METRES:
        raise RequestError(f"found size {size} m, expected a multiple of {CELL_METRES} m from {PATCH_METRES} m on")
    rows = draw(seed, weather=weather, place=place, date=date, size=size + 2 * _MARGIN)
    (latitude, longitude), day = rows["3d_cartesian_lat_lon"][0], Date(*rows["mean_timestamps"][0].tolist())
    crs, left, top = _corner(float(latitude), float(longitude), size)
    tags = {
        "TITLE": "copgen-edge scene of a made-up world",
        "SEED": str(seed),
        "WEATHER": str(weather),
        "DATE": day.isoformat(),
    }
    for m in MODALITIES:
        if not m.is_image:
            continue
        wider = _MARGIN if m.family == "DEM" else 0
        first, last = (_MARGIN - wider) // m.resolution, (_MARGIN + size + wider) // m.resolution
        grid = Affine(m.resolution, 0, left - wider, 0, -m.resolution, top + wider)
        _write_modality(folder, m, rows[m.key][0, :, first:last, first:last], crs, grid, tags)
    (lon,), (lat,) = project(crs, WGS84, [left + size / 2], [top - size / 2])
    return WorldScene(
        dem=folder / "DEM.tif",
        lulc=folder / "LULC.tif",
        s1rtc=folder / "S1RTC.tif",
        s2l1c=folder / "S2L1C",
        s2l2a=folder / "S2L2A",
        cloud_mask=folder / "cloud_mask.tif",
        center=(float(lat), float(lon)),
        date=day,
    )


def _corner(latitude: float, longitude: float, size: int) -> tuple[CRS, int, int]:
    """The grid of a place and the scene's upper left corner on it, in metres."""
    crs = utm(latitude, longitude)
    (x,), (y,) = project(WGS84, crs, [longitude], [latitude])
    left, top = (STEP_METRES * round(float(side) / STEP_METRES) for side in (x - size / 2, y + size / 2))
    return crs, left, top


def _write_modality(
    folder: Path, m: Modality, pixels: NDArray[Any], crs: CRS, grid: Affine, tags: Mapping[str, str]
) -> None:
    storage = of_values(m)
    if m.kind != "reflectance":
        _write_whole(folder / f"{m.family}.tif", pixels, storage, crs, grid, tags)
        return
    # Without it a reader would have to guess whether the DN carry the offset of baseline 04.00.
    said = {**tags, _OFFSETS[m.family]: "0"}
    for band, values in zip(m.bands, pixels, strict=True):
        path = folder / m.family / f"{band}.tif"
        stored = values[np.newaxis].astype(np.uint16)
        _write_whole(path, stored, replace(storage, descriptions=[band]), crs, grid, said)


def _write_whole(
    path: Path, pixels: NDArray[Any], storage: Storage, crs: CRS, grid: Affine, tags: Mapping[str, str]
) -> None:
    with whole_file(path) as partial:
        write_geotiff(partial, pixels, storage, crs=crs, transform=grid, tags=tags)
