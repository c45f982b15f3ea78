"""Land cover maps: which codes a raster holds, and what they are in the model's own, those of the ESRI annual map."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Literal

from ...errors import RasterError
from ...modalities import BY_KEY

Cover = Literal["esri", "worldcover"]

WORLDCOVER: Mapping[int, int] = MappingProxyType(
    {
        10: 2,  # tree cover -> trees
        20: 11,  # shrubland -> rangeland
        30: 11,  # grassland -> rangeland
        40: 5,  # cropland -> crops
        50: 7,  # built-up -> built-up
        60: 8,  # bare, sparse vegetation -> bare
        70: 9,  # snow and ice -> snow/ice
        80: 1,  # permanent water bodies -> water
        90: 4,  # herbaceous wetland -> flooded vegetation
        95: 4,  # mangroves -> flooded vegetation
        100: 11,  # moss and lichen -> rangeland
    }
)
"""ESA WorldCover class -> ESRI class; 0 is no data in both.

Sources: ESA WorldCover 10 m Product User Manual v2.0, table of classes; Esri / Impact Observatory 10 m annual land
cover, class definitions of version 2: its rangeland is open land of grass, shrub and moss, its flooded vegetation any
kind that stands in water for most of the year, mangroves and emergent wetland included. WorldCover has no clouds.
"""

ESRI: frozenset[int] = frozenset(BY_KEY["LULC_LULC"].codes)


def which_cover(codes: Collection[float], *, named_worldcover: bool, called: str) -> Cover | None:
    """Whose codes a raster holds; None where they could be either's and nothing names it.

    ``codes`` are those found, ``named_worldcover`` whether the file's name or its collection says WorldCover.

    Raises :class:`RasterError` where they are neither's.
    """
    found = {code for code in codes if code != 0}
    if found <= set(WORLDCOVER):
        if named_worldcover or not found <= ESRI:
            return "worldcover"
        # 10 is trees in the one and clouds in the other.
        return None if found else "esri"
    if found <= ESRI:
        return "esri"
    odd = ", ".join(f"{code:g}" for code in sorted(found - ESRI)[:12])
    raise RasterError(
        f"{called} holds codes {odd} that are not ESRI's ({', '.join(map(str, sorted(ESRI)))}), nor all of its codes "
        f"WorldCover's ({', '.join(map(str, WORLDCOVER))}); map them with --lulc-map OLD:NEW,..., or declare nodata"
    )
