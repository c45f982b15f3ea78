"""STAC items whose assets lie on this disk: which asset is which band, how it is scaled, when it was sensed.

Source: STAC 1.0 and 1.1 with the eo, raster and processing extensions, and the habits of the catalogues that carry
Sentinel data (Planetary Computer, Earth Search, Copernicus Data Space, and stactools).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

import pystac

from ...errors import RasterError, one_line
from ...modalities import Modality, get
from ..radiometry import QUANTIFICATION
from ..sources import RASTER_SUFFIXES, Band, Scaling, Source, band_names, native
from .documents import file_size, inside, read_json
from .part import Part, baseline_scaling, calendar_date, named_baseline, named_date

_COMMON: Mapping[str, str] = MappingProxyType(
    {
        "coastal": "B01",
        "blue": "B02",
        "green": "B03",
        "red": "B04",
        "rededge1": "B05",
        "rededge2": "B06",
        "rededge3": "B07",
        "nir": "B08",
        "nir08": "B8A",
        "nir09": "B09",
        "cirrus": "B10",
        "swir16": "B11",
        "swir22": "B12",
    }
)
"""What assets of Sentinel-2 are called that are not called B02."""

_USUAL: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "DEM": ("data", "dem", "elevation"),
        "LULC": ("data", "map", "lulc", "supercell", "land_cover", "landcover", "classification"),
        "cloud_mask": ("cloud_mask",),
    }
)
"""Keys of the asset that is the whole modality."""

_PICTURES = re.compile(r"visual|overview|preview|thumbnail|tci|rendered|quicklook", re.IGNORECASE)
_REMOTE = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+:|/vsi", re.IGNORECASE)

_KINDS: tuple[tuple[str, str], ...] = (
    (r"worldcover", "LULC"),
    (r"lulc|land[-_ ]?cover", "LULC"),
    (r"(?=.*(?:sentinel-?2|sentinel-s2|\bs2))(?=.*(?:l2a|s2msi2a))", "S2L2A"),
    (r"(?=.*(?:sentinel-?2|sentinel-s2|\bs2))(?=.*(?:l1c|s2msi1c))", "S2L1C"),
    (r"(?=.*(?:sentinel-?1|\bs1[a-d]?))(?=.*rtc)", "S1RTC"),
    (r"sentinel-?1|\bs1[a-d]_", "Sentinel-1 without terrain correction"),
    (r"cop-?dem|copernicus_dsm|\bdem\b|glo-?30", "DEM"),
    (r"cloud[-_]?mask", "cloud_mask"),
)
"""What an item is of, by the first pattern that its collection and its names match."""


@dataclass(frozen=True)
class _Asset:
    """One band of one asset. ``path`` is None where it is not on this disk; ``href`` then says where it is."""

    key: str
    href: str
    path: Path | None
    index: int
    names: tuple[str, ...]
    raster: Mapping[str, Any]


def read_stac(path: Path, name: str, keys: Sequence[str]) -> list[Part]:
    """The parts that the items of a JSON file hold of some modalities of one family.

    The file is an item, a list or FeatureCollection of them, or a collection with links to them; of several items,
    those that are of the family.

    Raises :class:`RasterError` where there is no such item, a band is missing, ambiguous, or not below the file's
    folder, or the file is no STAC.
    """
    family = get(keys[0]).family
    called = f"{name}: {path.name}"
    items = list(_items(read_json(path, called), path, path.parent, called))
    kinds = [_kind(item) for item, _ in items]
    chosen = [found for found, kind in zip(items, kinds, strict=True) if kind in (family, None)]
    if not chosen:
        held = ", ".join(sorted({kind for kind in kinds if kind})) or "no item"
        raise RasterError(f"{called} holds {held}; expected {family}: name what it is, or give another file")
    return [_part(item, file, path, key, name) for item, file in chosen for key in keys]


def _items(document: Any, file: Path, root: Path, called: str) -> Iterator[tuple[pystac.Item, Path]]:
    """Every item of a document, and the file that its relative paths start from."""
    kind = document.get("type") if isinstance(document, dict) else None
    if isinstance(document, list) or kind == "FeatureCollection":
        features = document if isinstance(document, list) else document.get("features")
        for feature in features if isinstance(features, list) else ():
            yield _item(feature, called), file
    elif kind == "Collection" and "stac_version" in document:
        for href in _item_links(document):
            if _REMOTE.match(href):
                raise RasterError(f"{called} links to {href[:200]!r}; expected items on this disk: download them first")
            linked = inside(root, file.parent, _local(href), called)
            yield _item(read_json(linked, f"{called}: {linked.name}"), f"{called}: {linked.name}"), linked
    else:
        yield _item(document, called), file


def _item_links(collection: Mapping[str, Any]) -> list[str]:
    links = collection.get("links")
    return [
        link["href"]
        for link in (links if isinstance(links, list) else ())
        if isinstance(link, dict) and link.get("rel") == "item" and isinstance(link.get("href"), str)
    ]


def _item(document: Any, called: str) -> pystac.Item:
    expected = "expected a STAC item, a list or FeatureCollection of items, or a collection with links to items"
    if not isinstance(document, dict) or document.get("type") != "Feature" or "stac_version" not in document:
        raise RasterError(f"{called} is no STAC item; {expected}")
    try:
        return pystac.Item.from_dict(document)
    except (pystac.STACError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise RasterError(
            f"{called} is a damaged STAC item ({type(error).__name__}: {one_line(error)}); {expected}"
        ) from error


def _kind(item: pystac.Item) -> str | None:
    told = (item.collection_id, item.id, *(item.properties.get(p) for p in ("s2:product_type", "s2:product_uri")))
    text = " ".join(str(part) for part in told if part).lower()
    return next((kind for pattern, kind in _KINDS if re.search(pattern, text)), None)


def _part(item: pystac.Item, file: Path, given: Path, key: str, name: str) -> Part:
    modality = get(key)
    called = f"{name}: item {item.id}"
    assets = [asset for key, value in item.assets.items() for asset in _asset(key, value, file, given.parent, called)]
    bands = tuple(_band(band, assets, modality, item, called) for band in modality.bands)
    date, dated_by = _date(item)
    return Part(
        Source(key, name, bands),
        f"{item.id} (STAC item)",
        date,
        f"the {dated_by} of item {item.id}",
        tuple(dict.fromkeys((given, file))),
        "worldcover" in f"{item.collection_id} {item.id}".lower(),
    )


def _date(item: pystac.Item) -> tuple[tuple[int, int, int] | None, str]:
    start = item.datetime or item.common_metadata.start_datetime
    if start is not None:
        return calendar_date(start.strftime("%Y-%m-%d")), "datetime"
    return named_date(item.id), "name"


def _asset(key: str, asset: pystac.Asset, file: Path, root: Path, called: str) -> list[_Asset]:
    """The bands of an asset of measurements; none for a picture, a mask or a document."""
    roles = asset.roles if isinstance(asset.roles, list) else []
    media = asset.media_type if isinstance(asset.media_type, str) else ""
    href = asset.href if isinstance(asset.href, str) else ""
    suffix = Path(urlsplit(href).path).suffix.lower()
    if _PICTURES.search(key) or (roles and "data" not in roles) or not href:
        return []
    if not (media.startswith("image/") or (not media and suffix in RASTER_SUFFIXES)):
        return []
    path = None if _REMOTE.match(href) else _on_disk(href, file, root, f"{called}: asset {key}")
    extra = asset.extra_fields
    described = _dicts(extra.get("bands")) or _dicts(extra.get("eo:bands"))
    raster = _dicts(extra.get("raster:bands"))
    count = max(len(described), len(raster), 1)
    found: list[_Asset] = []
    for number in range(count):
        own = [fields[number] for fields in (raster, described) if len(fields) == count]
        told = {field.removeprefix("raster:"): value for fields in (extra, *own) for field, value in fields.items()}
        band = described[number] if len(described) == count else {}
        found.append(_Asset(key, href, path, number + 1, _names(key, band, alone=count == 1), told))
    return found


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _names(key: str, band: Mapping[str, Any], *, alone: bool) -> tuple[str, ...]:
    """What may name a band, the surest first: its own name, its common name, and where it is alone the asset's key."""
    told = (band.get("name"), band.get("common_name"), band.get("eo:common_name"))
    return (*(value for value in told if isinstance(value, str)), *((key,) if alone else ()))


def _local(href: str) -> str:
    return unquote(urlsplit(href).path) if href.lower().startswith("file:") else href


def _on_disk(href: str, file: Path, root: Path, called: str) -> Path:
    """The file that a local href names: as it is written, as some tools do, or with its escapes (RFC 3986) undone."""
    literal = inside(root, file.parent, _local(href), called)
    return literal if file_size(literal) is not None else inside(root, file.parent, unquote(_local(href)), called)


def _named(asset: _Asset, family: str) -> str | None:
    """The band that an asset's names say, by the first that says one."""
    for text in asset.names:
        found = band_names(text, family)
        if not found and family.startswith("S2"):
            common = _COMMON.get(re.sub(r"[-_](?:10|20|60)m$", "", text.lower()))
            found = (common,) if common else ()
        if len(found) == 1:
            return found[0]
    return None


def _band(band: str, assets: Sequence[_Asset], modality: Modality, item: pystac.Item, called: str) -> Band:
    if modality.family in _USUAL:
        candidates = [asset for asset in assets if asset.key.lower() in _USUAL[modality.family]]
        candidates = candidates or (list(assets) if len(assets) == 1 else [])
    else:
        candidates = [a for a in assets if _named(a, modality.family) == band and a.raster.get("data_type") != "uint8"]
    if not candidates:
        keys = ", ".join(dict.fromkeys(asset.key for asset in assets)) or "none"
        raise RasterError(
            f"{called} has no asset of role data for {modality.family} {band} (assets with data: {keys}); give the "
            "files themselves, or another item"
        )
    local = [(asset, asset.path) for asset in candidates if asset.path is not None]
    if not local:
        raise RasterError(
            f"{called}: asset {candidates[0].key} is at {candidates[0].href[:200]!r}, and nothing is fetched from the "
            "network here; download it first, and make its href a path relative to the JSON file"
        )
    # A file that is missing matters only where no other can stand in for it, such as the band at another resolution.
    there = [(asset, path) for asset, path in local if file_size(path)]
    if not there:
        asset, path = local[0]
        raise RasterError(f"{called}: asset {asset.key} is {str(path)!r}, which is missing or empty; download it there")
    bands = [_declare(Band(band, path, asset.index), asset.raster, modality, item, called) for asset, path in there]
    return native(bands, modality, called)


def _declare(band: Band, raster: Mapping[str, Any], modality: Modality, item: pystac.Item, called: str) -> Band:
    """The band with what the item declares of it."""
    called = f"{called}: {band.path.name}"
    scale, offset = (_number(raster, field, called) for field in ("scale", "offset"))
    if scale is not None and scale <= 0:
        raise RasterError(f"{called} has a scale of {scale:g}; expected one above 0, such as 0.0001: mend the item")
    if modality.kind == "reflectance":
        # What has not been seen is 0 in every band of Sentinel-2 alike, while a zero in one band is a value.
        return replace(band, declared=_reflectance(scale, offset, item))
    nodata = None if modality.family == "cloud_mask" else _number(raster, "nodata", called)
    if modality.is_codes or (scale is None and offset is None):
        return replace(band, nodata=nodata)
    declared = Scaling(1.0 if scale is None else scale, offset or 0.0, "the item's raster:bands")
    return replace(band, declared=declared, nodata=nodata)


def _number(fields: Mapping[str, Any], name: str, called: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if name == "nodata" and value in ("nan", "NaN"):
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        raise RasterError(f"{called} has {name} {str(value)[:40]!r}; expected a number: mend the item")
    return float(value)


def _reflectance(scale: float | None, offset: float | None, item: pystac.Item) -> Scaling | None:
    """DN of a Sentinel-2 asset; None where the item says nothing.

    The first of these says the offset: that it is off already (Earth Search), ``raster:bands``, the baseline.
    """
    # As in a file: unscaled bands declare their offset in DN, scaled ones in reflectance.
    to_dn = 1.0 if scale is None or scale == 1.0 else QUANTIFICATION
    gain = 1.0 if scale is None else round(scale * to_dn, 6)
    properties = item.properties
    if any(properties.get(f"{prefix}:boa_offset_applied") is True for prefix in ("earthsearch", "sentinel")):
        return Scaling(gain, 0.0, "the item, which says that its files are without")
    if offset is not None:
        # An offset without a scale is reflectance all the same where it is a fraction.
        return Scaling(
            gain, round(offset * (QUANTIFICATION if abs(offset) < 1 else to_dn), 3), "the item's raster:bands"
        )
    baselines = [properties.get(name) for name in ("s2:processing_baseline", "sentinel:processing_baseline")]
    names = [properties.get(name) for name in ("s2:product_uri", "sentinel:product_id")]
    baselines += [named_baseline(str(text)) for text in (*names, item.id) if text]
    baselines += [properties.get("processing:version")]
    for baseline in baselines:
        found = baseline_scaling(str(baseline), "the item's processing baseline") if baseline else None
        if found is not None:
            return Scaling(gain, found.offset, found.origin)
    return None if scale is None else Scaling(gain, 0.0, "the item's raster:bands")
