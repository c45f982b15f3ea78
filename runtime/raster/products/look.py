"""What is decided once for a whole raster, before any window of it is read: units, offsets, codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ...errors import RasterError, RequestError
from ...modalities import Modality, get
from ..conditions import ReadOptions
from ..radiometry import radar_scale, refuse_implausible_values, s2_scaling, to_codes, to_dn
from ..read import in_units, known_pixels
from ..sources import Band, Scaling, label, open_raster
from .covers import WORLDCOVER, Cover, which_cover
from .part import Part

_LOOK = 512
"""Pixels a side of the look at a whole raster, however large it is."""

_SAMPLES = 16
"""Samples a side of a look at codes, which overviews may have averaged: so many squares of whole pixels."""

_ZEROS = 0.01
"""Share of pixels without any power from which a radar raster has zeros for want of a nodata value."""


@dataclass(frozen=True)
class Reading:
    """How the stored values of a part become physical ones.

    ``scalings`` are those of Sentinel-2, by band, and ``lowest`` is the least DN that they lead to, of the pixels
    looked at; ``radar`` is the unit of Sentinel-1; ``codes`` maps those of land cover, None where they stay.
    ``zero_is_empty`` is whether pixels of 0 in every band hold nothing.
    """

    scalings: tuple[Scaling, ...] = ()
    lowest: float = 0.0
    radar: Literal["db", "linear"] = "linear"
    codes: Mapping[int, int] | None = None
    zero_is_empty: bool = False


def called(part: Part) -> str:
    """How messages call a part."""
    paths = part.source.paths
    return label(part.source.name, paths[0]) if len(paths) == 1 else f"{part.source.key}: {part.about}"


def decide(part: Part, options: ReadOptions) -> tuple[Reading, tuple[str, ...]]:
    """How an image that is no map of codes is read, and a sentence for every choice.

    Raises :class:`RasterError` for a raster without data, values that no measurement gives or that are not in the units
    expected, and a Sentinel-2 offset that would be subtracted for the second time.
    """
    modality = get(part.source.key)
    if modality.kind == "reflectance":
        return _optical(part, modality, options)
    looks = [_look(band, part, modality) for band in part.source.bands]
    values = np.stack([look.values for look in looks])
    _require_some(np.asarray(~np.isnan(values).any(axis=0)), part)
    notes = _broken_notes(looks, part)
    if modality.kind == "elevation":
        refuse_implausible_values(values[0], "elevation", called(part), part.source.bands[0].name)
        return Reading(), tuple(notes)
    if not np.nan_to_num(values).any():
        raise RasterError(f"{called(part)} has no power above 0; expected backscatter: choose another raster")
    zeros: NDArray[np.bool_] = (values == 0).all(axis=0)
    empty = not all(look.declares_nodata for look in looks) and zeros.mean() > _ZEROS
    seen = np.where(zeros, np.float32(np.nan), values) if empty else values
    scale, note = radar_scale(list(seen), options.s1_scale, called(part))
    for band, look in zip(part.source.bands, values, strict=True):
        refuse_implausible_values(look, scale, called(part), band.name)
    notes.append(note)
    if empty:
        notes.append(
            f"{called(part)}: 0 in every band is taken as nodata, which the file does not declare ({zeros.mean():.0%} "
            "of its pixels)"
        )
    return Reading(radar=scale, zero_is_empty=empty), tuple(notes)


def decide_codes(parts: Sequence[Part], options: ReadOptions) -> tuple[list[Reading], tuple[str, ...]]:
    """How maps of codes are read, and a sentence for every choice.

    A land cover map that could be ESRI's or WorldCover's is what the others of the same mosaic are. Raises
    :class:`RasterError` for codes that are neither's, or that nothing tells apart.
    """
    modality = get(parts[0].source.key)
    found = [_codes_in(part, modality) for part in parts]
    readings, notes = _covers(parts, found, options) if modality.family == "LULC" else ([Reading()] * len(parts), ())
    for part, codes, reading in zip(parts, found, readings, strict=True):
        to_codes(np.array(sorted(codes), dtype=np.float32), reading.codes, modality, called(part))
    return readings, notes


def _covers(
    parts: Sequence[Part], found: Sequence[set[float]], options: ReadOptions
) -> tuple[list[Reading], tuple[str, ...]]:
    if options.lulc_map is not None:
        spelled = ", ".join(f"{old} to {new}" for old, new in options.lulc_map.items())
        return [Reading(codes=options.lulc_map)] * len(parts), (f"LULC: codes mapped as --lulc-map says: {spelled}",)
    covers = [
        which_cover(codes, named_worldcover=part.worldcover, called=called(part))
        for part, codes in zip(parts, found, strict=True)
    ]
    known = {cover for cover in covers if cover is not None}
    if len(known) != 1 and None in covers:
        raise RequestError(
            f"{called(parts[covers.index(None)])} holds code 10 alone, which is trees in WorldCover and clouds in "
            "ESRI's map, and its name does not say which it is; give --lulc-map 10:2 for trees, 10:10 for clouds"
        )
    told = [cover if cover is not None else next(iter(known)) for cover in covers]
    notes = tuple(f"{called(part)}: {_COVERS[cover]}" for part, cover in zip(parts, told, strict=True))
    return [Reading(codes=WORLDCOVER if cover == "worldcover" else None) for cover in told], notes


_COVERS: Mapping[Cover, str] = {
    "esri": "codes are those of the ESRI annual map; --lulc-map says otherwise",
    "worldcover": "codes are ESA WorldCover's, mapped to ESRI's ("
    + ", ".join(f"{old} to {new}" for old, new in WORLDCOVER.items())
    + "); --lulc-map says otherwise",
}


@dataclass(frozen=True)
class _Look:
    """Some pixels of one band of a whole raster: (h, w) float32 in its units, NaN where it has no data.

    ``broken`` is whether some are NaN or infinite without being nodata.
    """

    values: NDArray[np.float32]
    dtype: np.dtype
    declares_nodata: bool
    broken: bool


def _optical(part: Part, modality: Modality, options: ReadOptions) -> tuple[Reading, tuple[str, ...]]:
    scalings = s2_scaling(part.source, options.s2_offset)
    looks = [_look(band, part, modality) for band in part.source.bands]
    values = np.stack([look.values for look in looks])
    unseen = (values == 0).all(axis=0) | np.isnan(values).any(axis=0)
    _require_some(~unseen, part)
    dn = to_dn(np.where(unseen, np.float32(np.nan), values), scalings, (look.dtype for look in looks), called(part))
    reading = Reading(scalings=scalings, lowest=float(np.nanmin(dn)), zero_is_empty=True)
    return reading, tuple(_broken_notes(looks, part))


def _broken_notes(looks: Sequence[_Look], part: Part) -> list[str]:
    if not any(look.broken for look in looks):
        return []
    return [f"{called(part)}: NaN and infinity, which the file does not declare as nodata, are taken as nodata"]


def _require_some(known: NDArray[np.bool_], part: Part) -> None:
    if not known.any():
        raise RasterError(f"{called(part)} is nodata throughout; expected a raster with data: give another")


def _look(band: Band, part: Part, modality: Modality) -> _Look:
    name = label(part.source.name, band.path)
    with open_raster(band.path, name) as dataset:
        _require_real(dataset, band, name)
        values, valid = _held(dataset, band, out_shape=_shape(dataset))
        floats = in_units(dataset, band, values, modality)
        broken = valid & ~np.isfinite(floats)
        floats[~valid | broken] = np.nan
        declared = dataset.nodata is not None or band.nodata is not None
        return _Look(_resized(floats), np.dtype(dataset.dtypes[band.index - 1]), declared, bool(broken.any()))


def _shape(dataset: DatasetReader) -> tuple[int, int]:
    return min(_LOOK, dataset.height), min(_LOOK, dataset.width)


def _resized(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values on the look's own size, so that bands of other resolutions can be compared: the nearest of each."""
    rows, cols = (np.linspace(0, side - 1, _LOOK).round().astype(int) for side in values.shape)
    return values[np.ix_(rows, cols)]


def _held(dataset: DatasetReader, band: Band, **read: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    values = dataset.read(band.index, **read)
    return values, known_pixels(dataset, band, values, **read)


def _require_real(dataset: DatasetReader, band: Band, name: str) -> None:
    if "complex" in dataset.dtypes[band.index - 1]:
        raise RasterError(f"{name} holds complex numbers; expected detected, terrain-corrected power")


def _codes_in(part: Part, modality: Modality) -> set[float]:
    """The codes of a sample of whole pixels, all over the raster."""
    band, found = part.source.bands[0], set[float]()
    name = label(part.source.name, band.path)
    with open_raster(band.path, name) as dataset:
        _require_real(dataset, band, name)
        side = _LOOK // _SAMPLES
        rows, cols = (
            dict.fromkeys(np.linspace(0, max(0, length - side), _SAMPLES).astype(int).tolist())
            for length in dataset.shape
        )
        for row in rows:
            for col in cols:
                square = Window(col, row, min(side, dataset.width - col), min(side, dataset.height - row))
                values, valid = _held(dataset, band, window=square)
                found.update(np.unique(in_units(dataset, band, values, modality)[valid]).tolist())
    found = {code for code in found if np.isfinite(code)}
    if not found - ({0.0} if modality.family == "LULC" else set()):
        raise RasterError(f"{called(part)} is nodata throughout; expected a raster with data: give another")
    return found
