import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copgen_edge.runtime.errors import RasterError, RequestError
from copgen_edge.runtime.modalities import FAMILIES, get
from copgen_edge.runtime.raster.conditions import ReadOptions
from copgen_edge.runtime.raster.products import Products, SceneSource, find_products
from copgen_edge.runtime.raster.window import GroundWindow
from rasterio.crs import CRS

WriteRaster = Callable[..., Path]

LEFT, TOP = 436_920.0, 4_175_880.0
WINDOW = GroundWindow(CRS.from_epsg(32618), LEFT + 300, TOP - 240)
NATIVE = {"B01": 60, "B09": 60, "B10": 60, "B02": 10, "B03": 10, "B04": 10, "B08": 10}
L2A = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
VISIBLE = "S2L2A_B02_B03_B04_B08"
KEYS = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir"}
TIFF = "image/tiff; application=geotiff"


def products(*values: tuple[str, Any], **options: Any) -> Products:
    return find_products([(name, str(value)) for name, value in values], ReadOptions(**options))


def asset(href: str, **fields: Any) -> dict[str, Any]:
    return {"href": href, "type": TIFF, "roles": ["data"], **fields}


def item(assets: dict[str, Any], identifier: str = "x", collection: str = "", **properties: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": identifier,
        "collection": collection,
        "geometry": None,
        "properties": {"datetime": "2023-08-21T22:19:41Z", **properties},
        "links": [],
        "assets": assets,
    }


def save(tmp_path: Path, document: Any, name: str = "item.json") -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def value(band: str) -> float:
    return 2000 + 100 * L2A.index(band)


def write_bands(
    write_raster: WriteRaster, folder: str = "", bands: tuple[str, ...] = ("B04", "B03", "B02", "B08")
) -> None:
    for band in bands:
        side = 2520 // NATIVE.get(band, 20)
        write_raster(
            f"{folder}{band}.tif", np.full((side, side), value(band)), resolution=NATIVE.get(band, 20), dtype="uint16"
        )


def visible(folder: str = "", **fields: Any) -> dict[str, Any]:
    return {KEYS[band]: asset(f"./{folder}{band}.tif", **fields) for band in ("B02", "B03", "B04", "B08")}


def only(source: SceneSource) -> list[float]:
    """The one value of each band."""
    read = source.read(WINDOW)
    assert read.min(axis=(1, 2)).tolist() == read.max(axis=(1, 2)).tolist()
    return [float(band[0, 0]) for band in read]


def plain(offset: float) -> list[float]:
    return [value(band) + offset for band in get(VISIBLE).bands]


BANDS_1_0 = {band: [{"name": band, "common_name": KEYS[band]}] for band in KEYS}


@pytest.mark.parametrize(
    "assets",
    [
        visible(),
        {band: asset(f"{band}.tif") for band in KEYS},
        {f"{band}_10m": asset(f"{band}.tif") for band in KEYS},
        {f"a{n}": asset(f"{band}.tif", **{"eo:bands": BANDS_1_0[band]}) for n, band in enumerate(KEYS)},
        {f"a{n}": asset(f"{band}.tif", bands=[{"name": band}]) for n, band in enumerate(KEYS)},
        {f"a{n}": asset(f"{band}.tif", bands=[{"eo:common_name": KEYS[band]}]) for n, band in enumerate(KEYS)},
        {KEYS[band]: {"href": f"{band}.tif"} for band in KEYS},
    ],
    ids=["common keys", "band keys", "keys with resolution", "eo:bands", "bands", "common names", "bare"],
)
def test_assets_are_found_by_band_name_or_key(
    write_raster: WriteRaster, tmp_path: Path, assets: dict[str, Any]
) -> None:
    write_bands(write_raster)
    pictures = {
        "visual": asset("B02.tif", roles=["visual"], **{"eo:bands": [{"name": b} for b in ("B04", "B03", "B02")]}),
        "thumbnail": {"href": "B02.tif", "roles": ["thumbnail"], "eo:bands": [{"name": "B02"}]},
        "blue-meta": {"href": "B02.xml", "type": "application/xml", "roles": ["data"], "eo:bands": [{"name": "B02"}]},
    }
    found = products(
        ("S2L2A_B02_B03_B04_B08", save(tmp_path, item({**pictures, **assets}, collection="sentinel-2-l2a")))
    )
    assert only(found.sources[0]) == plain(0)
    assert found.date == (2023, 8, 21)
    assert tmp_path / "item.json" in found.files[VISIBLE]
    assert {path.name for path in found.files[VISIBLE]} == {"item.json", "B02.tif", "B03.tif", "B04.tif", "B08.tif"}


RASTER = {"raster:bands": [{"scale": 0.0001, "offset": -0.1, "nodata": 0, "data_type": "uint16"}]}


@pytest.mark.parametrize(
    ("fields", "properties", "offset", "origin"),
    [
        (RASTER, {}, -1000, "raster:bands"),
        (RASTER, {"s2:processing_baseline": "02.14"}, -1000, "raster:bands"),
        (RASTER, {"earthsearch:boa_offset_applied": True}, 0, "without"),
        (RASTER, {"earthsearch:boa_offset_applied": False}, -1000, "raster:bands"),
        ({"raster:bands": [{"scale": 0.0001, "offset": 0}]}, {"s2:processing_baseline": "05.09"}, 0, "raster:bands"),
        ({"raster:scale": 0.0001, "raster:offset": -0.1}, {}, -1000, "raster:bands"),
        ({"bands": [{"raster:scale": 0.0001, "raster:offset": -0.1}]}, {}, -1000, "raster:bands"),
        ({"raster:bands": [{"offset": -1000}]}, {}, -1000, "raster:bands"),
        ({}, {"s2:processing_baseline": "05.10"}, -1000, "baseline 05.10"),
        ({}, {"s2:processing_baseline": "03.01"}, 0, "baseline 03.01"),
        ({"raster:bands": [{"scale": 0.0001}]}, {"s2:processing_baseline": "05.10"}, -1000, "baseline"),
        ({}, {"sentinel:product_id": "S2A_MSIL2A_20220714T115221_N0400_R123_T28QCH_20220714T191310"}, -1000, "04.00"),
        (
            {},
            {"sentinel:boa_offset_applied": True, "sentinel:processing_baseline": "04.00"},
            0,
            "without",
        ),
        ({}, {"processing:version": "05.11"}, -1000, "05.11"),
        ({}, {}, 0, "nothing says"),
    ],
)
def test_the_offset_is_what_the_item_says(
    write_raster: WriteRaster,
    tmp_path: Path,
    fields: dict[str, Any],
    properties: dict[str, Any],
    offset: float,
    origin: str,
) -> None:
    write_bands(write_raster)
    document = item(visible(**fields), collection="sentinel-2-l2a", **properties)
    (source,) = products((VISIBLE, save(tmp_path, document))).sources
    assert only(source) == plain(offset)
    assert origin in source.describe


def test_scale_of_the_item_makes_dn_and_the_users_offset_wins(write_raster: WriteRaster, tmp_path: Path) -> None:
    write_bands(write_raster)
    document = item(visible(**{"raster:bands": [{"scale": 0.0002, "offset": -0.1}]}), collection="sentinel-2-l2a")
    path = save(tmp_path, document)
    assert only(products((VISIBLE, path)).sources[0]) == [2 * v - 1000 for v in plain(0)]
    assert only(products((VISIBLE, path), s2_offset=0).sources[0]) == [2 * v for v in plain(0)]


def test_an_offset_that_is_off_already_although_the_item_says_otherwise_is_refused(
    write_raster: WriteRaster, tmp_path: Path
) -> None:
    for band in KEYS:
        write_raster(f"{band}.tif", np.full((252, 252), 300), dtype="uint16")
    document = item(visible(**RASTER), collection="sentinel-2-l2a", **{"earthsearch:boa_offset_applied": False})
    with pytest.raises(RasterError, match=r"subtracted before; use --s2-offset 0"):
        products((VISIBLE, save(tmp_path, document)))


def test_of_several_resolutions_the_modalitys_own_is_taken(write_raster: WriteRaster, tmp_path: Path) -> None:
    write_bands(write_raster)
    for band in KEYS:
        write_raster(f"{band}_20m.tif", np.full((126, 126), 7), resolution=20, dtype="uint16")
    coarse = {f"{key}_20m": asset(f"{band}_20m.tif") for band, key in KEYS.items()}
    lost = {f"{key}_60m": asset(f"{band}_60m.tif") for band, key in KEYS.items()}
    document = item({**coarse, **lost, **visible()}, collection="sentinel-2-l2a")
    assert only(products((VISIBLE, save(tmp_path, document))).sources[0]) == plain(0)


def test_a_stacked_asset_gives_its_bands_by_position(write_raster: WriteRaster, tmp_path: Path) -> None:
    stack = np.stack([np.full((252, 252), value(band)) for band in ("B08", "B04", "B03", "B02")])
    write_raster("stack.tif", stack, dtype="uint16")
    named = [{"name": band} for band in ("B08", "B04", "B03", "B02")]
    document = item({"data": asset("stack.tif", **{"eo:bands": named})}, collection="sentinel-2-l2a")
    assert only(products((VISIBLE, save(tmp_path, document))).sources[0]) == plain(0)


def test_radar_elevation_and_land_cover_come_from_items_too(write_raster: WriteRaster, tmp_path: Path) -> None:
    write_raster("vv.tif", np.full((252, 252), 0.25))
    write_raster("vh.tif", np.where(np.arange(252) < 100, 0.05, -32768.0) * np.ones((252, 1)))
    radar = item(
        {
            "gamma0_vh": asset("vh.tif", **{"raster:bands": [{"nodata": -32768}]}),
            "gamma0_vv": asset("vv.tif", **{"raster:bands": [{"nodata": -32768}]}),
            "incidence": asset("vv.tif"),
        },
        collection="sentinel1-rtc-aws",
        datetime="2020-01-03T23:36:21Z",
    )
    write_raster("dem.tif", np.full((84, 84), 500), resolution=30, dtype="int16")
    dem = item(
        {"data": asset("dem.tif", **{"raster:bands": [{"scale": 0.5, "offset": -10}]})}, collection="cop-dem-glo-30"
    )
    codes = np.where(np.arange(252) < 100, 10, 30) * np.ones((252, 1))
    write_raster("map.tif", codes, dtype="uint8")
    cover = item({"map": asset("map.tif")}, collection="esa-worldcover")
    found = products(
        ("S1RTC", save(tmp_path, radar, "s1.json")),
        ("DEM", save(tmp_path, dem, "dem.json")),
        ("LULC", save(tmp_path, cover, "wc.json")),
    )
    read = {source.key: source.read(WINDOW) for source in found.sources}
    assert read["DEM_DEM"].tolist() == np.full((1, 64, 64), 240.0).tolist()
    assert np.isnan(read["S1RTC_vh_vv"]).any(axis=0)[0].tolist() == (np.arange(192) >= 70).tolist()
    np.testing.assert_allclose(
        read["S1RTC_vh_vv"][:, :, :70], np.array([0.25, 0.05])[:, None, None] * np.ones((192, 70))
    )
    np.testing.assert_array_equal(read["LULC_LULC"][0, 0], np.where(np.arange(192) < 70, 2, 11))
    assert found.date == (2020, 1, 3)
    assert any("ESA WorldCover's, mapped" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "href"), [("a b.tif", "./a%20b.tif"), ("a%20b.tif", "./a%20b.tif"), ("ä.tif", "./%C3%A4.tif")]
)
def test_escapes_of_an_href_are_undone_where_no_file_has_them(
    write_raster: WriteRaster, tmp_path: Path, name: str, href: str
) -> None:
    write_raster(name)
    saved = save(tmp_path, item({"data": asset(href)}, collection="cop-dem-glo-30"))
    assert products(("DEM", saved)).files["DEM_DEM"][0] == tmp_path / name


def mixed(tmp_path: Path, write_raster: WriteRaster) -> list[dict[str, Any]]:
    write_bands(write_raster)
    write_raster("dem.tif", np.full((84, 84), 500), resolution=30)
    return [
        item({"data": asset("dem.tif")}, "Copernicus_DSM_COG_10_N53", "cop-dem-glo-30"),
        item(visible(), "S2A_18SVG_20230821_0_L2A", "sentinel-2-l2a"),
    ]


@pytest.mark.parametrize("shape", ["list", "features", "collection"])
def test_a_file_of_many_items_gives_those_of_the_family(write_raster: WriteRaster, tmp_path: Path, shape: str) -> None:
    items = mixed(tmp_path, write_raster)
    document: Any = items
    if shape == "features":
        document = {"type": "FeatureCollection", "features": items}
    elif shape == "collection":
        for number, entry in enumerate(items):
            for one in entry["assets"].values():
                one["href"] = f"../../{one['href'].removeprefix('./')}"
            save(tmp_path, entry, f"items/{number}/item.json")
        links = [{"rel": "item", "href": f"./items/{number}/item.json"} for number in range(2)]
        document = {
            "type": "Collection",
            "stac_version": "1.0.0",
            "links": [{"rel": "self", "href": "http://x"}, *links],
        }
    path = save(tmp_path, document, "many.json")
    found = products((VISIBLE, path), ("DEM", path))
    assert [source.key for source in found.sources] == ["DEM_DEM", VISIBLE]
    assert only(found.sources[0]) == [500]
    assert only(found.sources[1]) == plain(0)
    with pytest.raises(RasterError, match=r"many.json holds DEM, S2L2A; expected S1RTC"):
        products(("S1RTC", path))


def test_items_of_several_dates_are_refused_for_sentinel_2(write_raster: WriteRaster, tmp_path: Path) -> None:
    write_bands(write_raster)
    items = [item(visible(), f"i{day}", "sentinel-2-l2a", datetime=f"2023-08-{day}T10:00:00Z") for day in (21, 24)]
    with pytest.raises(RequestError, match=r"several dates: 2023-08-21 \(i21.*2023-08-24 \(i24"):
        products((VISIBLE, save(tmp_path, items)))


@pytest.mark.parametrize(
    ("name", "family", "remote"),
    [
        ("planetary_computer/sentinel-2-l2a-pc.json", "S2L2A", "sentinel2l2a01.blob"),
        ("planetary_computer/sentinel-1-rtc-pc.json", "S1RTC", "sentinel1euwestrtc"),
        ("planetary_computer/cop-dem-glo-30-pc.json", "DEM", "elevationeuwest"),
        ("planetary_computer/io-lulc-annual-v02-pc.json", "LULC", "ai4edataeuwest"),
        ("other/S2A_28QCH_20200714_0_L2A.json", "S2L2A", "sentinel-cogs"),
        ("other/S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531.json", "S2L2A", "sentinel2l2a01"),
        ("other/S1A_20200103_17RMJ_ASC.json", "S1RTC", "sentinel-s1-rtc-indigo"),
    ],
)
def test_real_items_are_recognised_and_not_fetched(data: Path, name: str, family: str, remote: str) -> None:
    path = data / "stac_items" / name
    with pytest.raises(RasterError, match=rf"{remote}.*nothing is fetched from the network") as error:
        products((family, path))
    assert "\n" not in str(error.value)
    other = "DEM" if family != "DEM" else "S2L2A"
    with pytest.raises(RasterError, match=rf"holds {family}; expected {other}"):
        products((other, path))


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("other/Copernicus_DSM_COG_10_N53_00_W115_00_DEM.json", "DEM"),
        ("other/ESA_WorldCover_10m_2021_v200_N00E006.json", "LULC"),
    ],
)
def test_real_items_with_paths_above_themselves_are_refused(data: Path, name: str, family: str) -> None:
    with pytest.raises(RasterError, match=r"names '../../tests/data-files.*which is outside other"):
        products((family, data / "stac_items" / name))


@pytest.mark.parametrize(
    ("name", "index", "offset", "date"),
    [
        ("planetary_computer/sentinel-2-l2a-pc.json", 0, -1000, (2024, 4, 19)),
        ("other/S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531.json", None, 0, (2019, 6, 29)),
        ("other/S2A_28QCH_20200714_0_L2A.json", None, 0, (2020, 7, 14)),
    ],
)
def test_real_items_whose_files_are_here_are_read(
    write_raster: WriteRaster, tmp_path: Path, data: Path, name: str, index: int | None, offset: float, date: Any
) -> None:
    document = json.loads((data / "stac_items" / name).read_text())
    document = document if index is None else document[index]
    write_bands(write_raster, bands=L2A)
    for band in L2A:
        document["assets"][band]["href"] = f"{band}.tif"
    found = products(("S2L2A", save(tmp_path, document)))
    assert [source.key for source in found.sources] == list(FAMILIES["S2L2A"])
    for source in found.sources:
        assert only(source) == [value(band) + offset for band in get(source.key).bands]
    assert found.date == date


def test_the_item_that_stactools_makes_of_a_real_product_is_read(
    write_raster: WriteRaster, tmp_path: Path, data: Path
) -> None:
    (real,) = (data / "safe_metadata" / "stactools_sentinel2").glob("*MSIL2A*.SAFE")
    document = json.loads((real / "expected_output.json").read_text())
    for key in ("coastal", "coastal_20m", "nir09"):
        band = {"n": "B09"}.get(key[0], "B01")
        at = 20 if key.endswith("20m") else 60
        write_raster(
            document["assets"][key]["href"], np.full((2520 // at,) * 2, value(band)), resolution=at, dtype="uint16"
        )
    found = products(("S2L2A_B01_B09", save(tmp_path, document)))
    assert only(found.sources[0]) == [value("B01") - 1000, value("B09") - 1000]
    assert "60 m" in found.sources[0].describe


def refused(path: Path, message: str, name: str = VISIBLE) -> None:
    with pytest.raises(RasterError, match=message) as error:
        products((name, path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "href",
    [
        "../B02.tif",
        "/etc/passwd",
        "a/../../B02.tif",
        "file:///etc/passwd",
        "file:///%2e%2e/x.tif",
        "a\0b.tif",
        "\ud800/../../x",
    ],
)
def test_hrefs_outside_the_items_folder_are_refused(write_raster: WriteRaster, tmp_path: Path, href: str) -> None:
    write_bands(write_raster)
    document = item({**visible(), "blue": asset(href)}, collection="sentinel-2-l2a")
    refused(save(tmp_path, document, "inner/item.json"), r"which is outside inner")


@pytest.mark.parametrize(
    "href", ["https://x/B02.tif", "s3://x/B02.tif", "/vsicurl/https://x/B02.tif", "HTTP://x/B02.tif"]
)
def test_assets_on_the_network_are_refused_with_advice(write_raster: WriteRaster, tmp_path: Path, href: str) -> None:
    write_bands(write_raster)
    document = item({**visible(), "blue": asset(href)}, collection="sentinel-2-l2a")
    refused(save(tmp_path, document), r"download it first, and make its href a path relative")
    # A copy on this disk is taken before one on the network.
    document["assets"]["blue-jp2"] = document["assets"].pop("blue")
    document["assets"]["blue-jp2"]["eo:bands"] = [{"name": "B02"}]
    document["assets"]["B02"] = asset("B02.tif")
    assert only(products((VISIBLE, save(tmp_path, document))).sources[0]) == plain(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"B02": None}, r"asset blue is .*B02.tif', which is missing or empty"),
        ({"drop": "red"}, r"has no asset of role data for S2L2A B04 \(assets with data: blue, green, nir\)"),
        ({"fields": {"raster:bands": [{"scale": 0, "offset": 0}]}}, r"has a scale of 0; expected one above 0"),
        ({"fields": {"raster:bands": [{"scale": "a lot"}]}}, r"has scale 'a lot'; expected a number"),
        ({"fields": {"raster:bands": [{"offset": True}]}}, r"has offset 'True'; expected a number"),
        ({"fields": {"raster:bands": [{"offset": 1e400}]}}, r"has offset 'inf'; expected a number"),
        ({"fields": {"raster:bands": [{"data_type": "uint8"}]}}, r"has no asset of role data for S2L2A B04"),
    ],
)
def test_what_is_wrong_with_an_asset_is_said(
    write_raster: WriteRaster, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    write_bands(write_raster)
    assets = visible(**change.get("fields", {}))
    if "B02" in change:
        (tmp_path / "B02.tif").unlink()
    assets.pop(change.get("drop", ""), None)
    refused(save(tmp_path, item(assets, collection="sentinel-2-l2a")), message)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": None}]}, r"is no STAC item"),
        ({"type": "FeatureCollection", "features": []}, r"holds no item; expected S2L2A"),
        ({"type": "FeatureCollection"}, r"holds no item"),
        ([], r"holds no item"),
        ([1, "x"], r"is no STAC item"),
        ("text", r"is no STAC item"),
        ({"type": "Catalog", "stac_version": "1.0.0", "links": []}, r"is no STAC item"),
        ({"type": "Feature", "stac_version": "1.0.0"}, r"is a damaged STAC item \(KeyError"),
        ({**item({}), "assets": [1]}, r"is a damaged STAC item"),
        ({**item({}), "assets": {"a": "b"}}, r"is a damaged STAC item"),
        ({**item({}), "properties": None}, r"is a damaged STAC item"),
        (item({"B02": {"type": TIFF}}), r"is a damaged STAC item"),
        (item({}, datetime="yesterday"), r"is a damaged STAC item"),
        (item({"B02": {"href": 5, "roles": 7, "type": []}}), r"is a damaged STAC item"),
        (item({"B02": {"href": "B02.tif", "roles": 7, "type": []}}), r"has no asset of role data for S2L2A B01"),
        (item({"B01": asset("B02.tif", bands=5, **{"eo:bands": [1], "raster:bands": "x"})}), r"is missing or empty"),
        (
            {"type": "Collection", "stac_version": "1.0.0", "links": [{"rel": "item", "href": "https://x/i"}]},
            r"links to",
        ),
        ({"type": "Collection", "stac_version": "1.0.0", "links": [{"rel": "item", "href": "../i"}]}, r"outside"),
        ({"type": "Collection", "stac_version": "1.0.0", "links": [{"rel": "item", "href": "i.json"}]}, r"is missing"),
        ({"type": "Collection", "stac_version": "1.0.0", "links": 3}, r"holds no item"),
    ],
    ids=range(20),
)
def test_documents_that_are_no_items_are_refused(tmp_path: Path, document: Any, message: str) -> None:
    refused(save(tmp_path, document), message, "S2L2A")


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"9" * 6000])
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "item.json").write_bytes(content)
    refused(tmp_path / "item.json", r"is no JSON")


@pytest.mark.parametrize(
    ("collection", "held"),
    [
        ("sentinel-1-grd", "Sentinel-1 without terrain correction"),
        ("sentinel-2-l1c", "S2L1C"),
        ("esa-worldcover", "LULC"),
        ("cop-dem-glo-30", "DEM"),
    ],
)
def test_an_item_of_another_kind_is_refused(
    write_raster: WriteRaster, tmp_path: Path, collection: str, held: str
) -> None:
    write_bands(write_raster)
    refused(save(tmp_path, item(visible(), collection=collection)), rf"holds {held}; expected S2L2A")


def test_a_single_asset_of_data_is_the_whole_modality_and_two_are_not(
    write_raster: WriteRaster, tmp_path: Path
) -> None:
    write_raster("a.tif", np.full((252, 252), 5.0))
    assets = {"terrain": asset("a.tif"), "ql": asset("a.tif", roles=["overview"])}
    assert only(products(("DEM", save(tmp_path, item(assets)))).sources[0]) == [5]
    assets["slope"] = asset("a.tif")
    refused(
        save(tmp_path, item(assets)),
        r"has no asset of role data for DEM DEM \(assets with data: terrain, slope\)",
        "DEM",
    )
