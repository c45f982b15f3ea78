"""Held-out patches of the procedural world as the truth of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np

from ..runtime.evaluation.truth import Truth
from .world import draw, draw_many

HELD_OUT = 500_000_000
"""First seed of the patches that no training sees."""

_FIXED = frozenset({"3d_cartesian_lat_lon", "DEM_DEM", "LULC_LULC"})
"""What weather leaves as it is; a date can be pinned."""


def world_truth(count: int, given: Sequence[str], *, redraws: int = 0, first: int = HELD_OUT) -> Truth:
    """``count`` patches from seed ``first`` on, all twelve modalities in physical units.

    Where the modality keys ``given`` leave the weather open (they are among place, elevation, land cover and date),
    each patch is drawn ``redraws`` times more under other weather, the date being the patch's own if it is given and
    drawn anew if not. That is the true distribution under the condition where place, elevation and land cover are all
    given; they stay the patch's own, and so the draws are too narrow, where one is not.
    """
    stacked = draw_many(range(first, first + count))
    names = tuple(f"world {first + i}" for i in range(count))
    if not redraws or not set(given) <= _FIXED | {"mean_timestamps"}:
        return Truth(names, stacked)
    again = []
    for i, (year, month, day) in enumerate(stacked["mean_timestamps"].tolist()):
        pinned = date(year, month, day) if "mean_timestamps" in given else None
        again.append([draw(first + i, weather=1 + j, date=pinned) for j in range(redraws)])
    draws = {
        key: np.stack([np.concatenate([one[key] for one in each]) for each in again])
        for key in stacked
        if key not in given
    }
    return Truth(names, stacked, draws)
