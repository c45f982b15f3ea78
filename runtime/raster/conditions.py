"""The conditions of one request: every ``NAME=VALUE`` read for one ground window, in physical units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import RasterError, RequestError
from ..modalities import Modality, get, resolve
from ..scalars import parse_date, parse_place
from .nodata import empty_pixels, fill_codes, fill_values, refuse_broken, refuse_empty, share
from .radiometry import (
    BASELINE_OFFSET,
    S1Scale,
    S2Offset,
    refuse_implausible,
    s2_scaling,
    to_codes,
    to_dn,
    to_power,
)
from .read import Block, read_blocks
from .sources import Scaling, Source, find_sources, label, open_raster
from .window import Grid, GroundWindow, choose_window

ANCHOR_RANK = {"S2L1C": 0, "S2L2A": 0, "S1RTC": 1, "LULC": 2, "cloud_mask": 2, "DEM": 3}
"""Whose pixels the window should lie along, best first: a DEM or a land cover map has been resampled most often."""


@dataclass(frozen=True)
class ReadOptions:
    """How conditions are to be read.

    ``center`` is latitude and longitude in degrees, ``pixel`` the window's upper-left column and row in the reference
    raster; ``bands`` gives by NAME the bands of a file in its own order; ``lulc_map`` replaces land cover codes.
    """

    center: tuple[float, float] | None = None
    pixel: tuple[int, int] | None = None
    bands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    s1_scale: S1Scale = "auto"
    lulc_map: Mapping[int, int] | None = None
    s2_offset: S2Offset = "auto"
    fill_nodata: bool = False


@dataclass(frozen=True)
class Conditions:
    """What was read, by modality key, one row each.

    ``physical``: images (1, C, H, W) float32 in DN, linear power or metres; codes (1, 1, H, W) int64; place (1, 2)
    float64 latitude and longitude in degrees; date (1, 3) int64 year, month, day. ``notes`` is a sentence for every
    choice made or guessed. ``files`` are the files read, for their digests.
    """

    physical: dict[str, NDArray[Any]]
    window: GroundWindow
    notes: tuple[str, ...]
    files: dict[str, tuple[Path, ...]]


def read_conditions(values: Sequence[tuple[str, str]], options: ReadOptions) -> Conditions:
    """Read the conditions of one request.

    ``values`` are (NAME, VALUE) pairs as typed: NAME a modality key or a family, VALUE a raster, a folder of bands,
    ``lat,lon`` or ``auto``, or ``YYYY-MM-DD``.

    Raises :class:`RequestError` for what cannot be meant, and :class:`RasterError` (one of them) for a raster that
    cannot serve; nothing is written in any case.
    """
    named = [(resolve([name]), name, value) for name, value in values]
    place, date = _scalars([(keys[0], value) for keys, _, value in named if not get(keys[0]).is_image])
    rasters = [(name, value) for keys, name, value in named if get(keys[0]).is_image]
    sources, guessed = find_sources(rasters, options.bands)
    given = None if place == "auto" else place
    window, chosen = choose_window(_grids(sources), center=options.center, pixel=options.pixel, place=given)
    notes = [*guessed, *chosen]
    read: dict[str, NDArray[Any]] = {}
    optical: list[tuple[str, tuple[Scaling, ...], float]] = []
    for source in sources:
        modality = get(source.key)
        scalings = s2_scaling(source, options.s2_offset) if modality.kind == "reflectance" else ()
        image, said = _read(source, modality, window, options, scalings)
        notes.extend(said)
        if scalings:
            optical.append((modality.family, scalings, float(image.min())))
        read[source.key] = image[np.newaxis]
    notes.extend(_offset_notes(optical))
    if place == "auto":
        given = window.center
        notes.append(f"place: {given[0]:.5f},{given[1]:.5f}, the middle of the window")
    if given is not None:
        read["3d_cartesian_lat_lon"] = np.array([given], dtype=np.float64)
    if date is not None:
        read["mean_timestamps"] = np.array([date], dtype=np.int64)
    return Conditions(read, window, tuple(notes), {source.key: source.paths for source in sources})


def _scalars(
    values: Sequence[tuple[str, str]],
) -> tuple[tuple[float, float] | Literal["auto"] | None, tuple[int, int, int] | None]:
    place: tuple[float, float] | Literal["auto"] | None = None
    date: tuple[int, int, int] | None = None
    for key, value in values:
        family = get(key).family
        if (place if family == "place" else date) is not None:
            raise RequestError(f"{family} is given twice; leave one out")
        if family == "date":
            date = parse_date(value)
        else:
            place = "auto" if value.strip() == "auto" else parse_place(value)
    return place, date


def _grids(sources: Sequence[Source]) -> list[Grid]:
    ranked: list[tuple[int, float, Grid]] = []
    for source in sources:
        for path in source.paths:
            called = label(source.name, path)
            with open_raster(path, called) as dataset:
                grid = Grid.of(dataset, called)
            ranked.append((ANCHOR_RANK[get(source.key).family], grid.resolution, grid))
    return [grid for _, _, grid in sorted(ranked, key=lambda entry: entry[:2])]


def _read(
    source: Source, modality: Modality, window: GroundWindow, options: ReadOptions, scalings: Sequence[Scaling]
) -> tuple[NDArray[Any], list[str]]:
    called = label(source.name, source.paths[0]) if len(source.paths) == 1 else source.key
    blocks = read_blocks(source, modality, window)
    notes = _resampling_notes(source, blocks)
    refuse_broken(blocks)
    if modality.is_codes:
        codes, said = _codes(blocks[0], modality, options, called)
        return codes, notes + said
    if modality.kind == "backscatter":
        blocks, said_scale = to_power(blocks, options.s1_scale, called)
        notes.append(said_scale)
    elif modality.kind == "elevation":
        refuse_implausible(blocks[0], "elevation")
    empty = empty_pixels(blocks, zero_is_empty=modality.kind == "reflectance")
    refuse_empty(empty, called, fill=options.fill_nodata)
    values = np.where(empty, np.float32(np.nan), np.stack([block.on_window() for block in blocks]))
    if modality.kind == "reflectance":
        values = to_dn(values, scalings, (block.dtype for block in blocks), called)
    if empty.any():
        values = fill_values(values, empty)
        notes.append(f"{called}: {share(empty)} of nodata filled from the pixels around them")
    if modality.kind == "backscatter" and (values <= 0).all():
        raise RasterError(f"{called} has no power above 0 in the window; expected backscatter: choose another window")
    notes.extend(_floor_notes(values, modality, called))
    return values, notes


def _codes(block: Block, modality: Modality, options: ReadOptions, called: str) -> tuple[NDArray[Any], list[str]]:
    mapping = options.lulc_map if modality.family == "LULC" else None
    codes = to_codes(block.on_window(), mapping, modality, called)
    empty = np.isnan(codes)
    if modality.family == "LULC":
        empty |= codes == 0
    refuse_empty(empty, called, fill=options.fill_nodata)
    classes = ", ".join(f"{code:g} {modality.codes[int(code)]}" for code in np.unique(codes[~empty]))
    notes = [f"{called}: classes in the window are {classes}"]
    if empty.any() and modality.family == "LULC":
        codes[empty] = 0
        notes.append(f"{called}: {share(empty)} stay class 0, which the model knows as no data")
    elif empty.any():
        codes = fill_codes(codes, empty)
        notes.append(f"{called}: {share(empty)} of nodata took the nearest code")
    return codes.astype(np.int64)[np.newaxis], notes


def _floor_notes(values: NDArray[np.float32], modality: Modality, called: str) -> list[str]:
    """What model space cannot hold."""
    if modality.kind == "backscatter" and (values <= 0).any():
        floored = np.logical_or.reduce(values <= 0)
        return [f"{called}: {share(floored)} have power of 0 or less, which the model raises to its least"]
    if modality.kind == "elevation" and (values < 0).any():
        return [f"{called}: {share(values[0] < 0)} are below 0 m, which the model clips to sea level"]
    return []


def _resampling_notes(source: Source, blocks: Sequence[Block]) -> list[str]:
    files: dict[str, dict[str, None]] = {}
    for band, block in zip(source.bands, blocks, strict=True):
        if block.resampling is not None:
            files.setdefault(block.resampling.name, {})[band.path.name] = None
    resolution = get(source.key).resolution
    return [f"{source.key}: resampled to {resolution} m ({how}) from {', '.join(files[how])}" for how in files]


def _offset_notes(optical: Sequence[tuple[str, Sequence[Scaling], float]]) -> list[str]:
    notes: dict[str, None] = {}
    for family, scalings, _ in optical:
        for scaling in scalings:
            if scaling.gain != 1:
                notes[f"{family}: values times {scaling.gain:g} to make DN, as the file's scale says"] = None
            if scaling.origin:
                notes[f"{family}: offset {scaling.offset:g} DN, from {scaling.origin}"] = None
            else:
                notes[f"{family}: no offset in the metadata, taken as 0; --s2-offset says otherwise"] = None
    for family in dict.fromkeys(family for family, _, _ in optical):
        mine = [(scalings, lowest) for of, scalings, lowest in optical if of == family]
        unsaid = not any(scaling.origin for scalings, _ in mine for scaling in scalings)
        if unsaid and min(lowest for _, lowest in mine) >= -BASELINE_OFFSET:
            notes[
                f"{family}: no DN in the window is below 1000, as in products of processing baseline 04.00 on before "
                "their offset is subtracted; give --s2-offset -1000 if it is one"
            ] = None
    return list(notes)
