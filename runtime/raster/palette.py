"""The colours that a raster's colour table and the quicklook share, and the colour ramps of the quicklook."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from .. import modalities

Colour = tuple[int, int, int]

_BLACK: Colour = (0, 0, 0)
_BY_NAME: Mapping[str, Mapping[str, Colour]] = MappingProxyType(
    {
        "LULC": {
            "no data": _BLACK,
            "water": (0x1A, 0x5B, 0xAB),
            "trees": (0x35, 0x82, 0x21),
            "flooded vegetation": (0x87, 0xD1, 0x9E),
            "crops": (0xFF, 0xDB, 0x5C),
            "built-up": (0xED, 0x02, 0x2A),
            "bare": (0xED, 0xE9, 0xE4),
            "snow/ice": (0xF2, 0xFA, 0xFF),
            "clouds": (0xC8, 0xC8, 0xC8),
            "rangeland": (0xC6, 0xAD, 0x8D),
        },
        "cloud_mask": {
            "clear": (0x7F, 0xA8, 0x6B),
            "thick cloud": (0xFF, 0xFF, 0xFF),
            "thin cloud": (0xA9, 0xC4, 0xDE),
            "cloud shadow": (0x3B, 0x37, 0x4C),
        },
    }
)

CLASS_COLOURS: Mapping[str, Mapping[int, Colour]] = MappingProxyType(
    {
        m.key: MappingProxyType({code: _BY_NAME[m.family][name] for code, name in m.codes.items()})
        for m in modalities.MODALITIES
        if m.is_codes
    }
)
"""Key of a modality of codes -> code -> (red, green, blue). Land cover: the palette of ESRI / Impact Observatory."""

HEAT: tuple[Colour, ...] = ((13, 8, 45), (84, 19, 107), (164, 44, 96), (226, 90, 55), (251, 163, 38), (252, 246, 178))
"""Ramp of a spread, from none (dark) to most (bright), its luminance rising all the way."""

HYPSOMETRIC: tuple[Colour, ...] = (
    (92, 142, 104),
    (148, 178, 118),
    (216, 208, 148),
    (196, 160, 110),
    (158, 124, 100),
    (196, 188, 186),
    (250, 250, 250),
)
"""Ramp of elevation, from lowland green to white."""


def ramp(values: np.ndarray, colours: tuple[Colour, ...]) -> np.ndarray:
    """Colours of ``values`` (any shape, clipped to 0..1) as float64 with a last axis of 3, 0..255."""
    knots = np.linspace(0.0, 1.0, len(colours))
    table = np.asarray(colours, dtype=np.float64)
    return np.stack([np.interp(values, knots, table[:, c]) for c in range(3)], axis=-1)
