"""Noise as a function of what it is for.

A draw depends on (seed, purpose, sample, cell, modality) and on nothing else: not on the batch size, the order of the
windows, the device, or the version of NumPy. Bits come from Philox 4x64-10 (Salmon et al., 2011), whose counter holds
the sample and the cell, and become normal by Box and Muller's transform in float64; another platform's sine may move
the last digit of the float32.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .modalities import CELL_METRES, KEYS, PATCH_METRES, get

Floats = NDArray[np.float32]

PURPOSES = ("initial", "absent", "posterior", "probe")
"""What a draw is for: the start of the loop, a modality held absent, the encoder's posterior, a check."""

_CELLS = PATCH_METRES // CELL_METRES
_UINT64 = 2**64


def check_seed(seed: int) -> None:
    """Raise :class:`RequestError` for a seed outside 0..2^64-1."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < _UINT64:
        raise RequestError(f"found seed {seed!r}, expected a whole number from 0 to 2^64 - 1")


def normal(shape: tuple[int, ...], *, seed: int, purpose: str, key: str, sample: int, cell: tuple[int, int]) -> Floats:
    """Standard normal float32 of ``shape`` for one cell (row, column; any sign) of one sample of modality ``key``.

    Raises :class:`RequestError` for a seed outside 0..2^64-1.
    """
    check_seed(seed)
    stream = PURPOSES.index(purpose) * len(KEYS) + KEYS.index(key)
    counter = np.array([0, sample, int(cell[0]) % _UINT64, int(cell[1]) % _UINT64], np.uint64)
    bits = np.random.Philox(key=np.array([seed, stream], np.uint64), counter=counter)
    count = int(np.prod(shape))
    pairs = -(-count // 2)
    uniform = (bits.random_raw(2 * pairs) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    radius = np.sqrt(-2 * np.log1p(-uniform[:pairs]))
    angle = 2 * np.pi * uniform[pairs:]
    both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return both[:count].reshape(shape).astype(np.float32)


def latent_noise(
    key: str, samples: int, *, seed: int, purpose: str, first: int = 0, cell: tuple[int, int] = (0, 0)
) -> Floats:
    """Noise (samples, C, H, W) in the latent shape of ``key`` for samples ``first``, ``first + 1``, ...

    An image's noise is put together from its 4 x 4 cells, the upper left of which is ``cell``, so that windows that
    overlap in a scene share the noise of the ground they share. A scalar has one draw for the window.
    """
    m = get(key)
    out = np.empty((samples, *m.latent_shape), np.float32)
    for i in range(samples):
        draw = partial(normal, seed=seed, purpose=purpose, key=key, sample=first + i)
        if not m.is_image:
            out[i] = draw(m.latent_shape, cell=cell)
            continue
        side = m.cell_latent
        for row in range(_CELLS):
            for column in range(_CELLS):
                block = draw((m.latent_shape[0], side, side), cell=(cell[0] + row, cell[1] + column))
                out[i, :, row * side : (row + 1) * side, column * side : (column + 1) * side] = block
    return out
