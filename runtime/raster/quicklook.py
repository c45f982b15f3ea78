"""A contact sheet of one result: what was given, and the samples side by side with their spread, as one PNG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..errors import CopgenError, NonFiniteError, RequestError
from ..modalities import KEYS, get
from .cards import FADED, INK, RULE, date_card, font, place_card
from .palette import CLASS_COLOURS, HEAT, Colour, ramp
from .render import (
    GAMMA,
    PERCENTILES,
    SUN_ALTITUDE,
    SUN_AZIMUTH,
    Limits,
    describe,
    measure_limits,
    measure_spread,
    render,
)

MAX_SAMPLES = 8
"""Samples that a sheet shows at most."""

_PAPER: Colour = (250, 250, 248)
_MARGIN, _GAP = 28, 10
_LABEL, _BAR, _CAPTION = 190, 96, 70
_TITLE, _HEADING, _COLUMN_HEAD, _LEGEND_ROW = 66, 40, 24, 26
_TILES = (384, 192)
_FITS = (1600, 1450)
_FAMILIES = {
    "place": "Place",
    "DEM": "Elevation",
    "LULC": "Land cover",
    "S1RTC": "Sentinel-1 RTC",
    "S2L1C": "Sentinel-2 L1C",
    "cloud_mask": "Cloud mask",
    "S2L2A": "Sentinel-2 L2A",
    "date": "Date",
}
_Swatch = tuple[int, int, Colour | None, str]


_NOTES = {
    "elevation": f"Shaded relief: sun at azimuth {SUN_AZIMUTH:.0f}°, altitude {SUN_ALTITUDE:.0f}°.",
    "reflectance": f"Sentinel-2: percentiles {PERCENTILES[0]:.0f} to {PERCENTILES[1]:.0f} of a row, gamma {GAMMA}.",
}


@dataclass(frozen=True)
class _Layout:
    """Pixel sizes of a sheet without its legend: the tile's side, then what it has to hold."""

    tile: int
    given: int
    columns: int
    rows: int
    spread: bool

    @property
    def step(self) -> int:
        return self.tile + _GAP

    @property
    def width(self) -> int:
        generated = _LABEL + self.columns * self.step - _GAP
        if self.spread:
            generated += _GAP + self.step + _BAR
        return 2 * _MARGIN + max(generated, min(self.given, 5) * self.step - _GAP, 560)

    @property
    def across(self) -> int:
        """Given tiles side by side."""
        return (self.width - 2 * _MARGIN + _GAP) // self.step

    @property
    def given_rows(self) -> int:
        return math.ceil(self.given / self.across)

    @property
    def height(self) -> int:
        given = self.given_rows * (self.tile + _CAPTION)
        generated = _COLUMN_HEAD + self.rows * self.step
        return _TITLE + 2 * _HEADING + given + generated


def write_quicklook(
    path: Path, conditions: Mapping[str, np.ndarray], samples: Mapping[str, np.ndarray], *, title: str
) -> None:
    """Draw ``conditions`` (one row each) and ``samples`` (S rows each) into one PNG at ``path``.

    Values are physical: images and codes (rows, C, H, W), place (rows, 2) latitude and longitude in degrees, date
    (rows, 3) year, month, day. At most :data:`MAX_SAMPLES` samples are drawn; the spread, for S > 1, is of all S.
    Missing values of conditions are grey.

    Raises :class:`RequestError` where there are no samples, or their numbers differ, or a condition has not one row;
    :class:`NonFiniteError` where a sample is NaN or infinite; :class:`CopgenError` where ``path`` cannot be written.
    """
    total = _check(conditions, samples)
    drawn = [*conditions.items(), *((key, rows[:MAX_SAMPLES]) for key, rows in samples.items())]
    images = [(key, rows) for key, rows in drawn if get(key).is_image]
    limits = measure_limits(images)
    shown = min(total, MAX_SAMPLES)
    for tile in _TILES:
        layout = _Layout(tile, len(conditions), shown, len(samples), total > 1)
        if layout.width <= _FITS[0] and layout.height <= _FITS[1]:
            break
    legend = _legend(images, layout.width)
    bottom = legend[-1][1] + _LEGEND_ROW if legend else 0
    sheet = Image.new("RGB", (layout.width, layout.height + bottom + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    size = _title_size(title, layout.width - 2 * _MARGIN)
    draw.text((_MARGIN, 24), _fit(title, size, layout.width - 2 * _MARGIN), INK, font(size))
    y = _heading(draw, layout, _TITLE, "Given", "" if conditions else "nothing")
    y = _draw_given(sheet, layout, y, conditions, limits)
    y = _heading(draw, layout, y, "Generated", f"{shown} of {total} samples" if shown < total else "")
    _draw_generated(sheet, layout, y, samples, limits)
    for x, below, colour, text in legend:
        y = layout.height + below
        if colour:
            draw.rectangle([x - 19, y, x - 6, y + 13], colour, RULE)
        draw.text((x, y), text, FADED, font(12))
    try:
        sheet.save(path, format="PNG")
    except OSError as error:
        raise CopgenError(
            f"cannot write {path}: {error.strerror}; give a folder that exists, is writable and has space"
        ) from error


def _check(conditions: Mapping[str, np.ndarray], samples: Mapping[str, np.ndarray]) -> int:
    """The number of samples."""
    for key, rows in conditions.items():
        if len(rows) != 1:
            raise RequestError(f"condition {key} has {len(rows)} rows; expected 1: pass one row, [n:n+1]")
    for key, rows in samples.items():
        if not np.isfinite(rows).all():
            raise NonFiniteError(
                f"samples of {key} hold NaN or infinity, expected none: run 'copgen-edge verify' on the bundle"
            )
    numbers = sorted({len(rows) for rows in samples.values()})
    if len(numbers) != 1 or numbers[0] == 0:
        raise RequestError(f"found {numbers} rows of samples; expected one number, 1 or more: pass S rows of each")
    return numbers[0]


def _ordered(group: Mapping[str, np.ndarray]) -> list[str]:
    return [key for key in KEYS if key in group]


def _tile(key: str, row: np.ndarray, limits: Limits, size: int) -> Image.Image:
    kind = get(key).kind
    if kind == "place":
        return place_card(row, size)
    if kind == "date":
        return date_card(row, size)
    return _scaled(render(key, row[0], limits), size, smooth=kind != "codes")


def _scaled(rgb: np.ndarray, size: int, *, smooth: bool) -> Image.Image:
    """``rgb`` (H, W, 3) in a square tile: enlarged pixel by pixel, or made smaller, by averages where ``smooth``."""
    height, width = rgb.shape[:2]
    factor = size / max(height, width)
    how = Image.Resampling.BOX if smooth and factor < 1 else Image.Resampling.NEAREST
    picture = Image.fromarray(rgb).resize((round(width * factor), round(height * factor)), how)
    tile = Image.new("RGB", (size, size), _PAPER)
    tile.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    return tile


def _heading(draw: ImageDraw.ImageDraw, layout: _Layout, y: int, text: str, note: str) -> int:
    draw.line([(_MARGIN, y), (layout.width - _MARGIN, y)], RULE)
    draw.text((_MARGIN, y + 9), text, INK, font(18))
    draw.text((_MARGIN + font(18).getlength(text) + 12, y + 13), note, FADED, font(13))
    return y + _HEADING


def _caption(draw: ImageDraw.ImageDraw, at: tuple[int, int], key: str, limits: Limits, width: int) -> None:
    modality = get(key)
    name = _FAMILIES[modality.family] + (f", {modality.resolution} m" if modality.is_image else "")
    draw.text(at, _fit(name, 14, width), INK, font(14))
    for i, line in enumerate(describe(key, limits) if modality.is_image else []):
        draw.text((at[0], at[1] + 18 + 15 * i), _fit(line, 12, width), FADED, font(12))


def _title_size(title: str, width: int) -> int:
    """The largest size at which the title fits: a sheet of one sample is narrow, and its seed stands last."""
    return next((size for size in (24, 20, 17, 14) if font(size).getlength(title) <= width), 12)


def _fit(text: str, size: int, width: int) -> str:
    """``text``, its end left off where it is wider than ``width`` pixels."""
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _draw_given(
    sheet: Image.Image, layout: _Layout, y: int, conditions: Mapping[str, np.ndarray], limits: Limits
) -> int:
    """Draw the tiles of ``conditions`` from ``y`` on, captions below; the y that follows."""
    down = layout.tile + _CAPTION
    for i, key in enumerate(_ordered(conditions)):
        at = (_MARGIN + i % layout.across * layout.step, y + i // layout.across * down)
        sheet.paste(_tile(key, conditions[key], limits, layout.tile), at)
        _caption(ImageDraw.Draw(sheet), (at[0], at[1] + layout.tile + 6), key, limits, layout.tile)
    return y + layout.given_rows * down


def _draw_generated(
    sheet: Image.Image, layout: _Layout, y: int, samples: Mapping[str, np.ndarray], limits: Limits
) -> None:
    """Draw a row a modality from ``y`` on: its name, its samples and their spread."""
    draw = ImageDraw.Draw(sheet)
    columns = [_MARGIN + _LABEL + s * layout.step for s in range(layout.columns)]
    spread = columns[-1] + layout.step + _GAP
    for s, x in enumerate(columns):
        draw.text((x, y), f"Sample {s}", FADED, font(13))
    if layout.spread:
        draw.text((spread, y), "Spread of all samples", FADED, font(13))
    y += _COLUMN_HEAD
    for key in _ordered(samples):
        rows = samples[key]
        _caption(draw, (_MARGIN, y + 2), key, limits, _LABEL - _GAP)
        for s, x in enumerate(columns):
            sheet.paste(_tile(key, rows[s : s + 1], limits, layout.tile), (x, y))
        if layout.spread:
            _draw_spread(sheet, (spread, y), key, rows, layout.tile)
        y += layout.step


def _draw_spread(sheet: Image.Image, at: tuple[int, int], key: str, samples: np.ndarray, size: int) -> None:
    x, y = at
    if not get(key).is_image:
        sheet.paste(_tile(key, samples, {}, size), at)
        return
    spread = measure_spread(key, samples)
    sheet.paste(_scaled(spread.rgb, size, smooth=True), at)
    draw = ImageDraw.Draw(sheet)
    bar = np.rint(ramp(np.linspace(1.0, 0.0, size)[:, None], HEAT)).astype(np.uint8)
    sheet.paste(Image.fromarray(bar).resize((12, size)), (x + size + _GAP, y))
    right = x + size + _GAP + 18
    draw.text((right, y), spread.high, FADED, font(12), anchor="lt")
    draw.text((right, y + size), spread.low, FADED, font(12), anchor="lb")
    for i, word in enumerate(spread.words):
        draw.text((right, y + size // 2 + 15 * (i - 1)), word, FADED, font(12))


def _legend(images: Sequence[tuple[str, np.ndarray]], width: int) -> list[_Swatch]:
    """What the colours mean, as (x of the text, y below the tiles, colour, text): the classes that occur, and notes."""
    entries: list[list[tuple[Colour | None, str]]] = []
    for key in _ordered(dict(images)):
        modality = get(key)
        if modality.is_codes:
            found = np.unique(np.concatenate([rows.ravel() for name, rows in images if name == key]))
            classes = [(CLASS_COLOURS[key][code], name) for code, name in modality.codes.items() if code in found]
            entries.append([(None, _FAMILIES[modality.family]), *classes])
    kinds = {get(key).kind for key, _ in images}
    entries += [[(None, note)] for kind, note in _NOTES.items() if kind in kinds]
    placed: list[_Swatch] = []
    y = 8
    for line in entries:
        x = _MARGIN
        for colour, text in line:
            x += 19 if colour else 0
            advance = round(font(12).getlength(text)) + 16
            if x + advance > width - _MARGIN + 16 and x > _MARGIN + 19:
                x, y = _MARGIN + 19, y + _LEGEND_ROW
            placed.append((x, y, colour, text))
            x += advance
        y += _LEGEND_ROW
    return placed
