"""Patches of the procedural world as training data: images in model space, and their latents."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...runtime.modalities import IMAGE_KEYS, KEYS, get
from ...runtime.transforms import to_model
from ..world import draw
from ..world.climate import climate_at, draw_place

_SEEDS_A_RUN, _WINTERS_FROM = 1_000_000, 500_000
_PLACES = 31

Arrays = dict[str, NDArray[np.generic]]


def training_seeds(run: int, count: int) -> range:
    """World seeds of the first ``count`` training patches of the training run with seed ``run``."""
    return range(run % 400 * _SEEDS_A_RUN, run % 400 * _SEEDS_A_RUN + count)


def winter_seeds(run: int, count: int) -> range:
    """World seeds of as many more, whose places have frost in winter, a summer and rain: of all places few do, and
    there the date tells most."""
    return training_seeds(run, _WINTERS_FROM + count)[_WINTERS_FROM:]


def _place(seed: int) -> tuple[float, float] | None:
    """Where the patch of a seed lies, if that is not for the world to draw."""
    if seed % _SEEDS_A_RUN < _WINTERS_FROM:
        return None
    rng = np.random.default_rng((_PLACES, seed))
    while True:
        place = draw_place(rng)
        climate = climate_at(*place)
        coldest = climate.mean_temperature - climate.seasonal_amplitude
        if coldest < 0 and climate.warmest > 6 and climate.aridity < 0.75:
            return place


def compact_patch(seed: int, keys: Sequence[str] = KEYS) -> Arrays:
    """One patch of the world, (C, H, W) a modality: codes as class numbers (uint8, one channel), others in model space
    (float16; elevation, whose slopes that would round away, and scalars float32)."""
    physical = draw(seed, place=_place(seed))
    compact: Arrays = {}
    for key in keys:
        m = get(key)
        if m.is_codes:
            compact[key] = np.searchsorted(sorted(m.codes), physical[key][0]).astype(np.uint8)
        else:
            compact[key] = to_model(key, physical[key])[0].astype(
                np.float16 if m.is_image and m.kind != "elevation" else np.float32
            )
    return compact


def to_tensor(key: str, compact: NDArray[np.generic]) -> Tensor:
    """Rows of :func:`compact_patch` (rows, C, H, W) as a float32 tensor in model space."""
    values = torch.from_numpy(np.ascontiguousarray(compact))
    if not get(key).is_codes:
        return values.float()
    one_hot = torch.nn.functional.one_hot(values[:, 0].long(), len(get(key).codes))
    return one_hot.permute(0, 3, 1, 2).float() * 2 - 1


@contextmanager
def patch_source(workers: int) -> Iterator[PatchSource]:
    """A source of patches that are drawn in ``workers`` processes."""
    # Not by fork: torch's threads do not survive one.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield PatchSource(pool)


class PatchSource:
    """Draws patches of the world ahead of need. Made by :func:`patch_source`."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def patches(self, seeds: Sequence[int], keys: Sequence[str] = KEYS) -> Iterator[Arrays]:
        """The compact patches of ``seeds``, in that order."""
        yield from self._pool.map(partial(compact_patch, keys=tuple(keys)), seeds, chunksize=4)

    def stacked(self, seeds: Sequence[int], keys: Sequence[str] = IMAGE_KEYS) -> Arrays:
        """The same as one array (rows, C, H, W) a modality."""
        arrays: Arrays = {}
        for row, patch in enumerate(self.patches(seeds, keys)):
            for key, values in patch.items():
                if row == 0:
                    arrays[key] = np.empty((len(seeds), *values.shape), values.dtype)
                arrays[key][row] = values
        return arrays


def crops(
    key: str, images: Mapping[str, NDArray[np.generic]], batch: int, crop: int, rng: np.random.Generator
) -> Tensor:
    """``batch`` random crops of ``crop`` pixels a side, in model space, corners on multiples of 8 pixels."""
    pool = images[key]
    size = pool.shape[-1]
    rows = rng.integers(len(pool), size=batch)
    tops, lefts = 8 * rng.integers((size - crop) // 8 + 1, size=(2, batch))
    picked = [pool[r, :, t : t + crop, x : x + crop] for r, t, x in zip(rows, tops, lefts, strict=True)]
    return to_tensor(key, np.stack(picked))
