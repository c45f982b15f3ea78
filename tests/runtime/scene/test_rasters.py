import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from copgen_edge.runtime.errors import CopgenError, NonFiniteError, RequestError
from copgen_edge.runtime.modalities import BY_KEY, IMAGE_KEYS
from copgen_edge.runtime.raster.palette import CLASS_COLOURS
from copgen_edge.runtime.scene import blocks
from copgen_edge.runtime.scene.grid import SceneGrid
from copgen_edge.runtime.scene.rasters import StripWriter, write_validity
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.io import DatasetWriter
from rasterio.windows import Window

from .disk import disk_of, names

GRID = SceneGrid(CRS.from_epsg(32632), 675_840.0, 5_274_060.0, 6_600, 5_400)
OPTICAL = "S2L2A_B02_B03_B04_B08"


def values(key: str, grid: SceneGrid = GRID, seed: int = 0) -> NDArray[np.float32]:
    modality = BY_KEY[key]
    rng = np.random.default_rng(seed)
    shape = (len(modality.bands), *grid.shape(modality.resolution))
    if modality.is_codes:
        return rng.choice(list(modality.codes), shape).astype(np.float32)
    low, high = {"reflectance": (1.0, 9000.0), "backscatter": (1e-4, 2.0), "elevation": (-40.0, 4000.0)}[modality.kind]
    return rng.uniform(low, high, shape).astype(np.float32)


def write(path: Path, key: str, pixels: NDArray[np.float32], rows: int = 48, grid: SceneGrid = GRID) -> None:
    with StripWriter(path, key, grid, {"SEED": "7", "STATISTIC": "sample 0 of 1"}) as strips:
        for first in range(0, pixels.shape[1], rows):
            strips.write(first, pixels[:, first : first + rows])


@pytest.mark.parametrize("key", IMAGE_KEYS)
@pytest.mark.parametrize("rows", [7, 1000])
def test_strips_of_any_height_make_the_raster_of_the_scene(tmp_path: Path, key: str, rows: int) -> None:
    modality, pixels = BY_KEY[key], values(key)
    write(tmp_path / "a.tif", key, pixels, rows)
    assert names(tmp_path) == ["a.tif"]
    expected = np.rint(pixels) if modality.kind == "reflectance" else pixels
    with rasterio.open(tmp_path / "a.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(), expected)
        assert dataset.transform == GRID.transform(modality.resolution)
        assert (dataset.crs, dataset.bounds) == (GRID.crs, GRID.bounds)
        assert dataset.descriptions == modality.bands
        assert dataset.profile["tiled"]
        assert dataset.tags().items() >= {"SEED": "7", "MODALITY": key, "STATISTIC": "sample 0 of 1"}.items()
        dtype = {"reflectance": "uint16", "codes": "uint8"}.get(modality.kind, "float32")
        assert set(dataset.dtypes) == {dtype}
        assert set(dataset.scales) == {0.0001 if dtype == "uint16" else 1.0}
        if modality.is_codes:
            assert {code: dataset.colormap(1)[code][:3] for code in modality.codes} == CLASS_COLOURS[key]
            assert dataset.tags(1) == {f"CLASS_{code}": name for code, name in modality.codes.items()}
        assert np.isnan(dataset.nodata) if dtype == "float32" else dataset.nodata in (0, 255)


def test_dark_pixels_are_data(tmp_path: Path) -> None:
    pixels = np.full((4, 540, 660), 1234.4, np.float32)
    pixels[0, 0, :4] = [-35.0, 0.2, 65535.4, 80_000.0]
    write(tmp_path / "a.tif", OPTICAL, pixels)
    with rasterio.open(tmp_path / "a.tif") as dataset:
        assert dataset.read(1)[0, :5].tolist() == [1, 1, 65535, 65535, 1234]
        assert dataset.read_masks().all()


def test_every_block_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[int, int]] = []
    real = blocks.BlockWriter.write

    def spy(self: blocks.BlockWriter, pixels: NDArray[np.uint16], row: int, column: int = 0) -> None:
        written.append((row, pixels.shape[1]))
        real(self, pixels, row, column)

    monkeypatch.setattr(blocks.BlockWriter, "write", spy)
    write(tmp_path / "a.tif", OPTICAL, values(OPTICAL), rows=48)
    assert written == [(0, 256), (256, 256), (512, 28)]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_raster_with_nan_never_appears(tmp_path: Path, bad: float) -> None:
    pixels = values("DEM_DEM")
    pixels[0, 150, 3] = bad
    with pytest.raises(NonFiniteError, match="1 of"):
        write(tmp_path / "a.tif", "DEM_DEM", pixels)
    assert not names(tmp_path)


def test_unknown_codes_are_refused(tmp_path: Path) -> None:
    pixels = values("LULC_LULC")
    pixels[0, 500, 3] = 3
    with pytest.raises(RequestError, match="holds code 3"):
        write(tmp_path / "a.tif", "LULC_LULC", pixels)
    assert not names(tmp_path)


def test_rows_must_follow_and_be_complete(tmp_path: Path) -> None:
    pixels = values("DEM_DEM")
    strips = StripWriter(tmp_path / "a.tif", "DEM_DEM", GRID, {})
    with pytest.raises(RequestError, match=r"expected .* from row 16 on"), strips:
        strips.write(0, pixels[:, :16])
        strips.write(32, pixels[:, 32:48])
    strips = StripWriter(tmp_path / "a.tif", "DEM_DEM", GRID, {})
    with pytest.raises(RequestError, match="16 of its 180 rows"), strips:
        strips.write(0, pixels[:, :16])
    with (
        pytest.raises(RequestError, match="from row 0 on, 180 rows"),
        StripWriter(tmp_path / "a.tif", "DEM_DEM", GRID, {}) as strips,
    ):
        strips.write(0, pixels[:, :, :-1])
    assert not names(tmp_path)


def test_place_has_no_raster(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="has no pixels"):
        StripWriter(tmp_path / "a.tif", "mean_timestamps", GRID, {})


def full_size(folder: Path) -> int:
    write(folder / "whole.tif", OPTICAL, values(OPTICAL))
    size = (folder / "whole.tif").stat().st_size
    (folder / "whole.tif").unlink()
    return size


# The last byte is missed only at closing, which GDAL does not report: the directory of the file then lies beyond it.
@pytest.mark.parametrize("missing", [1, 3000, 500_000, None])
def test_a_full_disk_leaves_nothing(tmp_path: Path, missing: int | None) -> None:
    size = full_size(tmp_path)
    with (
        pytest.raises(CopgenError, match=r"cannot write .*a\.tif") as error,
        disk_of(size - missing if missing else 20),
    ):
        write(tmp_path / "a.tif", OPTICAL, values(OPTICAL))
    assert "\n" not in str(error.value)
    assert not names(tmp_path)


class Lossy:
    """A dataset that swaps one bit of what it is given."""

    def __init__(self, dataset: DatasetWriter) -> None:
        self._dataset = dataset

    def write(self, pixels: NDArray[np.uint16], window: Window) -> None:
        pixels = pixels.copy()
        pixels[0, -1, -1] ^= 1
        self._dataset.write(pixels, window=window)


def test_a_disk_that_keeps_other_bytes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = blocks.BlockWriter.__init__
    monkeypatch.setattr(blocks.BlockWriter, "__init__", lambda self, dataset: real(self, Lossy(dataset)))
    with pytest.raises(CopgenError, match="reads back other pixels at row 0"):
        write(tmp_path / "a.tif", OPTICAL, values(OPTICAL))
    assert not names(tmp_path)


KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from copgen_edge.runtime.scene.grid import SceneGrid
from copgen_edge.runtime.scene.rasters import StripWriter
from rasterio.crs import CRS
grid = SceneGrid(CRS.from_epsg(32632), 675840.0, 5274060.0, 6600, 5400)
with StripWriter(Path(sys.argv[1]), "DEM_DEM", grid, {}) as strips:
    strips.write(0, np.ones((1, 100, 220), np.float32))
    os._exit(9)
"""


def test_a_killed_run_leaves_no_name_and_the_next_one_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode == 9
    assert names(tmp_path) == ["a.tif.partial"]
    write(path, "DEM_DEM", values("DEM_DEM"))
    assert names(tmp_path) == ["a.tif"]


def codes(first: int, end: int) -> NDArray[np.uint8]:
    """Two bands whose codes follow the rows and the columns."""
    rows, columns = np.mgrid[first:end, 0:660]
    return np.stack([rows % 4, columns % 3 + 1]).astype(np.uint8)


def test_validity_is_a_cog_with_a_band_a_condition(tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []

    def read_rows(first: int, end: int) -> NDArray[np.uint8]:
        asked.append((first, end))
        return codes(first, end)

    write_validity(tmp_path / "validity.tif", GRID, ["DEM_DEM", "LULC_LULC"], read_rows, {"SEED": "7"})
    assert names(tmp_path) == ["validity.tif"]
    assert asked == [(0, 256), (256, 512), (512, 540)]
    with rasterio.open(tmp_path / "validity.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(), codes(0, 540))
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.tags()["SEED"] == "7"
        assert (dataset.descriptions, dataset.nodata) == (("DEM_DEM", "LULC_LULC"), 0)
        assert dataset.transform == GRID.transform(10)
        for band in (1, 2):
            assert dataset.tags(band)["CLASS_2"] == "filled from neighbours"


@pytest.mark.parametrize(
    "bad", [lambda first, end: codes(first, end)[:1], lambda first, end: np.full((2, end - first, 660), 4, np.uint8)]
)
def test_validity_of_another_shape_or_code_is_refused(
    tmp_path: Path, bad: Callable[[int, int], NDArray[np.uint8]]
) -> None:
    with pytest.raises(RequestError, match="validity from row 0 on"):
        write_validity(tmp_path / "validity.tif", GRID, ["DEM_DEM", "LULC_LULC"], bad, {})
    assert not names(tmp_path)
