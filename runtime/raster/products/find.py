"""From NAME=VALUE, whatever the VALUE is, to the sources of a scene."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...errors import RasterError, RequestError
from ...modalities import KEYS, get, resolve
from ..conditions import ReadOptions
from ..radiometry import BASELINE_OFFSET, s2_scaling
from ..read import kernel
from ..sources import IN_MEMORY, Band, Scaling, Source, find_source, label, open_raster, rasters_in, require_named
from ..window import Grid
from .anchor import find_anchor, window_near
from .look import Reading, called, decide, decide_codes
from .majortom import find_product
from .mosaic import OpenRasters, SceneSource, Tile, layers_of
from .part import Date, Part, baseline_scaling, named_baseline, named_date, spelled
from .safe import is_safe, read_safe
from .stac import read_stac

_PACKED = (".zip", ".tar", ".tgz", ".gz", ".7z")
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://|/vsi", re.IGNORECASE)


@dataclass(frozen=True)
class Products:
    """What the conditions of a scene are.

    ``sources`` are in network order, one a modality. ``notes`` is a sentence for every choice made or guessed. ``date``
    is when the scene was sensed (Sentinel-2 before Sentinel-1), None where nothing says it. ``files`` are the rasters
    read and the metadata files that decided how, by modality key.
    """

    sources: tuple[SceneSource, ...]
    notes: tuple[str, ...]
    date: Date | None
    files: dict[str, tuple[Path, ...]]


def find_products(values: Sequence[tuple[str, str]], options: ReadOptions) -> Products:
    """The sources of a scene, and every choice that was made about them.

    ``values`` are (NAME, VALUE) pairs of image modalities: NAME a modality key or a family, VALUE a raster, a folder
    of bands, a Sentinel-2 ``.SAFE``, a STAC item or collection (``.json``), or a cell of Major TOM. A NAME that is
    given several times is a mosaic: of pixels that several have, the first one's count. Of ``options``, those about
    the window and about filling play no part.

    Raises :class:`RequestError` for what cannot be meant, and :class:`RasterError` (one of them) for a product that
    cannot serve.
    """
    require_named(options.bands, values)
    owner: dict[str, str] = {}
    parts: dict[str, list[Part]] = {}
    for name, value in values:
        keys = resolve([name])
        for key in keys:
            if owner.setdefault(key, name) != name:
                raise RequestError(
                    f"{key} is given by {owner[key]} and by {name}; leave one out, or use one name for all of a mosaic"
                )
        for part in _parts(name, value, keys, options):
            parts.setdefault(part.source.key, []).append(part)
    notes: dict[str, None] = {}
    for found in parts.values():
        notes.update(dict.fromkeys(note for part in found for note in part.notes))
    date, said = _date(parts)
    notes.update(dict.fromkeys(said))
    tiles: dict[str, list[Tile]] = {}
    for key in (key for key in KEYS if key in parts):
        readings, said = _readings(parts[key], options)
        notes.update(dict.fromkeys(said))
        tiles[key] = [Tile(part, reading, _grids(part)) for part, reading in zip(parts[key], readings, strict=True)]
        if len(tiles[key]) > 1:
            names = spelled([called(tile.part).removeprefix(f"{tile.part.source.name}: ") for tile in tiles[key]])
            notes[f"{key}: a mosaic of {names}; where several have data, the first given counts"] = None
    notes.update(dict.fromkeys(_offset_notes(tile for found in tiles.values() for tile in found)))
    anchor = find_anchor((key, grid) for key in tiles for tile in tiles[key] for grid in tile.grids)
    rasters = OpenRasters()
    sources = tuple(_source(key, found, anchor, rasters) for key, found in tiles.items())
    return Products(sources, tuple(notes), date, {key: _files(parts[key]) for key in tiles})


def _parts(name: str, value: str, keys: Sequence[str], options: ReadOptions) -> list[Part]:
    family = get(keys[0]).family
    if not get(keys[0]).is_image:
        raise RequestError(f"{name} is no image; expected rasters of an image modality")
    path, order = Path(value), options.bands.get(name)
    if not value or value.startswith(IN_MEMORY):
        return [_plain(name, value, key, order) for key in keys]
    if _REMOTE.match(value):
        raise RasterError(
            f"{name}: {value[:200]!r} is not on this disk, and nothing is fetched here; download it first"
        )
    if path.name.lower().endswith(_PACKED):
        raise RasterError(f"{name}: {value!r} is packed; unpack it, and give the folder or file that comes out")
    try:
        folder, file = path.is_dir(), path.is_file()
        described = (folder or file) and is_safe(path)
        if folder and not described and not rasters_in(path):
            path = find_product(path, name, family)
    except OSError as error:
        raise RasterError(f"{name}: {value[:200]!r} cannot be opened ({error.strerror}); give another path") from error
    if described or (file and path.suffix.lower() in (".json", ".geojson")):
        if order is not None:
            raise RequestError(
                f"--bands {name} orders the bands of a raster, but {value!r} names its own; leave it out"
            )
        return (read_safe if described else read_stac)(path, name, keys)
    return [_plain(name, str(path), key, order) for key in keys]


def _plain(name: str, value: str, key: str, order: tuple[str, ...] | None) -> Part:
    """A raster or a folder of them. What its name says of a Sentinel product holds where its files are silent."""
    source, guessed = find_source(get(key), name, value, order)
    title = Path(value).name
    baseline = named_baseline(title) if get(key).kind == "reflectance" else None
    if baseline is not None:
        source = replace(source, bands=tuple(_with_baseline(band, name, baseline) for band in source.bands))
    date = named_date(title)
    worldcover = "worldcover" in title.lower() or any("worldcover" in path.name.lower() for path in source.paths)
    return Part(source, title, date, f"the name {title}", worldcover=worldcover, notes=guessed)


def _with_baseline(band: Band, name: str, baseline: str) -> Band:

    (own,) = s2_scaling(Source("", name, (band,)), "auto")
    said = baseline_scaling(baseline, "the product's name, baseline")
    return band if own.origin or said is None else replace(band, declared=replace(said, gain=own.gain))


def _readings(parts: Sequence[Part], options: ReadOptions) -> tuple[list[Reading], list[str]]:
    if get(parts[0].source.key).is_codes:
        readings, said = decide_codes(parts, options)
        return readings, list(said)
    decided = [decide(part, options) for part in parts]
    return [reading for reading, _ in decided], [note for _, notes in decided for note in notes]


def _grids(part: Part) -> tuple[Grid, ...]:
    """The grid of each band; :class:`RasterError` where two of them share no ground, so that no pixel has all."""
    grids: dict[Path, Grid] = {}
    for path in part.source.paths:
        name = label(part.source.name, path)
        with open_raster(path, name) as dataset:
            grids[path] = Grid.of(dataset, name)
    first, *others = grids.values()
    for other in others:
        corners = [other.point(col, row) for col in (0, other.width) for row in (0, other.height)]
        cols, rows = first.pixels(other.crs, *np.array(corners).T)
        # NaN compares as false.
        if not (cols.min() < first.width and cols.max() > 0 and rows.min() < first.height and rows.max() > 0):
            raise RasterError(
                f"{called(part)}: {first.name} and {other.name} share no ground; expected bands of one place: give "
                "them again"
            )
    return tuple(grids[band.path] for band in part.source.bands)


def _date(parts: dict[str, list[Part]]) -> tuple[Date | None, list[str]]:
    """When the scene was sensed; granules of Sentinel-2 that are mosaicked must agree on it."""
    dated: dict[str, dict[Date, Part]] = {}
    for key, found in parts.items():
        for part in found:
            if part.date is not None:
                dated.setdefault(get(key).family, {}).setdefault(part.date, part)
    for family in ("S2L1C", "S2L2A"):
        if len(dated.get(family, {})) > 1:
            held = spelled([f"{_spell(date)} ({part.about})" for date, part in dated[family].items()], most=4)
            raise RequestError(f"{family} is given of several dates: {held}; give products of one date")
    chosen = [(date, part) for family in ("S2L1C", "S2L2A", "S1RTC") for date, part in dated.get(family, {}).items()]
    if not chosen:
        return None, []
    date, part = chosen[0]
    notes = [f"date: {_spell(date)}, from {part.dated_by}"]
    others = [f"{get(p.source.key).family} {_spell(d)}" for d, p in chosen if d != date]
    if others:
        notes.append(f"date: other inputs were sensed on another day ({spelled(others)})")
    return date, notes


def _spell(date: Date) -> str:
    return f"{date[0]:04d}-{date[1]:02d}-{date[2]:02d}"


def _files(parts: Sequence[Part]) -> tuple[Path, ...]:
    files = [path for part in parts for path in (*part.source.paths, *part.metadata)]
    return tuple(path for path in dict.fromkeys(files) if not str(path).startswith(IN_MEMORY))


def _source(key: str, tiles: Sequence[Tile], anchor: Grid | None, rasters: OpenRasters) -> SceneSource:
    grids = tuple(dict.fromkeys(grid for tile in tiles for grid in tile.grids))
    told = [
        spelled([tile.part.about for tile in tiles]),
        spelled([_resolution(grid) for grid in grids]),
        spelled([_crs(grid) for grid in grids]),
        spelled([_way(grid, key, anchor) for grid in grids]),
        spelled([line for tile in tiles for line in _units(key, tile)]),
    ]
    return SceneSource(key, grids, ", ".join(text for text in told if text), layers_of(tiles, get(key)), rasters)


def _crs(grid: Grid) -> str:
    code = grid.crs.to_epsg()
    return f"EPSG:{code}" if code else grid.crs.to_string().split("[")[0]


def _resolution(grid: Grid) -> str:
    return f"{grid.resolution:.6g} m" if grid.crs.is_projected else f"{3600 * grid.resolution:.4g} arc seconds"


def _way(grid: Grid, key: str, anchor: Grid | None) -> str:
    """How a raster's pixels get to the scene's."""
    modality = get(key)
    window = window_near(grid, anchor)
    if window is None:
        return f"warped to {modality.resolution} m"
    how = kernel(grid, window, modality)
    return "copied" if how is None else f"warped to {modality.resolution} m ({how.name})"


def _units(key: str, tile: Tile) -> list[str]:
    modality, reading = get(key), tile.reading
    if modality.kind == "backscatter":
        return ["dB" if reading.radar == "db" else "linear power"]
    if modality.family == "LULC":
        return ["ESRI's codes" if reading.codes is None else "codes mapped to ESRI's"]
    return [_dn(scaling) for scaling in reading.scalings]


def _offset_notes(tiles: Iterable[Tile]) -> Iterator[str]:
    """How each Sentinel-2 product becomes DN, and whether it looks as if that were wrong."""
    products: dict[str, list[Reading]] = {}
    for tile in tiles:
        if tile.reading.scalings:
            products.setdefault(f"{tile.part.source.name}: {tile.part.about}", []).append(tile.reading)
    for product, readings in products.items():
        yield f"{product}: {spelled([_dn(scaling) for reading in readings for scaling in reading.scalings])}"
        unsaid = not any(scaling.origin for reading in readings for scaling in reading.scalings)
        if unsaid and min(reading.lowest for reading in readings) >= -BASELINE_OFFSET:
            yield (
                f"{product}: no DN is below 1000, as in products of processing baseline 04.00 on before their offset "
                "is subtracted; give --s2-offset -1000 if it is one"
            )


def _dn(scaling: Scaling) -> str:
    times = f"values times {scaling.gain:g}, " if scaling.gain != 1 else ""
    why = f"from {scaling.origin}" if scaling.origin else "as nothing says another (--s2-offset does)"
    return f"{times}offset {scaling.offset:g} DN {why}"
