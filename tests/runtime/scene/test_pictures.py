from pathlib import Path

import numpy as np
import pytest
import rasterio
from copgen_edge.runtime.errors import CopgenError, RasterError
from copgen_edge.runtime.raster.palette import CLASS_COLOURS, HEAT
from copgen_edge.runtime.scene import pictures
from copgen_edge.runtime.scene.cog import to_cog
from copgen_edge.runtime.scene.grid import SceneGrid
from copgen_edge.runtime.scene.pictures import write_pictures
from copgen_edge.runtime.scene.rasters import StripWriter
from PIL import Image
from rasterio.crs import CRS

from .disk import disk_of, names
from .product import GRID, product, sample


def drawn(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def raster(folder: Path, key: str, pixels: np.ndarray, grid: SceneGrid = GRID) -> dict[str, object]:
    """A one-sample result as an entry."""
    with StripWriter(folder / "plain.tif", key, grid, {}) as strips:
        strips.write(0, pixels)
    to_cog(folder / "plain.tif", folder / f"{key}.sample-0.tif")
    (folder / "plain.tif").unlink()
    return {"file": f"{key}.sample-0.tif", "modality": key, "kind": "sample", "sample": 0}


def test_every_raster_has_its_picture(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, files = product(tmp_path_factory.getbasetemp())
    entries = [entry for entry in files if entry["kind"] == "picture"]
    assert sorted(entry["file"].removeprefix("pictures/") for entry in entries) == names(folder / "pictures")
    rasters = {name for name in names(folder) if name.endswith(".tif")}
    assert {entry["of"] for entry in entries} == rasters
    for entry in entries:
        assert entry["caption"]
        with Image.open(folder / entry["file"]) as picture:
            assert picture.format == "PNG"
            assert max(picture.size) <= 1024
    spoken = {Path(entry["file"]).stem: entry["caption"] for entry in entries}
    assert spoken["S2L2A_B01_B09.std"].startswith("standard deviation of the samples, mean of the bands: 0 (dark) to")
    assert spoken["S2L2A_B01_B09.std"].endswith("reflectance (bright)")
    assert spoken["S1RTC_vh_vv.quantiles"].endswith("dB (bright)")
    assert spoken["DEM_DEM.std"].endswith("m (bright)")


def test_a_large_raster_is_read_small_and_keeps_its_classes(tmp_path: Path) -> None:
    grid = SceneGrid(CRS.from_epsg(32632), 0.0, 0.0, 36_000, 1_920)
    rng = np.random.default_rng(0)
    codes = rng.choice([1, 2, 5], (1, 192, 3600)).astype(np.float32)
    write_pictures(tmp_path, grid, [raster(tmp_path, "LULC_LULC", codes, grid)])
    rgb = drawn(tmp_path / "pictures/LULC_LULC.sample-0.png")
    assert rgb.shape[1] <= 1024
    body = rgb[:45].reshape(-1, 3)
    assert {tuple(colour) for colour in np.unique(body, axis=0).tolist()} <= {
        CLASS_COLOURS["LULC_LULC"][code] for code in (1, 2, 5)
    }


def test_samples_and_what_was_given_share_their_stretch(tmp_path: Path) -> None:
    dark = np.full((2, 36, 52), 400.0, np.float32)
    dark[:, 0, :3] = 4000.0
    entry = raster(tmp_path, "S2L2A_B01_B09", dark)
    entries = write_pictures(tmp_path, GRID, [entry], {"S2L2A_B01_B09": dark})
    assert [(e["file"], e["of"]) for e in entries] == [
        ("pictures/S2L2A_B01_B09.given.png", None),
        ("pictures/S2L2A_B01_B09.sample-0.png", "S2L2A_B01_B09.sample-0.tif"),
    ]
    given, shown = (drawn(tmp_path / e["file"])[:288, :416] for e in entries)
    np.testing.assert_array_equal(given, shown)


def test_the_heat_of_a_spread_has_its_ends(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, _ = product(tmp_path_factory.getbasetemp())
    with rasterio.open(folder / "DEM_DEM.std.tif") as dataset:
        std = dataset.read(1)
    rgb = drawn(folder / "pictures/DEM_DEM.std.png")
    times = 384 // 104 + 1
    body = rgb[: 72 * times : times, : 104 * times : times]
    high = np.percentile(std, 99)
    assert (body[std >= high] == HEAT[-1]).all()
    assert (
        body[std < 0.2 * high].sum() / (std < 0.2 * high).sum()
        < body[std > 0.8 * high].sum() / (std > 0.8 * high).sum()
    )


def test_slopes_of_elevation_are_those_of_the_pixels_shown(tmp_path: Path) -> None:
    # Falling away from the sun, where the shade depends on the slope most; taken for 30 m, the pixels of the large one
    # would make it 2.2 and not 0.5.
    falling = 60_000 - 15 * np.arange(4000, dtype=np.float32)[np.newaxis, np.newaxis].repeat(128, axis=1)
    shades = []
    for name, width in (("large", 120_000), ("small", 11_520)):
        folder = tmp_path / name
        folder.mkdir()
        grid = SceneGrid(CRS.from_epsg(32632), 0.0, 0.0, width, 3_840)
        write_pictures(folder, grid, [raster(folder, "DEM_DEM", falling[:, :, : width // 30], grid)])
        # The highest, where both have the same tint.
        shades.append(drawn(folder / "pictures/DEM_DEM.sample-0.png")[10, 3].astype(int))
    assert np.abs(shades[0] - shades[1]).max() < 20


def test_unknown_values_that_were_given_are_grey(tmp_path: Path) -> None:
    given = sample("DEM_DEM", 0)
    given[:, :20] = np.nan
    write_pictures(tmp_path, GRID, [], {"DEM_DEM": given})
    rgb = drawn(tmp_path / "pictures/DEM_DEM.given.png")
    assert (rgb[:60, :400] == 128).all()
    assert not (rgb[100:200, :400] == 128).all()


def test_validity_shows_what_is_known(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, _ = product(tmp_path_factory.getbasetemp())
    rgb = drawn(folder / "pictures/validity.DEM_DEM.png")
    colours = [tuple(rgb[y, x].tolist()) for y, x in ((3, 300), (100, 10), (100, 300))]
    assert colours == [pictures._VALIDITY_COLOURS[code] for code in (3, 2, 1)]


def test_only_the_first_samples_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_SAMPLES", 1)
    entry = raster(tmp_path, "DEM_DEM", sample("DEM_DEM", 0))
    assert len(write_pictures(tmp_path, GRID, [entry, {**entry, "sample": 1}])) == 1


def test_a_damaged_raster_is_named(tmp_path: Path) -> None:
    entry = raster(tmp_path, "DEM_DEM", sample("DEM_DEM", 0))
    path = tmp_path / "DEM_DEM.sample-0.tif"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(RasterError, match=r"cannot read .*DEM_DEM\.sample-0\.tif"):
        write_pictures(tmp_path, GRID, [entry])


def test_a_full_disk_leaves_no_half_picture(tmp_path: Path) -> None:
    entry = raster(tmp_path, "DEM_DEM", sample("DEM_DEM", 0))
    with pytest.raises(CopgenError, match=r"cannot write .*\.png"), disk_of(2000):
        write_pictures(tmp_path, GRID, [entry])
    assert not names(tmp_path / "pictures")
