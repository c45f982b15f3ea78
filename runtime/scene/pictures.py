"""Pictures of a scene's rasters: read small, through their overviews, and drawn with their legends as PNGs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rasterio.enums import Resampling

from ..errors import CopgenError
from ..folders import whole_file
from ..modalities import KEYS, Modality, get
from ..raster.cards import FADED, INK, RULE, font
from ..raster.palette import CLASS_COLOURS, HEAT, Colour, ramp
from ..raster.render import Limits, describe, measure_limits, render
from ..raster.storage import REFLECTANCE_SCALE
from .blocks import reading
from .grid import SceneGrid
from .rasters import VALIDITY
from .statistics import QUANTILES

FOLDER = "pictures"
MAX_SAMPLES = 8
"""Samples of a modality that have a picture."""

_BODY, _LEAST = 896, 384
"""Longest side of what a picture shows, in pixels, and the width below which it is enlarged or padded."""
_LOOK = 256
"""Longest side of what is read to find the stretch that pictures share."""
_PAPER: Colour = (250, 250, 248)
_MISSING: Colour = (128, 128, 128)
_LINE, _MARGIN = 20, 8
_VALIDITY_COLOURS: Mapping[int, Colour] = {1: (127, 168, 107), 2: (251, 163, 38), 3: (164, 44, 96)}

Floats = NDArray[np.float32]
_Swatches = Sequence[tuple[Colour, str]]


@dataclass(frozen=True)
class _Picture:
    """``rgb`` (H, W, 3) uint8 with what it shows in words, and the legend: colours, or the values at a ramp's ends."""

    rgb: NDArray[np.uint8]
    caption: str
    swatches: _Swatches = ()
    ends: tuple[str, str] | None = None


def write_pictures(
    folder: Path,
    grid: SceneGrid,
    files: Sequence[Mapping[str, Any]],
    given: Mapping[str, Floats] | None = None,
) -> list[dict[str, Any]]:
    """Draw the rasters of ``files`` in ``folder`` as ``pictures/<name>.png``, at most 1024 pixels a side.

    ``files`` are entries with ``file``, ``modality``, ``kind`` and ``sample``, as :func:`write_statistics` returns
    them; kinds "sample" and "validity" (with modality None) too. ``given`` are conditions by key, (C, H, W) physical
    over the whole scene at any size, NaN where unknown. At most :data:`MAX_SAMPLES` samples are drawn of a modality.
    Mean, samples and what was given of one modality share their stretch.

    Returns an entry a picture: ``file``, ``modality``, ``kind`` ("picture"), ``sample``, ``of`` (the raster's name, or
    None of what was given), and ``caption``.

    Raises :class:`RasterError` where a raster cannot be read and :class:`CopgenError` where a picture cannot be
    written.
    """
    given = given or {}
    drawn: list[dict[str, Any]] = []

    def draw(picture: _Picture, key: str, name: str, of: str | None = None, sample: int | None = None) -> None:
        _save(folder / FOLDER / f"{name}.png", picture)
        drawn.append(
            {
                "file": f"{FOLDER}/{name}.png",
                "modality": key,
                "kind": "picture",
                "sample": sample,
                "of": of,
                "caption": picture.caption,
            }
        )

    for key in KEYS:
        entries = [entry for entry in files if entry["modality"] == key and entry["file"].endswith(".tif")]
        entries = [entry for entry in entries if entry["sample"] is None or entry["sample"] < MAX_SAMPLES]
        limits = _shared_limits(folder, key, entries, given.get(key))
        if key in given:
            picture = _values(key, given[key], limits, grid, "given")
            draw(picture, key, f"{key}.given")
        for entry in entries:
            path = folder / entry["file"]
            draw(_picture(path, key, entry, limits, grid), key, path.stem, entry["file"], entry["sample"])
    for entry in files:
        if entry["kind"] == "validity":
            path = folder / entry["file"]
            for key, picture in _validity(path):
                draw(picture, key, f"{path.stem}.{key}", entry["file"])
    return drawn


def _shared_limits(folder: Path, key: str, entries: Iterable[Mapping[str, Any]], given: Floats | None) -> Limits:
    if get(key).is_codes or not get(key).is_image:
        return {}
    alike = [entry for entry in entries if entry["kind"] in ("mean", "sample")]
    images = [_read(folder / entry["file"], _LOOK) for entry in alike]
    return measure_limits((key, image[np.newaxis]) for image in (*images, *([] if given is None else [given])))


def _read(path: Path, longest: int = _BODY) -> Floats:
    """All bands at ``longest`` pixels a side at most; averages of amounts, and of codes one that occurs."""
    with reading(path) as dataset:
        factor = max(1.0, max(dataset.shape) / longest)
        shape = (dataset.count, *(max(1, round(side / factor)) for side in dataset.shape))
        how = Resampling.nearest if dataset.dtypes[0] == "uint8" else Resampling.average
        return dataset.read(out_shape=shape, resampling=how).astype(np.float32)


def _picture(path: Path, key: str, entry: Mapping[str, Any], limits: Limits, grid: SceneGrid) -> _Picture:
    modality, kind = get(key), entry["kind"]
    image = _read(path)
    if kind in ("mean", "mode", "sample"):
        return _values(key, image, limits, grid, kind if entry["sample"] is None else f"sample {entry['sample']}")
    if kind == "std":
        return _std(modality, image, path)
    if kind == "quantiles":
        return _spread(modality, image)
    if kind == "probability":
        least = 1.0 / len(modality.codes)
        return _heat(1.0 - image.max(axis=0), 1.0 - least, "share of the samples in the mode", ("1.00", f"{least:.2f}"))
    high = max(float(np.percentile(image[0], 99.0)), 0.1)
    return _heat(image[0], high, "entropy of the classes", ("0", f"{high:.2f} bit"))


def _values(key: str, image: Floats, limits: Limits, grid: SceneGrid, what: str) -> _Picture:
    rgb = render(key, image, limits, resolution=grid.width / image.shape[2])
    classes: list[tuple[Colour, str]] = []
    if get(key).is_codes:
        found = np.unique(image)
        classes = [(CLASS_COLOURS[key][code], name) for code, name in get(key).codes.items() if code in found]
    return _Picture(rgb, f"{what}: {', '.join(describe(key, limits))}", classes)


def _std(modality: Modality, std: Floats, path: Path) -> _Picture:
    words = "standard deviation of the samples"
    if modality.kind == "backscatter":
        # That of linear power follows the brightness; its share of the mean does not.
        mean = _read(path.with_name(f"{modality.key}.mean.tif"))
        return _amount((std / np.maximum(mean, 1e-6)).mean(axis=0), f"{words} over their mean, mean of VV and VH", "")
    return _amount(*_shown(modality, std, words))


def _spread(modality: Modality, image: Floats) -> _Picture:
    names = list(QUANTILES)
    bands = image.reshape(-1, len(names), *image.shape[1:])
    low, high = bands[:, 0], bands[:, -1]
    words = f"from {names[0]} to {names[-1]} of the samples"
    if modality.kind == "backscatter":
        decibels = 10.0 * np.log10(np.maximum(high, 1e-6) / np.maximum(low, 1e-6))
        return _amount(decibels.mean(axis=0), f"{words}, mean of VV and VH", "dB")
    return _amount(*_shown(modality, high - low, words))


def _shown(modality: Modality, bands: Floats, words: str) -> tuple[Floats, str, str]:
    """The mean over bands in the unit that users think in, what it is, and the unit."""
    if modality.kind == "reflectance":
        return bands.mean(axis=0) * REFLECTANCE_SCALE, f"{words}, mean of the bands", "reflectance"
    return bands[0], words, modality.units


def _amount(values: Floats, words: str, unit: str) -> _Picture:
    high = float(np.nanpercentile(values, 99.0))
    high = high if high > 0 else 1.0
    return _heat(values, high, words, ("0", f"{high:.3g} {unit}".strip()))


def _heat(values: Floats, high: float, words: str, ends: tuple[str, str]) -> _Picture:
    rgb = np.rint(ramp(values / high, HEAT)).astype(np.uint8)
    return _Picture(rgb, f"{words}: {ends[0]} (dark) to {ends[1]} (bright)", ends=ends)


def _validity(path: Path) -> list[tuple[str, _Picture]]:
    with reading(path) as dataset:
        keys = dataset.descriptions
    pictures = []
    for key, codes in zip(keys, _read(path), strict=True):
        rgb = np.full((*codes.shape, 3), _MISSING, dtype=np.uint8)
        for code, colour in _VALIDITY_COLOURS.items():
            rgb[codes == code] = colour
        swatches = [(_VALIDITY_COLOURS[code], words) for code, words in VALIDITY.items() if (codes == code).any()]
        pictures.append((key, _Picture(rgb, "what is known of the condition", swatches)))
    return pictures


def _save(path: Path, picture: _Picture) -> None:
    body = Image.fromarray(picture.rgb)
    shrink = min(1.0, _BODY / max(body.size))
    enlarge = -(-_LEAST // max(body.size))
    size = [max(1, round(side * shrink)) * enlarge for side in body.size]
    body = body.resize((size[0], size[1]), Image.Resampling.BOX if shrink < 1 else Image.Resampling.NEAREST)
    width = max(size[0], _LEAST)
    placed, below = _place(picture, width)
    sheet = Image.new("RGB", (width, size[1] + below + _MARGIN), _PAPER)
    sheet.paste(body, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for x, y, colour, text in placed:
        top = size[1] + y
        if colour:
            draw.rectangle([x, top + 1, x + 12, top + 13], colour, RULE)
        draw.text((x + 18 if colour else x, top), text, FADED if colour else INK, font(12))
    if picture.ends:
        _draw_ramp(sheet, picture.ends, size[1] + below - _LINE)
    try:
        with whole_file(path) as partial:
            sheet.save(partial, format="PNG")
    except OSError as error:
        raise CopgenError(
            f"cannot write {path}: {error.strerror}; give a folder that exists, is writable and has space"
        ) from error


def _place(picture: _Picture, width: int) -> tuple[list[tuple[int, int, Colour | None, str]], int]:
    """Words and swatches as (x, y below the picture, colour, text), and the y below them all."""
    placed: list[tuple[int, int, Colour | None, str]] = []
    y = _MARGIN
    # A ramp says its own ends; the caption repeats them for those who only read.
    caption = picture.caption.split(": ")[0] if picture.ends else picture.caption
    for line in _wrapped(caption, width - 2 * _MARGIN):
        placed.append((_MARGIN, y, None, line))
        y += _LINE
    x = _MARGIN
    for colour, text in picture.swatches:
        advance = round(font(12).getlength(text)) + 34
        if x + advance > width and x > _MARGIN:
            x, y = _MARGIN, y + _LINE
        placed.append((x, y, colour, text))
        x += advance
    return placed, y + _LINE if picture.swatches or picture.ends else y


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font(12).getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _draw_ramp(sheet: Image.Image, ends: tuple[str, str], y: int) -> None:
    draw = ImageDraw.Draw(sheet)
    left = _MARGIN + round(font(12).getlength(ends[0])) + 6
    bar = np.rint(ramp(np.linspace(0.0, 1.0, 160)[np.newaxis], HEAT)).astype(np.uint8)
    draw.text((_MARGIN, y), ends[0], FADED, font(12))
    sheet.paste(Image.fromarray(bar).resize((160, 12)), (left, y + 1))
    draw.text((left + 166, y), ends[1], FADED, font(12))
