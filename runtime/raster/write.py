"""Samples of one modality as GeoTIFFs at its native resolution, with the statistics of many samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.io import MemoryFile

from ..errors import CopgenError, RequestError
from ..modalities import Modality, get
from .storage import Storage, encode, of_share, of_statistic, of_values
from .window import GroundWindow

_FILE_OVERHEAD = 16 * 1024


def write_geotiff(
    path: Path,
    pixels: np.ndarray,
    storage: Storage,
    *,
    crs: CRS,
    transform: Affine,
    tags: Mapping[str, str],
) -> None:
    """Write ``pixels`` (C, H, W), of the dtype of ``storage``, as a tiled, DEFLATE-compressed GeoTIFF.

    The file is made in memory first, so that a full disk shows as one error here and never as a raster that GDAL
    closed half written.

    Raises :class:`CopgenError` where ``path`` cannot be written.
    """
    height, width = pixels.shape[1:]
    with MemoryFile() as memory:
        with memory.open(**storage.profile(height, width, crs, transform)) as dataset:
            storage.describe(dataset, tags)
            dataset.write(pixels)
        try:
            path.write_bytes(memory.getbuffer())
        except OSError as error:
            raise CopgenError(
                f"cannot write {path}: {error.strerror}; give a folder that exists, is writable and has space"
            ) from error


def write_modality(
    folder: Path, key: str, samples: np.ndarray, window: GroundWindow, *, tags: Mapping[str, str]
) -> list[dict[str, str | int | None]]:
    """Write the samples of image modality ``key`` into ``folder``, and for more than one their statistics.

    ``samples`` is (S, C, H, W) in physical units: DN, linear power, metres, or codes with C = 1. H and W are the
    modality's size, which is what fills ``window``. ``tags`` go into every file. Returns a dictionary a file: ``file``
    (name), ``modality``, ``kind``, ``sample`` (None for statistics).

    - ``<key>.sample-<s>.tif``: values as :func:`.storage.of_values` says.
    - continuous, S > 1: ``<key>.mean.tif``, ``<key>.std.tif``: mean and population standard deviation (ddof 0) of the
      sample files' values, float32, nodata NaN, in the samples' stored unit with the samples' scale.
    - codes, S > 1: ``<key>.mode.tif``: the most frequent code, of equals the lowest; ``<key>.agreement.tif``: the
      share of the samples that equal it, float32, 0..1, nodata NaN.

    Raises :class:`NonFiniteError` before anything is written where a value is NaN or infinite, and
    :class:`RequestError` where the modality has no pixels, the shape does not fit or a code is unknown.
    """
    modality = get(key)
    stored = _stored(modality, samples)
    total = len(stored)
    transform = window.transform(modality.resolution)
    files: list[dict[str, str | int | None]] = []

    def write(kind: str, pixels: np.ndarray, storage: Storage, statistic: str, sample: int | None = None) -> None:
        suffix = kind if sample is None else f"{kind}-{sample:0{len(str(total - 1))}d}"
        name = f"{key}.{suffix}.tif"
        said = {**tags, "MODALITY": key, "STATISTIC": statistic}
        write_geotiff(folder / name, pixels, storage, crs=window.crs, transform=transform, tags=said)
        files.append({"file": name, "modality": key, "kind": kind, "sample": sample})

    values = of_values(modality)
    for s, pixels in enumerate(stored):
        write("sample", pixels, values, f"sample {s} of {total}, counted from 0", sample=s)
    if total > 1 and modality.is_codes:
        mode, agreement = mode_and_agreement(stored, modality.codes)
        write("mode", mode.astype(np.uint8), values, f"mode of {total} samples, ties to the lowest code")
        write("agreement", agreement, of_share(["agreement"]), f"share of {total} samples that equal the mode")
    elif total > 1:
        mean = stored.mean(axis=0, dtype=np.float64)
        std = stored.std(axis=0, dtype=np.float64)
        amounts = of_statistic(modality)
        write("mean", mean.astype(np.float32), amounts, f"mean of {total} samples")
        write("std", std.astype(np.float32), amounts, f"population standard deviation (ddof 0) of {total} samples")
    return files


def mode_and_agreement(samples: np.ndarray, codes: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
    """The most frequent code along axis 0 (of equals the lowest) as int64, and its share of the samples as float32."""
    ordered = np.array(sorted(codes))
    counts = np.stack([(samples == code).sum(axis=0) for code in ordered])
    share = counts.max(axis=0).astype(np.float32) / np.float32(len(samples))
    return ordered[counts.argmax(axis=0)], share


def estimate_bytes(keys: Iterable[str], samples: int) -> int:
    """Upper bound of the bytes that :func:`write_modality` writes for ``keys`` and one patch of ``samples`` samples.

    Counts pixels without compression and a margin a file for its metadata. Place and date have no rasters: nothing.
    Raises :class:`RequestError` for an unknown key.
    """
    total = 0
    for modality in (get(key) for key in keys):
        if not modality.is_image:
            continue
        pixels = len(modality.bands) * modality.size**2
        per_sample = pixels * np.dtype(of_values(modality).dtype).itemsize
        files, statistics = samples, 0
        if samples > 1:
            files, statistics = samples + 2, pixels * (1 + 4 if modality.is_codes else 4 + 4)
        total += samples * per_sample + statistics + files * _FILE_OVERHEAD
    return total


def _stored(modality: Modality, samples: np.ndarray) -> np.ndarray:
    """``samples`` in the dtype of their files."""
    key, expected = modality.key, (len(modality.bands), modality.size, modality.size)
    if not modality.is_image:
        raise RequestError(f"{key} has no pixels to write as a raster; put its values into the result's metadata")
    if samples.shape[1:] != expected or not len(samples):
        raise RequestError(
            f"samples of {key} have shape {samples.shape}; expected (S, {', '.join(map(str, expected))}) with S of at "
            "least 1: pass what the pipeline decoded for the window"
        )
    return encode(modality, samples)
