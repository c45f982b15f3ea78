"""From latent fields to pixels: overlapping windows decoded, feathered, and given out in strips."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from .. import transforms
from ..modalities import CELL_METRES, PATCH_METRES, get
from ..pipeline import Pipeline
from .blend import weights
from .draw import Layout

Floats = NDArray[np.float32]


def decode_strips(
    pipeline: Pipeline,
    layout: Layout,
    key: str,
    latents: Floats,
    *,
    report: Callable[[int], None] = lambda done: None,
) -> Iterator[tuple[int, NDArray[np.generic]]]:
    """The image of modality ``key`` from its scene's ``latents`` (C, h, w), as (first row, pixels (C, rows, W)).

    Strips come from top to bottom, are whole rows of the scene in physical units, and overlap nowhere. Feathering is
    done in model space, so classes are chosen after the scores of overlapping windows are averaged. ``report`` is
    called with the windows decoded. Raises as :meth:`Pipeline.decode` does.
    """
    m = get(key)
    height, width = layout.grid.shape(m.resolution)
    cell = m.size * CELL_METRES // PATCH_METRES
    rows, columns = layout.starts
    # Rows of windows come from top to bottom, so what lies above the next one is final.
    open_strip = np.zeros((m.channels, m.size, layout.grid.cells[1] * cell), np.float32)
    done = 0
    for number, row in enumerate(rows):
        here = [index for index, window in enumerate(layout.windows) if window[0] == row]
        for start in range(0, len(here), pipeline.batch):
            part = here[start : start + pipeline.batch]
            stack = np.stack([layout.part(key, latents, window) for window in part]).reshape(-1, *m.latent_shape)
            for window, image in zip(part, pipeline.decode(key, stack), strict=True):
                column = layout.windows[window][1]
                vertical, across = weights(rows, cell)[number], weights(columns, cell)[columns.index(column)]
                open_strip[:, :, column * cell : column * cell + m.size] += image * (vertical[:, None] * across)
            done += len(part)
            report(done)
        final = m.size if number == len(rows) - 1 else (rows[number + 1] - row) * cell
        ready = open_strip[:, : min(final, height - row * cell), :width]
        if ready.shape[1] > 0:
            yield row * cell, transforms.image_to_physical(key, ready[np.newaxis])[0]
        open_strip[:, : m.size - final] = open_strip[:, final:].copy()
        open_strip[:, m.size - final :] = 0
