from pathlib import Path

import numpy as np
import pytest
import rasterio
from copgen_edge.runtime.errors import CopgenError, RasterError
from copgen_edge.runtime.modalities import BY_KEY
from copgen_edge.runtime.raster.storage import Storage
from copgen_edge.runtime.scene import cog
from copgen_edge.runtime.scene.blocks import open_blocks
from copgen_edge.runtime.scene.cog import to_cog
from copgen_edge.runtime.scene.grid import SceneGrid
from copgen_edge.runtime.scene.rasters import StripWriter
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Compression

from .disk import disk_of, names

GRID = SceneGrid(CRS.from_epsg(32632), 675_840.0, 5_274_060.0, 10_260, 5_400)
TAGS = {"COPGEN_SEED": "7", "COPGEN_CONDITIONS": "DEM_DEM LULC_LULC"}


def plain(path: Path, key: str) -> NDArray[np.float32]:
    modality = BY_KEY[key]
    rng = np.random.default_rng(3)
    shape = (len(modality.bands), *GRID.shape(modality.resolution))
    if modality.is_codes:
        pixels = rng.choice([code for code in modality.codes if code], shape).astype(np.float32)
    else:
        pixels = rng.uniform(1, 4000, shape).astype(np.float32)
    with StripWriter(path, key, GRID, TAGS) as strips:
        strips.write(0, pixels)
    return pixels


@pytest.mark.parametrize("key", ["S2L2A_B02_B03_B04_B08", "S1RTC_vh_vv", "LULC_LULC", "S2L1C_cloud_mask"])
def test_a_cog_keeps_everything_and_gains_overviews(tmp_path: Path, key: str) -> None:
    plain(tmp_path / "plain.tif", key)
    to_cog(tmp_path / "plain.tif", tmp_path / "cog.tif")
    assert names(tmp_path) == ["cog.tif", "plain.tif"]
    with rasterio.open(tmp_path / "plain.tif") as before, rasterio.open(tmp_path / "cog.tif") as after:
        assert after.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert after.compression is Compression.deflate
        assert after.overviews(1) == [2, 4]
        np.testing.assert_array_equal(after.read(), before.read())
        for name in ("descriptions", "units", "scales", "offsets", "nodatavals", "dtypes", "crs", "transform"):
            np.testing.assert_equal(getattr(after, name), getattr(before, name), err_msg=name)
        assert after.tags().items() >= before.tags().items() >= TAGS.items()
        for band in before.indexes:
            assert after.tags(band) == before.tags(band)
        if BY_KEY[key].is_codes:
            assert after.colormap(1) == before.colormap(1)


def test_overviews_average_amounts(tmp_path: Path) -> None:
    pixels = plain(tmp_path / "plain.tif", "S1RTC_vh_vv")
    to_cog(tmp_path / "plain.tif", tmp_path / "cog.tif")
    with rasterio.open(tmp_path / "cog.tif", overview_level=0) as overview:
        expected = pixels.reshape(2, 270, 2, 513, 2).mean(axis=(2, 4))
        np.testing.assert_allclose(overview.read(), expected, rtol=1e-5)


@pytest.mark.parametrize("key", ["LULC_LULC", "S2L1C_cloud_mask"])
def test_overviews_hold_the_most_frequent_class_and_invent_none(tmp_path: Path, key: str) -> None:
    pixels = plain(tmp_path / "plain.tif", key)[0].astype(int)
    to_cog(tmp_path / "plain.tif", tmp_path / "cog.tif")
    quads = pixels.reshape(270, 2, 513, 2).transpose(0, 2, 1, 3).reshape(270, 513, 4)
    with rasterio.open(tmp_path / "cog.tif", overview_level=0) as overview:
        shown = overview.read(1)
    counts = (quads[..., None] == quads[..., None, :]).sum(axis=-1)
    clear = (counts == 3).any(axis=-1) | (counts == 4).all(axis=-1)
    most = np.take_along_axis(quads, counts.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    assert clear.sum() > 1000
    np.testing.assert_array_equal(shown[clear], most[clear])
    assert (shown[..., None] == quads).any(axis=-1).all()


def test_classes_of_several_bands_are_not_averaged(tmp_path: Path) -> None:
    storage = Storage("uint8", 0, ["DEM_DEM", "LULC_LULC"], "class")
    pixels = np.random.default_rng(1).choice(np.array([1, 3], np.uint8), (2, 540, 1026))
    with open_blocks(tmp_path / "plain.tif", storage, GRID, 10, {}) as blocks:
        blocks.write(pixels, 0)
    to_cog(tmp_path / "plain.tif", tmp_path / "cog.tif")
    with rasterio.open(tmp_path / "cog.tif", overview_level=0) as overview:
        assert np.unique(overview.read()).tolist() == [1, 3]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_full_disk_leaves_nothing(tmp_path: Path, share: float) -> None:
    plain(tmp_path / "plain.tif", "S2L2A_B02_B03_B04_B08")
    to_cog(tmp_path / "plain.tif", tmp_path / "cog.tif")
    size = (tmp_path / "cog.tif").stat().st_size
    (tmp_path / "cog.tif").unlink()
    with pytest.raises(CopgenError, match=r"cannot write .*cog\.tif") as error, disk_of(int(size * share)):
        to_cog(tmp_path / "plain.tif", tmp_path / "cog.tif")
    assert "\n" not in str(error.value)
    assert names(tmp_path) == ["plain.tif"]


def test_a_damaged_copy_gets_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain(tmp_path / "plain.tif", "LULC_LULC")
    real = rasterio.shutil.copy

    def damage(source: object, target: Path, **options: object) -> None:
        real(source, target, **options)
        data = bytearray(target.read_bytes())
        data[-4000:-3000] = bytes(1000)
        target.write_bytes(data)

    monkeypatch.setattr(cog.rasterio.shutil, "copy", damage)
    with pytest.raises(CopgenError, match=r"cog\.tif"):
        to_cog(tmp_path / "plain.tif", tmp_path / "cog.tif")
    assert names(tmp_path) == ["plain.tif"]


def test_a_missing_source_is_said(tmp_path: Path) -> None:
    with pytest.raises(RasterError, match=r"cannot read .*plain\.tif"):
        to_cog(tmp_path / "plain.tif", tmp_path / "cog.tif")
    assert not names(tmp_path)
