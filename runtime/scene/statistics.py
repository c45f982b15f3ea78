"""What many samples of a scene say together, from their rasters, block by block."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ..errors import CopgenError, RasterError, RequestError
from ..modalities import Modality, get
from ..raster.storage import BLOCK, Storage, of_share, of_statistic, of_values
from .blocks import GDAL_ERRORS, BlockWriter, cannot_read, open_blocks, reading, small_cache
from .cog import to_cog
from .grid import SceneGrid

QUANTILES = {"p05": 0.05, "p50": 0.5, "p95": 0.95}
"""Name of a quantile -> share of the samples below it."""

_TOGETHER = 64
"""Samples of a whole block that are in memory at once; of more samples, part of a block is."""

Floats = NDArray[np.float64]
_Layers = Mapping[str, tuple[Storage, str]]


def write_statistics(
    folder: Path,
    key: str,
    samples: Sequence[Path],
    grid: SceneGrid,
    tags: Mapping[str, str],
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[dict[str, Any]]:
    """Write the statistics of ``samples``, the rasters of image modality ``key`` on ``grid``, into ``folder`` as COGs.

    Returns a dictionary a file, as :func:`~..raster.write.write_modality` does: ``file`` (name), ``modality``,
    ``kind``, ``sample`` (None). One sample or more. All are in the samples' stored unit, with their scale:

    - continuous: ``<key>.mean.tif``; ``<key>.std.tif``, the population standard deviation (ddof 0);
      ``<key>.quantiles.tif``, for each band the quantiles of :data:`QUANTILES` (Hyndman and Fan's type 7, numpy's
      linear one), described as "B04 p05". float32, nodata NaN, but quantiles of DN rounded to DN like the samples.
    - codes: ``<key>.mode.tif``, the most frequent code, of equals the lowest, stored as the samples are;
      ``<key>.probability.tif``, a band a class with its share of the samples, described by its name;
      ``<key>.entropy.tif``, Shannon's, in bits. The latter float32, nodata NaN.

    Memory: one block of at most 64 samples, whatever their number and the scene's size. ``progress`` gets "statistics",
    blocks done, and blocks in all.

    Raises :class:`RasterError` where a sample cannot be read or lies elsewhere, and :class:`CopgenError` where a file
    cannot be written; of a file that is not complete nothing is left.
    """
    modality = get(key)
    if not samples or not modality.is_image:
        raise RequestError(f"found {len(samples)} samples of {key}, expected 1 or more of a modality with pixels")
    layers = _code_layers(modality, len(samples)) if modality.is_codes else _layers(modality, len(samples))
    with _work_folder(folder / f".{key}.statistics") as work:
        _summarise(work, modality, samples, layers, grid, tags, progress)
        for kind in layers:
            to_cog(work / f"{kind}.tif", folder / f"{key}.{kind}.tif")
    return [{"file": f"{key}.{kind}.tif", "modality": key, "kind": kind, "sample": None} for kind in layers]


def quantiles(values: Floats) -> Floats:
    """The :data:`QUANTILES` of ``values`` (S, ...) along axis 0, (3, ...).

    As :func:`numpy.quantile` does, which takes seven times as long on many short columns.
    """
    ordered = np.sort(values, axis=0)
    places = np.array(list(QUANTILES.values())) * (len(values) - 1)
    below = np.floor(places).astype(int)
    above = np.minimum(below + 1, len(values) - 1)
    share = (places - below).reshape(-1, *[1] * (values.ndim - 1))
    low, high = ordered[below], ordered[above]
    # From the nearer end, as numpy does: it decides which way a half is rounded.
    return np.where(share < 0.5, low + (high - low) * share, high - (high - low) * (1 - share))


def entropy(probability: Floats) -> Floats:
    """Shannon's entropy, in bits, of ``probability`` (classes, ...) along axis 0."""
    logarithm = np.log2(probability, where=probability > 0, out=np.zeros_like(probability))
    # Of one certain class the sum is -0.
    return np.abs(-(probability * logarithm).sum(axis=0))


def _layers(modality: Modality, total: int) -> _Layers:
    said = f"of {total} sample{'s' if total > 1 else ''}"
    values, named = of_values(modality), [f"{band} {name}" for band in modality.bands for name in QUANTILES]
    return {
        "mean": (of_statistic(modality), f"mean {said}"),
        "std": (of_statistic(modality), f"population standard deviation (ddof 0) {said}"),
        "quantiles": (replace(values, descriptions=named), f"quantiles {', '.join(QUANTILES)} {said}"),
    }


def _code_layers(modality: Modality, total: int) -> _Layers:
    said = f"of {total} sample{'s' if total > 1 else ''}"
    classes = [modality.codes[code] for code in sorted(modality.codes)]
    return {
        "mode": (of_values(modality), f"mode {said}, ties to the lowest code"),
        "probability": (of_share(classes), f"share of each class {said}"),
        "entropy": (of_share(["entropy"], "bit"), f"Shannon entropy of the classes {said}"),
    }


def _summarise(
    work: Path,
    modality: Modality,
    samples: Sequence[Path],
    layers: _Layers,
    grid: SceneGrid,
    tags: Mapping[str, str],
    progress: Callable[[str, int, int], None],
) -> None:
    """Write the plain rasters ``<kind>.tif`` of ``layers`` into ``work``."""
    height, width = grid.shape(modality.resolution)
    summarise = _of_codes if modality.is_codes else _of_amounts
    with ExitStack() as stack:
        stack.enter_context(small_cache())
        opened = [stack.enter_context(_sample(path, modality, grid)) for path in samples]
        writers: dict[str, BlockWriter] = {}
        for kind, (storage, statistic) in layers.items():
            said = {**tags, "MODALITY": modality.key, "STATISTIC": statistic}
            path = work / f"{kind}.tif"
            writers[kind] = stack.enter_context(open_blocks(path, storage, grid, modality.resolution, said))
        starts = [(row, column) for row in range(0, height, BLOCK) for column in range(0, width, BLOCK)]
        # Fewer rows at a time of more samples; a block is still written once, whole.
        step = max(1, BLOCK * _TOGETHER // max(len(samples), _TOGETHER))
        for done, (row, column) in enumerate(starts):
            across, end = min(BLOCK, width - column), min(row + BLOCK, height)
            parts = [
                summarise(modality, opened, Window(column, top, across, min(step, end - top)))
                for top in range(row, end, step)
            ]
            for kind, writer in writers.items():
                block = np.concatenate([part[kind] for part in parts], axis=1)
                dtype = np.dtype(layers[kind][0].dtype)
                writer.write((np.rint(block) if dtype.kind == "u" else block).astype(dtype), row, column)
            progress("statistics", done + 1, len(starts))


def _of_amounts(modality: Modality, samples: Sequence[DatasetReader], window: Window) -> dict[str, NDArray[Any]]:
    mean: list[Floats] = []
    std: list[Floats] = []
    spread: list[Floats] = []
    for band in range(1, len(modality.bands) + 1):
        values = np.stack([_read(sample, band, window) for sample in samples]).astype(np.float64)
        mean.append(values.mean(axis=0))
        std.append(values.std(axis=0))
        spread.extend(quantiles(values))
    return {"mean": np.stack(mean), "std": np.stack(std), "quantiles": np.stack(spread)}


def _of_codes(modality: Modality, samples: Sequence[DatasetReader], window: Window) -> dict[str, NDArray[Any]]:
    codes = np.array(sorted(modality.codes))
    counts = np.zeros((len(codes), window.height, window.width), np.int64)
    for sample in samples:
        counts += _read(sample, 1, window) == codes[:, None, None]
    probability = counts / len(samples)
    return {
        "mode": codes[counts.argmax(axis=0)][np.newaxis],
        "probability": probability,
        "entropy": entropy(probability)[np.newaxis],
    }


@contextmanager
def _sample(path: Path, modality: Modality, grid: SceneGrid) -> Iterator[DatasetReader]:
    expected = (of_values(modality).dtype, len(modality.bands), *grid.shape(modality.resolution))
    with reading(path) as dataset:
        found = (dataset.dtypes[0], dataset.count, *dataset.shape)
        if found != expected or not dataset.transform.almost_equals(grid.transform(modality.resolution)):
            raise RasterError(
                f"{path} holds {found} at {dataset.transform.c:.10g},{dataset.transform.f:.10g}, expected {expected} "
                f"(dtype, bands, rows, columns) at {grid.left:.10g},{grid.top:.10g}; remove it and run again"
            )
        yield dataset


def _read(sample: DatasetReader, band: int, window: Window) -> NDArray[Any]:
    try:
        return sample.read(band, window=window)
    except GDAL_ERRORS as error:
        raise cannot_read(Path(sample.name), error) from error


@contextmanager
def _work_folder(path: Path) -> Iterator[Path]:
    """A folder for what is only needed meanwhile; what a killed run left there is removed too."""
    shutil.rmtree(path, ignore_errors=True)
    try:
        path.mkdir(parents=True)
        yield path
    except OSError as error:
        raise CopgenError(f"cannot write {path}: {error.strerror}; choose another folder") from error
    finally:
        shutil.rmtree(path, ignore_errors=True)
