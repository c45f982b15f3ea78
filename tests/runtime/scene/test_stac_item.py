import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
from copgen_edge.runtime.errors import CopgenError
from copgen_edge.runtime.scene.grid import SceneGrid
from copgen_edge.runtime.scene.stac_item import footprint, write_item
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.raster import RasterExtension
from rasterio.crs import CRS

from .disk import disk_of, names
from .product import GRID, RESULT, product


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, files = product(tmp_path_factory.getbasetemp())
    write_item(folder, GRID, files, RESULT)
    return folder


@pytest.fixture
def item(folder: Path) -> pystac.Item:
    return pystac.Item.from_file(folder / "item.json")


def test_it_says_where_and_when(item: pystac.Item) -> None:
    assert item.bbox == pytest.approx([11.343, 47.577, 11.385, 47.596], abs=2e-3)
    assert item.geometry is not None
    ring = np.array(item.geometry["coordinates"][0])
    assert (ring[0] == ring[-1]).all()
    # Counter-clockwise, as GeoJSON asks of an outer ring: the area by the shoelace formula is positive.
    assert (ring[:-1, 0] * ring[1:, 1] - ring[1:, 0] * ring[:-1, 1]).sum() > 0
    assert [ring[:, 0].min(), ring[:, 1].min(), ring[:, 0].max(), ring[:, 1].max()] == item.bbox
    assert item.datetime is not None
    assert item.datetime.isoformat() == "2021-07-14T00:00:00+00:00"
    assert item.properties["start_datetime"] == "2021-07-14T00:00:00Z"
    assert item.properties["end_datetime"] == "2021-07-14T23:59:59Z"
    assert item.properties["created"] == "2026-07-30T10:00:00Z"
    projection = ProjectionExtension.ext(item)
    assert (projection.epsg, item.properties["proj:bbox"]) == (32632, list(GRID.bounds))


def test_it_says_what_of_and_how(item: pystac.Item) -> None:
    said = item.properties
    assert said["processing:level"] == "L4"
    assert said["processing:software"] == {"copgen-edge": "0.1.0"}
    assert said["processing:lineage"].startswith("the weights of this bundle are random")
    assert "given DEM_DEM: 20 steps of dpm-solver-3, seed 7" in said["processing:lineage"]
    assert said["copgen:bundle_sha256"] == RESULT["bundle"]["manifest_sha256"]
    assert said["copgen:backend"] == RESULT["backend"]
    assert (said["copgen:seed"], said["copgen:steps"], said["copgen:solver"]) == (7, 20, "dpm-solver-3")
    assert said["copgen:conditions"] == {"DEM_DEM": [{"file": "dem.tif", "sha256": "cd" * 32}]}
    assert said["copgen:missing"] == RESULT["missing"]
    # The item may be published; where files lay on this machine is nobody's concern.
    assert "/somewhere" not in json.dumps(item.to_dict())


def test_every_file_is_an_asset_that_can_be_checked(folder: Path, item: pystac.Item) -> None:
    hrefs = {asset.href for asset in item.assets.values()}
    rasters = {f"./{name}" for name in names(folder) if name.endswith(".tif")}
    pictures = {f"./pictures/{name}" for name in names(folder / "pictures")}
    assert hrefs == rasters | pictures | {"./index.html"}
    for name, asset in item.assets.items():
        if name == "page":
            continue
        content = (folder / asset.href).read_bytes()
        facts = FileExtension.ext(asset)
        assert facts.checksum == "1220" + hashlib.sha256(content).hexdigest()
        assert facts.size == len(content)
        assert asset.media_type == (pystac.MediaType.PNG if asset.href.endswith("png") else pystac.MediaType.COG)
    assert item.assets["LULC_LULC.mode"].roles == ["data"]
    assert item.assets["LULC_LULC.mode.picture"].roles == ["overview"]
    assert item.assets["validity"].roles == ["metadata", "data-mask"]


def test_bands_say_what_their_numbers_mean(item: pystac.Item) -> None:
    optical = item.assets["S2L2A_B01_B09.quantiles"]
    assert [band["name"] for band in optical.extra_fields["bands"]][:2] == ["B01 p05", "B01 p50"]
    band = (RasterExtension.ext(optical).bands or [])[0]
    assert (band.nodata, band.data_type, band.unit) == (0, "uint16", "reflectance")
    assert (band.scale, band.offset, band.spatial_resolution) == (0.0001, 0, 60)
    mean = (RasterExtension.ext(item.assets["S2L2A_B01_B09.mean"]).bands or [])[1]
    assert (mean.nodata, mean.data_type) == ("nan", "float32")
    assert optical.extra_fields["proj:shape"] == [36, 52]
    assert optical.extra_fields["proj:transform"] == [60.0, 0.0, GRID.left, 0.0, -60.0, GRID.top]


def dated(tmp_path: Path, **dates: Any) -> dict[str, Any]:
    write_item(tmp_path, GRID, [], {**RESULT, "condition_date": None, **dates})
    return json.loads((tmp_path / "item.json").read_text())["properties"]


def test_dates_that_were_generated_span_a_range(tmp_path: Path) -> None:
    said = dated(tmp_path, date=["2021-09-02", "2020-01-30"])
    assert (said["start_datetime"], said["end_datetime"]) == ("2020-01-30T00:00:00Z", "2021-09-02T23:59:59Z")
    assert said["datetime"] == "2020-01-30T00:00:00Z"


def test_without_any_date_it_is_dated_by_its_making(tmp_path: Path) -> None:
    said = dated(tmp_path, date=None)
    assert said["datetime"] == "2026-07-30T10:00:00Z"
    assert "start_datetime" not in said


def test_a_footprint_across_the_antimeridian_is_cut() -> None:
    # Zone 1 begins at 180 degrees; at 60 N the scene reaches 40 km to its west.
    grid = SceneGrid(CRS.from_epsg(32601), 292_740.0, 6_660_000.0, 90_000, 60_000)
    geometry, bbox = footprint(grid)
    assert geometry["type"] == "MultiPolygon"
    west, east = (np.array(part[0]) for part in geometry["coordinates"])
    assert west[:, 0].max() == 180.0
    assert west[:, 0].min() == bbox[0] > 179.0
    assert east[:, 0].min() == -180.0
    assert east[:, 0].max() == pytest.approx(bbox[2])
    assert bbox[2] < -178.0
    for ring in (west, east):
        assert (ring[0] == ring[-1]).all()
        assert (np.abs(np.diff(ring[:, 0])) < 2).all()


def test_a_grid_without_epsg_code_is_spelt_out(tmp_path: Path) -> None:
    crs = CRS.from_proj4("+proj=laea +lat_0=48 +lon_0=9 +datum=WGS84 +units=m")
    write_item(tmp_path, SceneGrid(crs, 0.0, 0.0, 1920, 1920), [], RESULT)
    said = json.loads((tmp_path / "item.json").read_text())["properties"]
    assert said["proj:code"] is None
    assert said["proj:wkt2"].startswith("PROJCRS")


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CopgenError, match=r"cannot write .*item\.json"), disk_of(10):
        write_item(tmp_path, GRID, [], RESULT)
    assert not names(tmp_path)
