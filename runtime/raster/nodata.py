"""Pixels that hold nothing: found, refused, or filled when the user asks for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rasterio.fill import fillnodata

from ..errors import RasterError
from .read import Block


def share(flags: NDArray[np.bool_]) -> str:
    """How much of a window is flagged, for a message."""
    count = int(np.count_nonzero(flags))
    percent = 100 * count / flags.size
    digits = ".0f" if percent >= 10 else ".2g"
    return f"{count} of {flags.size} pixels ({percent:{digits}} %)"


def refuse_broken(blocks: Sequence[Block]) -> None:
    """Raise :class:`RasterError` where NaN or infinity that is not nodata reaches the window."""
    for block in blocks:
        reached = block.touched(block.broken)
        if reached.any():
            raise RasterError(
                f"{block.label} has NaN or infinity in band {block.band}, {share(reached)} of the window, and does not "
                "declare it as nodata; mend the file, or declare NaN as nodata (gdal_edit -a_nodata nan)"
            )


def empty_pixels(blocks: Sequence[Block], *, zero_is_empty: bool) -> NDArray[np.bool_]:
    """Which pixels of the window, (n, n), lack data in some band.

    With ``zero_is_empty``, also those where a zero contributes to every band alike: how Sentinel-2 leaves what it has
    not seen, whether declared or not. A zero in one band only is a value.
    """
    empty = np.any([np.isnan(block.on_window()) for block in blocks], axis=0)
    if zero_is_empty:
        empty |= np.all([block.touched(block.values == 0) for block in blocks], axis=0)
    return empty


def refuse_empty(empty: NDArray[np.bool_], called: str, *, fill: bool) -> None:
    """Raise :class:`RasterError` where a window has nothing, or has gaps that nobody asked to have filled."""
    if empty.all():
        raise RasterError(f"{called} is all nodata in the window; choose another with --center or --window")
    if empty.any() and not fill:
        raise RasterError(
            f"{called} has nodata in the window: {share(empty)}; choose another window, or fill it with --fill-nodata"
        )


def fill_values(values: NDArray[np.float32], empty: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Values (C, H, W) with the pixels of ``empty`` (H, W) interpolated from those around them."""
    known = (~empty).astype(np.uint8)
    # Any gap is within reach of some value: the search spans the window's diagonal.
    reach = 2.0 * max(empty.shape)
    return np.stack(
        [fillnodata(np.where(empty, np.float32(0), band), mask=known, max_search_distance=reach) for band in values]
    )


def fill_codes(codes: NDArray[np.float32], empty: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Codes (H, W) with the pixels of ``empty`` (H, W) taking the code of the nearest known one, in city blocks."""
    filled, known = codes.copy(), ~empty
    while not known.all():
        grown = known.copy()
        for axis in (0, 1):
            for step in (1, -1):
                # Rolled over the edge, a pixel would take its neighbour from the far side.
                near, code = np.roll(known, step, axis), np.roll(filled, step, axis)
                edge = 0 if step == 1 else -1
                np.moveaxis(near, axis, 0)[edge] = False
                new = near & ~grown
                filled[new] = code[new]
                grown |= new
        known = grown
    return filled
