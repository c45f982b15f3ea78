"""Samples of one modality as GeoTIFFs at its native resolution, with the statistics of many samples.

Metadata follows GDAL's model: ``value = stored * scale + offset``, and the unit is that of ``value``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.io import MemoryFile

from ..errors import CopgenError, NonFiniteError, RequestError
from ..modalities import Modality, get
from .palette import CLASS_COLOURS, Colour
from .window import GroundWindow

REFLECTANCE_SCALE = 0.0001
"""Reflectance of one DN of Sentinel-2."""

_BLOCK = 256
_FILE_OVERHEAD = 16 * 1024
_UNITS = {"reflectance": "reflectance", "backscatter": "linear power", "elevation": "m", "codes": "class"}
_NO_CLASS = {"LULC": 0, "cloud_mask": 255}


def write_geotiff(
    path: Path,
    pixels: np.ndarray,
    *,
    crs: CRS,
    transform: Affine,
    nodata: float,
    descriptions: Sequence[str],
    units: str,
    scale: float = 1.0,
    colours: Mapping[int, Colour] | None = None,
    tags: Mapping[str, str] | None = None,
    band_tags: Mapping[str, str] | None = None,
) -> None:
    """Write ``pixels`` (C, H, W) as a tiled, DEFLATE-compressed GeoTIFF whose pixels are areas.

    ``colours`` (code -> RGB) needs one band of uint8. ``band_tags`` go to every band. The file is made in memory
    first, so that a full disk shows as one error here and never as a raster that GDAL closed half written.

    Raises :class:`CopgenError` where ``path`` cannot be written.
    """
    count, height, width = pixels.shape
    # Half the image at most: readers call a raster of one block untiled, whatever its file says.
    block = max(16, min(_BLOCK, height // 2, width // 2) // 16 * 16)
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "count": count,
        "height": height,
        "width": width,
        "dtype": pixels.dtype,
        "crs": crs,
        "transform": transform,
        "nodata": nodata,
        "tiled": True,
        "blockxsize": block,
        "blockysize": block,
        "interleave": "band",
        "compress": "deflate",
        "photometric": "palette" if colours else "minisblack",
    }
    # Neighbouring codes have no meaningful difference: a predictor would only blur their runs.
    if not colours:
        profile["predictor"] = 3 if pixels.dtype.kind == "f" else 2
    with MemoryFile() as memory:
        with memory.open(**profile) as dataset:
            if colours:
                # Before the pixels: afterwards GDAL could only put the table in a side file.
                dataset.write_colormap(1, dict(colours))
            dataset.descriptions = tuple(descriptions)
            dataset.units = (units,) * count
            dataset.scales = (scale,) * count
            dataset.offsets = (0.0,) * count
            dataset.update_tags(**{**(tags or {}), "AREA_OR_POINT": "Area"})
            for band in range(1, count + 1):
                dataset.update_tags(band, **(band_tags or {}))
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

    - ``<key>.sample-<s>.tif``: Sentinel-2 as uint16 DN, rounded and clipped to 1..65535, nodata 0, scale 0.0001
      (unit reflectance); radar and elevation as float32, nodata NaN; codes as uint8 with colour table, class names as
      band tags ``CLASS_<code>``, nodata 0 (land cover) or 255 (cloud mask).
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
    codes = modality.is_codes
    files: list[dict[str, str | int | None]] = []

    def write(kind: str, pixels: np.ndarray, statistic: str, sample: int | None = None, share: bool = False) -> None:
        classes = codes and not share
        suffix = kind if sample is None else f"{kind}-{sample:0{len(str(total - 1))}d}"
        name = f"{key}.{suffix}.tif"
        write_geotiff(
            folder / name,
            pixels,
            crs=window.crs,
            transform=transform,
            nodata=_nodata(modality, pixels.dtype),
            descriptions=("agreement",) if share else modality.bands,
            units="1" if share else _UNITS[modality.kind],
            scale=REFLECTANCE_SCALE if modality.kind == "reflectance" else 1.0,
            colours=CLASS_COLOURS[key] if classes else None,
            tags={**tags, "MODALITY": key, "STATISTIC": statistic},
            band_tags={f"CLASS_{code}": label for code, label in modality.codes.items()} if classes else None,
        )
        files.append({"file": name, "modality": key, "kind": kind, "sample": sample})

    for s, pixels in enumerate(stored):
        write("sample", pixels, f"sample {s} of {total}, counted from 0", sample=s)
    if total > 1 and codes:
        mode, agreement = mode_and_agreement(stored, modality.codes)
        write("mode", mode.astype(np.uint8), f"mode of {total} samples, ties to the lowest code")
        write("agreement", agreement, f"share of {total} samples that equal the mode", share=True)
    elif total > 1:
        mean = stored.mean(axis=0, dtype=np.float64)
        std = stored.std(axis=0, dtype=np.float64)
        write("mean", mean.astype(np.float32), f"mean of {total} samples")
        write("std", std.astype(np.float32), f"population standard deviation (ddof 0) of {total} samples")
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
        per_sample = pixels * _dtype(modality).itemsize
        files, statistics = samples, 0
        if samples > 1:
            files, statistics = samples + 2, pixels * (1 + 4 if modality.is_codes else 4 + 4)
        total += samples * per_sample + statistics + files * _FILE_OVERHEAD
    return total


def _dtype(modality: Modality) -> np.dtype[Any]:
    return np.dtype({"reflectance": "uint16", "codes": "uint8"}.get(modality.kind, "float32"))


def _nodata(modality: Modality, dtype: np.dtype[Any]) -> float:
    if dtype.kind == "f":
        return float("nan")
    return _NO_CLASS[modality.family] if modality.is_codes else 0


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
    bad = samples.size - int(np.count_nonzero(np.isfinite(samples)))
    if bad:
        raise NonFiniteError(
            f"{bad} of {samples.size} values of {key} are NaN or infinite, expected none; nothing of it was written: "
            "run 'copgen-edge verify' on the bundle, or use a higher precision"
        )
    if modality.is_codes:
        unknown = np.setdiff1d(samples, list(modality.codes))
        if unknown.size:
            raise RequestError(
                f"{key} holds code {unknown[0]}; expected only {', '.join(map(str, modality.codes))}: "
                "convert to codes with transforms.to_physical first"
            )
    elif modality.kind == "reflectance":
        # 0 stays free for nodata: a dark pixel that the model drew is data.
        samples = np.clip(np.rint(samples), 1, np.iinfo(np.uint16).max)
    return samples.astype(_dtype(modality))
