"""Cloud-optimised GeoTIFFs (OGC 21-026): tiles first to find, overviews first to read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.io import DatasetReader

from ..errors import CopgenError
from ..raster.storage import CLASS_UNIT
from .blocks import reading, small_cache, whole_raster

_STRIP = 256


def to_cog(source: Path, target: Path) -> None:
    """Copy the GeoTIFF ``source`` to ``target`` as a COG with overviews, whole or not at all.

    DEFLATE, with a predictor for amounts. An overview pixel is the average of those below it, or of classes (bands with
    the unit ``class``) the most frequent, so that no class is invented. Nodata, descriptions, units, scale, offset,
    colour table and tags are kept. The pixels are compared with those of ``source``, strip by strip, before ``target``
    has its name.

    Raises :class:`RasterError` where ``source`` cannot be read, and :class:`CopgenError` where ``target`` cannot be
    written.
    """
    with small_cache(), reading(source) as plain, whole_raster(target) as partial:
        classes = CLASS_UNIT in plain.units
        rasterio.shutil.copy(
            plain,
            partial,
            driver="COG",
            compress="DEFLATE",
            predictor="NO" if classes else "YES",
            overview_resampling="MODE" if classes else "AVERAGE",
            bigtiff="IF_SAFER",
            num_threads="ALL_CPUS",
        )
        with rasterio.open(partial) as copied:
            _compare(plain, copied, target)


def _compare(plain: DatasetReader, copied: DatasetReader, target: Path) -> None:
    for row in range(0, plain.height, _STRIP):
        window = ((row, min(row + _STRIP, plain.height)), (0, plain.width))
        for band in plain.indexes:
            # As bytes: NaN equals NaN there.
            ours, theirs = (np.ascontiguousarray(d.read(band, window=window)).view(np.uint8) for d in (copied, plain))
            if not np.array_equal(ours, theirs):
                raise CopgenError(
                    f"{target} reads back other pixels at row {row} than were written; check the disk's space and "
                    "health, then run again"
                )
