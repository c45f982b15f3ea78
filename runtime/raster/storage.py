"""How the pixels of each modality are stored: dtype, nodata, unit, scale, colours, names.

Metadata follows GDAL's model: ``value = stored * scale + offset``, and the unit is that of ``value``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.io import DatasetWriter

from ..errors import NonFiniteError, RequestError
from ..modalities import Modality
from .palette import CLASS_COLOURS, Colour

REFLECTANCE_SCALE = 0.0001
"""Reflectance of one DN of Sentinel-2."""

BLOCK = 256
"""Side of a raster's blocks, in pixels, where the raster is large enough."""

CLASS_UNIT = "class"
"""The unit of a band whose values are names and not amounts."""

_UNITS = {"reflectance": "reflectance", "backscatter": "linear power", "elevation": "m", "codes": CLASS_UNIT}
_NO_CLASS = {"LULC": 0, "cloud_mask": 255}


@dataclass(frozen=True)
class Storage:
    """What is stored for a pixel, and what a raster's metadata says of it.

    ``descriptions`` has one entry a band; ``colours`` (code -> RGB) needs one band of uint8; ``band_tags`` go to every
    band. Unit, scale and nodata are those of every band, and the offset is 0.
    """

    dtype: str
    nodata: float
    descriptions: Sequence[str]
    units: str
    scale: float = 1.0
    colours: Mapping[int, Colour] | None = None
    band_tags: Mapping[str, str] = field(default_factory=dict)

    def profile(self, height: int, width: int, crs: CRS, transform: Affine) -> dict[str, Any]:
        """What :func:`rasterio.open` needs to make a tiled, DEFLATE-compressed GeoTIFF of it."""
        # Half the image at most: readers call a raster of one block untiled, whatever its file says.
        block = max(16, min(BLOCK, height // 2, width // 2) // 16 * 16)
        profile: dict[str, Any] = {
            "driver": "GTiff",
            "count": len(self.descriptions),
            "height": height,
            "width": width,
            "dtype": self.dtype,
            "crs": crs,
            "transform": transform,
            "nodata": self.nodata,
            "tiled": True,
            "blockxsize": block,
            "blockysize": block,
            "interleave": "band",
            "compress": "deflate",
            "photometric": "palette" if self.colours else "minisblack",
        }
        # Neighbouring codes have no meaningful difference: a predictor would only blur their runs.
        if self.units != CLASS_UNIT:
            profile["predictor"] = 3 if np.dtype(self.dtype).kind == "f" else 2
        return profile

    def describe(self, dataset: DatasetWriter, tags: Mapping[str, str]) -> None:
        """Put the metadata and ``tags`` into ``dataset``, which has no pixels yet: GDAL could put a colour table that
        comes after them only into a side file."""
        if self.colours:
            dataset.write_colormap(1, dict(self.colours))
        count = len(self.descriptions)
        dataset.descriptions = tuple(self.descriptions)
        dataset.units = (self.units,) * count
        dataset.scales = (self.scale,) * count
        dataset.offsets = (0.0,) * count
        # Pixels are areas and not points.
        dataset.update_tags(**{**tags, "AREA_OR_POINT": "Area"})
        for band in range(1, count + 1):
            dataset.update_tags(band, **self.band_tags)


def of_values(modality: Modality) -> Storage:
    """How values of an image modality are stored.

    Sentinel-2 as uint16 DN, nodata 0, scale 0.0001 (unit reflectance); radar and elevation as float32, nodata NaN;
    codes as uint8 with colour table, class names as band tags ``CLASS_<code>``, nodata 0 (land cover) or 255 (cloud
    mask).
    """
    units = _UNITS[modality.kind]
    if modality.is_codes:
        names = {f"CLASS_{code}": label for code, label in modality.codes.items()}
        colours = CLASS_COLOURS[modality.key]
        return Storage("uint8", _NO_CLASS[modality.family], modality.bands, units, colours=colours, band_tags=names)
    if modality.kind == "reflectance":
        return Storage("uint16", 0, modality.bands, units, REFLECTANCE_SCALE)
    return Storage("float32", float("nan"), modality.bands, units)


def of_statistic(modality: Modality) -> Storage:
    """How a mean or spread of a continuous modality is stored: in the unit and scale of its values, but float32."""
    return replace(of_values(modality), dtype="float32", nodata=float("nan"))


def of_share(descriptions: Sequence[str], units: str = "1") -> Storage:
    """How a share, or another amount that is no modality's own, is stored: float32, nodata NaN."""
    return Storage("float32", float("nan"), descriptions, units)


def encode(modality: Modality, values: NDArray[Any]) -> NDArray[Any]:
    """``values``, (..., C, H, W) physical, as :func:`of_values` stores them: DN are rounded and clipped to 1..65535.

    Raises :class:`NonFiniteError` where a value is NaN or infinite and :class:`RequestError` where a code is unknown.
    """
    key = modality.key
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise NonFiniteError(
            f"{bad} of {values.size} values of {key} are NaN or infinite, expected none; nothing of it was written: "
            "run 'copgen-edge verify' on the bundle, or use a higher precision"
        )
    if modality.is_codes:
        unknown = np.setdiff1d(values, list(modality.codes))
        if unknown.size:
            raise RequestError(
                f"{key} holds code {unknown[0]}; expected only {', '.join(map(str, modality.codes))}: "
                "convert to codes with transforms.to_physical first"
            )
    elif modality.kind == "reflectance":
        # 0 stays free for nodata: a dark pixel that the model drew is data.
        values = np.clip(np.rint(values), 1, np.iinfo(np.uint16).max)
    return values.astype(of_values(modality).dtype)
