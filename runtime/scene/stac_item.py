"""The result of a scene as a STAC item: where, when, what of, which files, and how they were made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timezone
from pathlib import Path
from typing import Any

import numpy as np
import pystac
from pystac.utils import str_to_datetime
from rasterio.io import DatasetReader

from ..errors import CopgenError
from ..folders import whole_file
from ..raster.window import WGS84, project
from ..weights import words_for
from .blocks import reading
from .grid import SceneGrid
from .page import PAGE

ITEM = "item.json"

_EXTENSIONS = (
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
)
_POINTS = 8
"""Points along a side of the footprint: a straight side is curved in another CRS."""

_SHA256_MULTIHASH = "1220"
"""Multihash of SHA-256 (code 12, 20 hexadecimal bytes long)."""

Ring = list[tuple[float, float]]


def write_item(folder: Path, grid: SceneGrid, files: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> Path:
    """Write ``item.json`` into ``folder`` and return its path.

    ``files`` are entries of files in ``folder``: ``file`` (name), ``modality`` (a key or None), ``kind``, ``sample`` (a
    number or None), ``sha256``. ``result`` is :func:`~..provenance.describe_run`'s dictionary with, where known,
    ``samples`` (their number), ``date`` (a day YYYY-MM-DD for each sample, where dates were generated),
    ``condition_date`` (a day, where it was given), ``grid``, ``seams`` and ``missing``.

    The item is dated by the day given, or those generated, or when it was made. STAC 1.0 or 1.1, as the installed
    pystac writes it, with the projection, raster, processing and file extensions; what has no field there is below
    ``copgen:``. Footprints across the antimeridian are cut there (RFC 7946, 3.1.9).

    Raises :class:`RasterError` where a raster of ``files`` cannot be read, and :class:`CopgenError` where the item
    cannot be written.
    """
    geometry, bbox = footprint(grid)
    days = sorted({day for day in (result.get("condition_date"), *(result.get("date") or ())) if day})
    properties = {**_made(result), **_projection(grid), "created": _stamp(result["created"])}
    if days:
        properties |= {"start_datetime": f"{days[0]}T00:00:00Z", "end_datetime": f"{days[-1]}T23:59:59Z"}
    item = pystac.Item(
        id=_name(grid, result),
        geometry=geometry,
        bbox=bbox,
        datetime=str_to_datetime(f"{days[0]}T00:00:00Z" if days else _stamp(result["created"])),
        properties=properties,
        stac_extensions=list(_EXTENSIONS),
    )
    for entry in files:
        path = Path(entry["file"])
        item.add_asset(path.stem if path.suffix == ".tif" else f"{path.stem}.picture", _asset(folder, entry))
    page = pystac.Asset(f"./{PAGE}", title="pictures and a map", media_type=pystac.MediaType.HTML, roles=["overview"])
    item.add_asset("page", page)
    text = json.dumps(item.to_dict(include_self_link=False), indent=1, ensure_ascii=False, allow_nan=False)
    try:
        with whole_file(folder / ITEM) as partial:
            partial.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise CopgenError(f"cannot write {folder / ITEM}: {error.strerror}; make room, then run again") from error
    return folder / ITEM


def footprint(grid: SceneGrid) -> tuple[dict[str, Any], list[float]]:
    """The scene's outline as a GeoJSON geometry, and its west, south, east and north, in degrees (WGS84).

    Across the antimeridian the outline is two polygons and west is greater than east.
    """
    left, bottom, right, top = grid.bounds
    ends = np.arange(_POINTS) / _POINTS
    along, none, full = ends, np.zeros(_POINTS), np.ones(_POINTS)
    xs = left + (right - left) * np.concatenate([along, full, 1 - along, none])
    ys = bottom + (top - bottom) * np.concatenate([none, along, full, 1 - along])
    lons, lats = project(grid.crs, WGS84, xs.tolist(), ys.tolist())
    if np.ptp(lons) > 180.0:
        lons = lons % 360.0
    ring = list(zip(lons.round(7).tolist(), lats.round(7).tolist(), strict=True))
    south, north = min(lat for _, lat in ring), max(lat for _, lat in ring)
    west, east = min(lon for lon, _ in ring), max(lon for lon, _ in ring)
    if east <= 180.0:
        return {"type": "Polygon", "coordinates": [_closed(ring)]}, [west, south, east, north]
    parts = [_closed(_cut(ring, -1.0)), [(lon - 360.0, lat) for lon, lat in _closed(_cut(ring, 1.0))]]
    return {"type": "MultiPolygon", "coordinates": [[part] for part in parts]}, [west, south, east - 360.0, north]


def _cut(ring: Ring, side: float) -> Ring:
    """The part of ``ring``, longitudes 0..360, that is west (-1) or east (1) of the antimeridian."""
    kept: Ring = []
    for (lon, lat), (next_lon, next_lat) in zip(ring, [*ring[1:], ring[0]], strict=True):
        if side * (lon - 180.0) >= 0:
            kept.append((lon, lat))
        if (lon - 180.0) * (next_lon - 180.0) < 0:
            share = (180.0 - lon) / (next_lon - lon)
            kept.append((180.0, round(lat + share * (next_lat - lat), 7)))
    return kept


def _closed(ring: Ring) -> Ring:
    return [*ring, ring[0]]


def _name(grid: SceneGrid, result: Mapping[str, Any]) -> str:
    when = _stamp(result["created"]).replace("-", "").replace(":", "")
    where = f"{grid.crs.to_epsg() or 'local'}_{grid.left:.0f}_{grid.top:.0f}"
    return f"copgen-edge_{where}_{when}_seed-{result['seed']}"


def _stamp(moment: str) -> str:
    return str_to_datetime(moment).astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _projection(grid: SceneGrid) -> dict[str, Any]:
    code = grid.crs.to_epsg()
    fields = {"proj:code": f"EPSG:{code}" if code else None, "proj:bbox": list(grid.bounds)}
    return fields if code else {**fields, "proj:wkt2": grid.crs.to_wkt(version="WKT2_2019")}


def _made(result: Mapping[str, Any]) -> dict[str, Any]:
    """How it was made, in the processing extension's fields and our own."""
    model, samples = result["model"], result.get("samples")
    variant = model.get("variant", "custom")
    given = ", ".join(result["conditions"]) or "nothing"
    warning = words_for(model["weights"]).note
    lineage = (
        f"{warning + '. ' if warning else ''}{samples or 1} samples of COP-GEN ({variant}) given {given}: "
        f"{result['steps']} steps of {result['solver']}, seed {result['seed']}, windows of 1920 m denoised together."
    )
    fields = {
        "processing:level": "L4",
        "processing:lineage": lineage,
        "processing:software": {"copgen-edge": result["copgen_edge"]},
        "processing:datetime": _stamp(result["created"]),
        "copgen:model": dict(model),
        "copgen:bundle_sha256": result["bundle"]["manifest_sha256"],
        "copgen:backend": dict(result["backend"]),
        **{f"copgen:{name}": result[name] for name in ("solver", "steps", "seed")},
        "copgen:conditions": {
            key: [{"file": Path(file["path"]).name, "sha256": file["sha256"]} for file in entry["files"]]
            for key, entry in result["conditions"].items()
        },
        "copgen:notes": list(result["notes"]),
    }
    known = ("samples", "grid", "seams", "missing")
    return {**fields, **{f"copgen:{name}": result[name] for name in known if result.get(name) is not None}}


def _asset(folder: Path, entry: Mapping[str, Any]) -> pystac.Asset:
    path = folder / entry["file"]
    facts: dict[str, Any] = {
        "file:checksum": _SHA256_MULTIHASH + entry["sha256"],
        "file:size": path.stat().st_size,
        "copgen:kind": entry["kind"],
    }
    facts |= {f"copgen:{name}": entry[name] for name in ("modality", "sample") if entry[name] is not None}
    title = _title(entry)
    href = f"./{entry['file']}"
    if path.suffix == ".png":
        return pystac.Asset(href, title, media_type=pystac.MediaType.PNG, roles=["overview"], extra_fields=facts)
    with reading(path) as dataset:
        facts |= _raster(dataset)
    roles = ["metadata", "data-mask"] if entry["kind"] == "validity" else ["data"]
    return pystac.Asset(href, title, media_type=pystac.MediaType.COG, roles=roles, extra_fields=facts)


def _title(entry: Mapping[str, Any]) -> str:
    words = [entry["modality"], entry["kind"], entry["sample"]]
    return " ".join(str(word) for word in words if word is not None)


def _raster(dataset: DatasetReader) -> dict[str, Any]:
    bands = [
        {
            "nodata": "nan" if np.isnan(nodata) else nodata,
            "sampling": "area",
            "data_type": dtype,
            "spatial_resolution": dataset.res[0],
            "unit": unit,
            "scale": scale,
            "offset": offset,
        }
        for nodata, dtype, unit, scale, offset in zip(
            dataset.nodatavals, dataset.dtypes, dataset.units, dataset.scales, dataset.offsets, strict=True
        )
    ]
    return {
        "bands": [{"name": name} for name in dataset.descriptions],
        "raster:bands": bands,
        "proj:shape": list(dataset.shape),
        "proj:transform": list(dataset.transform)[:6],
    }
