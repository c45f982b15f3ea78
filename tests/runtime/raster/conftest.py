"""Rasters whose values say where on the ground they are, so that a shift of one pixel shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray

LEFT, TOP = 436_920.0, 4_175_880.0
"""Upper-left corner of the synthetic rasters, EPSG:32618."""

Ramp = Callable[[Any, Any], Any]
WriteRaster = Callable[..., Path]


def ground_ramp(easting: Any, northing: Any) -> Any:
    """Linear in both directions, so that averaging and interpolation keep it; 1 and 3 units a 10 m pixel."""
    return 3000 + (easting - LEFT) / 10 + 3 * (TOP - northing) / 10


def pixel_centers(transform: Affine, height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows, cols = np.mgrid[0:height, 0:width] + 0.5
    t = transform
    return t.a * cols + t.b * rows + t.c, t.d * cols + t.e * rows + t.f


@pytest.fixture
def ramp() -> Ramp:
    return ground_ramp


@pytest.fixture
def ramp_on() -> Callable[[Affine, int], NDArray[np.float64]]:
    def values(transform: Affine, size: int) -> NDArray[np.float64]:
        return ground_ramp(*pixel_centers(transform, size, size))

    return values


@pytest.fixture
def write_raster(tmp_path: Path) -> WriteRaster:
    """Write a raster below the test's folder; without ``values`` it is the ramp plus 100 for every further band."""

    def write(
        name: str,
        values: NDArray[Any] | None = None,
        *,
        resolution: float = 10.0,
        size: int = 252,
        count: int = 1,
        crs: str | None = "EPSG:32618",
        transform: Affine | None = None,
        dtype: str = "float32",
        nodata: float | None = None,
        descriptions: Sequence[str] = (),
        scale_offset: tuple[float, float] | None = None,
        tags: dict[str, str] | None = None,
        **profile: Any,
    ) -> Path:
        where = transform or Affine(resolution, 0, LEFT, 0, -resolution, TOP)
        if values is None:
            base = ground_ramp(*pixel_centers(where, size, size))
            values = np.stack([base + 100 * band for band in range(count)])
        if values.ndim == 2:
            values = values[np.newaxis]
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=len(values),
            height=values.shape[1],
            width=values.shape[2],
            dtype=dtype,
            crs=crs,
            transform=where,
            nodata=nodata,
            **profile,
        ) as dataset:
            dataset.write(values.astype(dtype))
            if descriptions:
                dataset.descriptions = tuple(descriptions)
            if scale_offset:
                dataset.scales = (scale_offset[0],) * len(values)
                dataset.offsets = (scale_offset[1],) * len(values)
            if tags:
                dataset.update_tags(**tags)
        return path

    return write


@pytest.fixture
def real_data() -> Path:
    """The folder of real products beside the project; the test is skipped where it is absent."""
    folder = Path(__file__).parents[3] / ".." / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data beside the project (../shared/data)")
    return folder.resolve()
