"""What the numbers of a raster mean: the Sentinel-2 offset, Sentinel-1 in dB or linear, land cover in other codes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader

from ..errors import RasterError, RequestError
from ..modalities import Modality
from .read import Block
from .sources import Scaling, Source, label, open_raster

S1Scale = Literal["auto", "db", "linear"]
S2Offset = Literal["auto", 0, -1000]

QUANTIFICATION = 10000.0
BASELINE_OFFSET = -1000.0
"""DN that products of processing baseline 04.00 and later carry beyond reflectance x 10000."""

_DARKEST_LEFT = -500.0
"""DN. A product that carries the offset has hardly a pixel below DN 900, cloud shadow and water included, in any band;
a corrected one has its darkest band (B10, or SWIR over water, or red over plants) near 0. Half-way between the two is
a margin of some 400 DN either way."""

_BRIGHTEST_REFLECTANCE = 3.0

_BRIGHTEST_MEDIAN = 10.0
"""Linear power. Half of a window at 10 dB is beyond any land cover, while uncalibrated digital numbers lie above it."""

PLAUSIBLE: Mapping[str, tuple[float, float, str]] = {
    "elevation": (-9000.0, 9000.0, "m"),
    "db": (-100.0, 60.0, "dB"),
    "linear": (-1.0, 1e6, "linear power"),
}
"""Least and greatest values: what lies beyond is a nodata value that nobody declared (-9999, -32768)."""


def s2_scaling(source: Source, choice: S2Offset) -> tuple[Scaling, ...]:
    """How the values of each band of a Sentinel-2 source become DN (reflectance x 10000).

    The gain is always the metadata's. The offset is ``choice``, or with ``auto`` what the metadata say: the product's
    own where they speak of the band, else the file's: the scale and offset of the band, the tags BOA_ADD_OFFSET or
    RADIO_ADD_OFFSET, or PROCESSING_BASELINE from 04.00 on.
    """
    found: list[Scaling] = []
    for band in source.bands:
        if band.declared is not None:
            found.append(band.declared)
            continue
        called = label(source.name, band.path)
        with open_raster(band.path, called) as dataset:
            found.append(_scaling(dataset, band.index, called))
    if choice == "auto":
        return tuple(found)
    return tuple(Scaling(s.gain, float(choice), f"--s2-offset {choice}") for s in found)


def _scaling(dataset: DatasetReader, index: int, called: str) -> Scaling:
    scale, declared = dataset.scales[index - 1], dataset.offsets[index - 1]
    # Unscaled bands declare their offset in DN, scaled ones in reflectance.
    to_dn = 1.0 if scale == 1.0 else QUANTIFICATION
    gain = round(scale * to_dn, 6)
    if declared != 0:
        return Scaling(gain, round(declared * to_dn, 3), "the file's scale and offset")
    tags = _all_tags(dataset, index)
    offsets = {
        float(number)
        for tag in tags
        for values in re.findall(r"(?:BOA|RADIO)_ADD_OFFSET[^=]*=(.*)", tag)
        for number in re.findall(r"-?[0-9]+(?:\.[0-9]+)?", values)
    }
    if len(offsets) > 1:
        found = ", ".join(f"{offset:g}" for offset in sorted(offsets))
        raise RasterError(f"{called} has tags with several offsets ({found}); say which with --s2-offset 0 or -1000")
    if offsets:
        return Scaling(gain, offsets.pop(), "the file's ADD_OFFSET tag")
    for tag in tags:
        baseline = re.search(r"PROCESSING_BASELINE\s*=\s*N?(([0-9]{1,2})\.?[0-9]{2})\s*$", tag)
        if baseline:
            offset = BASELINE_OFFSET if int(baseline[2]) >= 4 else 0.0
            return Scaling(gain, offset, f"the file's processing baseline {baseline[1]}")
    return Scaling(gain)


def _all_tags(dataset: DatasetReader, index: int) -> list[str]:
    # As NAME=VALUE again: GDAL takes s2:processing_baseline=05.09 for a tag named s2.
    return [
        f"{key}={value}".upper()
        for band in (0, index)
        for namespace in (None, *dataset.tag_namespaces(band))
        for key, value in dataset.tags(band, ns=namespace).items()
    ]


def to_dn(
    values: NDArray[np.float32], scalings: Sequence[Scaling], dtypes: Iterable[np.dtype], called: str
) -> NDArray[np.float32]:
    """DN of the values of Sentinel-2 bands, (C, H, W); NaN, which is what has no data, stays.

    ``dtypes`` are those of the files. Raises :class:`RasterError` where the values are reflectance, or of
    8 bits, and no metadata says so, or where the offset is subtracted that has been subtracted before.
    """
    dtypes = tuple(dtypes)
    if np.dtype("uint8") in dtypes and all(s.gain == 1.0 for s in scalings):
        raise RasterError(
            f"{called} holds 8-bit values, which is a picture and no measurement; expected DN (reflectance x 10000), "
            "or scale and offset declared in the file"
        )
    scaled = values * _column([s.gain for s in scalings])
    brightest = float(np.nanmax(scaled))
    if brightest < _BRIGHTEST_REFLECTANCE and any(dtype.kind == "f" for dtype in dtypes):
        raise RasterError(
            f"{called} holds values up to {brightest:g}, which look like reflectance; expected DN (reflectance x "
            "10000): multiply by 10000, or declare scale and offset in the file"
        )
    shifted = rescaled(values, scalings)
    offset = min(s.offset for s in scalings)
    darkest = min(float(np.nanpercentile(band, 1)) for band in shifted)
    if offset < 0 and darkest < _DARKEST_LEFT:
        raise RasterError(
            f"{called}: an offset of {offset:g} would leave DN {darkest:.0f} in the darkest band (1st percentile), so "
            "it has been subtracted before; use --s2-offset 0"
        )
    return shifted


def rescaled(values: NDArray[np.float32], scalings: Sequence[Scaling]) -> NDArray[np.float32]:
    """DN of the values of Sentinel-2 bands, (C, H, W), as :func:`to_dn` gives them, without its checks."""
    return values * _column([s.gain for s in scalings]) + _column([s.offset for s in scalings])


def _column(numbers: Sequence[float]) -> NDArray[np.float32]:
    return np.array(numbers, dtype=np.float32)[:, None, None]


def to_power(blocks: Sequence[Block], choice: S1Scale, called: str) -> tuple[tuple[Block, ...], str]:
    """Sentinel-1 blocks in linear power, and a sentence on how they were read.

    Raises :class:`RasterError` for values that are neither dB nor power.
    """
    scale, note = radar_scale([block.values for block in blocks], choice, called)
    return in_power(blocks, scale), note


def radar_scale(
    bands: Sequence[NDArray[np.float32]], choice: S1Scale, called: str
) -> tuple[Literal["db", "linear"], str]:
    """Whether the values of Sentinel-1 bands, NaN where there is no data, are dB or power, and a sentence that says so.

    With ``auto`` they are dB where their median is negative: power is not, but for what noise subtraction leaves
    around zero. Raises :class:`RasterError` for values that are neither.
    """
    seen = np.concatenate([band[~np.isnan(band)] for band in bands])
    median = float(np.median(seen)) if seen.size else 0.0
    scale = choice if choice != "auto" else ("db" if median < 0 else "linear")
    if choice == "auto" and median > _BRIGHTEST_MEDIAN:
        raise RasterError(
            f"{called} has a median of {median:.3g}, which is no backscatter in linear power; expected calibrated "
            "gamma nought: calibrate it first, or give --s1-scale linear if it is"
        )
    if choice == "auto":
        kind = "dB" if scale == "db" else "linear power"
        note = f"{called}: values look like {kind} (median {median:.3g}); --s1-scale says otherwise"
    else:
        note = f"{called}: read as {'dB' if scale == 'db' else 'linear power'}, as --s1-scale says"
    return scale, note


def in_power(blocks: Sequence[Block], scale: Literal["db", "linear"]) -> tuple[Block, ...]:
    """Sentinel-1 blocks in linear power, from values in ``scale``; :class:`RasterError` for what no measurement gives.

    The change comes before any resampling, since an average of dB is no average of power.
    """
    for block in blocks:
        refuse_implausible(block, scale)
    if scale == "linear":
        return tuple(blocks)
    return tuple(replace(block, values=np.float32(10) ** (block.values / np.float32(10))) for block in blocks)


def refuse_implausible(block: Block, kind: str) -> None:
    """Raise :class:`RasterError` for values that no measurement gives, before resampling spreads them."""
    low, high, _ = PLAUSIBLE[kind]
    if block.touched((block.values < low) | (block.values > high)).any():
        refuse_implausible_values(block.values, kind, block.label, block.band)


def refuse_implausible_values(values: NDArray[np.float32], kind: str, called: str, band: str) -> None:
    """Raise :class:`RasterError` where ``values`` of a band, of any shape, hold what no measurement gives."""
    low, high, units = PLAUSIBLE[kind]
    odd = (values < low) | (values > high)
    if odd.any():
        instead = "give --s1-scale db if this is dB, else " if kind == "linear" else ""
        raise RasterError(
            f"{called} holds {values[odd][0]:g} in band {band} ({np.count_nonzero(odd)} pixels); "
            f"expected {low:g} to {high:g} {units}: {instead}declare it as nodata (gdal_edit -a_nodata)"
        )


def to_codes(
    values: NDArray[np.float32], mapping: Mapping[int, int] | None, modality: Modality, called: str
) -> NDArray[np.float32]:
    """Class codes by ``mapping``, all at once; codes that it does not list, and NaN, stay.

    Raises :class:`RasterError` for a value that is no code of the modality then, :class:`RequestError` for a mapping
    to what is none.
    """
    known = ", ".join(f"{code} {meaning}" for code, meaning in modality.codes.items())
    codes = values.copy()
    for old, new in (mapping or {}).items():
        if new not in modality.codes:
            raise RequestError(f"--lulc-map {old}:{new}: {new} is no class; expected one of {known}")
        codes[values == old] = new
    found = np.unique(codes[~np.isnan(codes)])
    unknown = ", ".join(f"{code:g}" for code in found if code not in modality.codes)
    if unknown:
        advice = "map them with --lulc-map OLD:NEW,..." if modality.family == "LULC" else "recode the file"
        raise RasterError(f"{called} holds unknown codes {unknown}; expected {known}: {advice}, or declare nodata")
    return codes
