"""From latent fields to pixels: overlapping windows decoded, feathered, and given out in strips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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
    samples: Sequence[Floats],
    *,
    report: Callable[[int], None] = lambda done: None,
) -> Iterator[tuple[int, NDArray[np.generic]]]:
    """The images of modality ``key`` from its scene's latents (C, h, w) of some ``samples``, as (first row, pixels
    (S, C, rows, W)).

    Strips come from top to bottom, are whole rows of the scene in physical units, and overlap nowhere. Feathering is
    done in model space, so classes are chosen after the scores of overlapping windows are averaged. ``report`` is
    called with the windows decoded. Raises as :meth:`Pipeline.decode` does.
    """
    m = get(key)
    height, width = layout.grid.shape(m.resolution)
    cell = m.size * CELL_METRES // PATCH_METRES
    rows, columns = layout.starts
    # Rows of windows come from top to bottom, so what lies above the next one is final.
    open_strip = np.zeros((len(samples), m.channels, m.size, layout.grid.cells[1] * cell), np.float32)
    done = 0
    for number, row in enumerate(rows):
        here = [index for index, window in enumerate(layout.windows) if window[0] == row]
        pairs = [(window, sample) for window in here for sample in range(len(samples))]
        for start in range(0, len(pairs), pipeline.batch):
            some = pairs[start : start + pipeline.batch]
            stack = np.stack([layout.part(key, samples[sample], window) for window, sample in some])
            images = pipeline.decode(key, stack.reshape(-1, *m.latent_shape))
            for (window, sample), image in zip(some, images, strict=True):
                column = layout.windows[window][1]
                vertical, across = weights(rows, cell)[number], weights(columns, cell)[columns.index(column)]
                open_strip[sample, ..., column * cell : column * cell + m.size] += image * (vertical[:, None] * across)
        done += len(here)
        report(done)
        final = m.size if number == len(rows) - 1 else (rows[number + 1] - row) * cell
        ready = open_strip[:, :, : min(final, height - row * cell), :width]
        if ready.shape[2] > 0:
            yield row * cell, transforms.image_to_physical(key, ready)
        open_strip[:, :, : m.size - final] = open_strip[:, :, final:].copy()
        open_strip[:, :, m.size - final :] = 0


def together(pipeline: Pipeline, layout: Layout) -> int:
    """How many samples of a scene are decoded at once: one, which bounds memory; of a single window a batch, which is
    what :meth:`Pipeline.generate` decodes, to the last bit."""
    return pipeline.batch if len(layout.windows) == 1 else 1
