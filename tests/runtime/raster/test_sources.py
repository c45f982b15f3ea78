import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from copgen_edge.runtime.errors import RasterError, RequestError
from copgen_edge.runtime.modalities import FAMILIES, get
from copgen_edge.runtime.raster.sources import Source, band_names, find_sources
from rasterio.enums import ColorInterp

WriteRaster = Callable[..., Path]

L1C = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
L2A = tuple(band for band in L1C if band != "B10")
NATIVE = {"B01": 60, "B09": 60, "B10": 60, "B02": 10, "B03": 10, "B04": 10, "B08": 10}


def places(source: Source) -> list[tuple[str, str, int]]:
    return [(band.name, band.path.name, band.index) for band in source.bands]


def one(name: str, value: Path, bands: dict[str, tuple[str, ...]] | None = None) -> Source:
    (source,), _ = find_sources([(name, str(value))], bands or {})
    return source


@pytest.mark.parametrize(
    ("text", "family", "found"),
    [
        ("B02", "S2L2A", ("B02",)),
        ("b2", "S2L2A", ("B02",)),
        ("T18SVG_20170226T102021_B02", "S2L1C", ("B02",)),
        ("T18SVG_20170226T102021_b8a_20m", "S2L2A", ("B8A",)),
        ("B02, blue", "S2L2A", ("B02",)),
        ("B12, central wavelength 2202 nm", "S2L2A", ("B12",)),
        ("S2B_MSIL1C_N0509", "S2L1C", ()),
        ("B13", "S2L1C", ()),
        ("B020", "S2L1C", ()),
        ("TCI_10m", "S2L2A", ()),
        ("B04_B03_B02", "S2L2A", ("B02", "B03", "B04")),
        ("s1a-iw-grd-vv-20150309t173017", "S1RTC", ("vv",)),
        ("S1A_IW_GRDH_1SDV_VH", "S1RTC", ("vh",)),
        ("cloud_mask", "cloud_mask", ("cloud_mask",)),
        ("x-Cloud-Mask-10m", "cloud_mask", ("cloud_mask",)),
        ("DEM", "DEM", ("DEM",)),
        ("demography", "DEM", ()),
    ],
)
def test_bands_are_named_by_words_of_their_own(text: str, family: str, found: tuple[str, ...]) -> None:
    assert band_names(text, family) == found


def test_a_family_in_a_folder_of_band_files_splits_into_its_groups(write_raster: WriteRaster, tmp_path: Path) -> None:
    for band in L1C:
        write_raster(f"cell/{band}.tif", resolution=NATIVE.get(band, 20), size=42)
    write_raster("cell/cloud_mask.tif")
    (tmp_path / "cell/thumbnail.png").write_bytes(b"no raster of ours")
    (tmp_path / "cell/._B02.tif").write_bytes(b"what a Mac leaves behind")
    sources, notes = find_sources([("S2L1C", str(tmp_path / "cell"))], {})
    assert tuple(source.key for source in sources) == FAMILIES["S2L1C"]
    assert notes == ()
    for source in sources:
        assert places(source) == [(band, f"{band}.tif", 1) for band in get(source.key).bands]


def test_the_cloud_mask_is_found_among_bands(write_raster: WriteRaster, tmp_path: Path) -> None:
    for name in ("B02", "cloud_mask", "B03"):
        write_raster(f"cell/{name}.tif")
    assert places(one("cloud_mask", tmp_path / "cell")) == [("cloud_mask", "cloud_mask.tif", 1)]


def test_the_native_resolution_is_preferred(write_raster: WriteRaster, tmp_path: Path) -> None:
    for band in ("B01", "B09"):
        for resolution in (20, 60):
            write_raster(f"l2a/T18_{band}_{resolution}m.tif", resolution=resolution, size=36)
    assert [name for _, name, _ in places(one("S2L2A_B01_B09", tmp_path / "l2a"))] == [
        "T18_B01_60m.tif",
        "T18_B09_60m.tif",
    ]


def test_without_the_native_resolution_the_finest_is_taken(write_raster: WriteRaster, tmp_path: Path) -> None:
    for resolution in (20, 60):
        for band in ("B02", "B03", "B04", "B08"):
            write_raster(f"l2a/{band}_{resolution}m.tif", resolution=resolution, size=36)
    source = one("S2L2A_B02_B03_B04_B08", tmp_path / "l2a")
    assert [path.name for path in source.paths] == [f"{band}_20m.tif" for band in ("B04", "B03", "B02", "B08")]


def test_two_files_for_one_band_are_refused(write_raster: WriteRaster, tmp_path: Path) -> None:
    for name in ("vv", "vh", "a_vv"):
        write_raster(f"s1/{name}.tif")
    with pytest.raises(RasterError, match=r"2 rasters could be vv: a_vv.tif, vv.tif"):
        one("S1RTC", tmp_path / "s1")


def test_files_in_a_folder_are_matched_by_description_too(write_raster: WriteRaster, tmp_path: Path) -> None:
    write_raster("s1/first.TIF", descriptions=["VH"])
    write_raster("s1/second.tif", count=2, descriptions=["angle", "Gamma0 VV"])
    assert places(one("S1RTC", tmp_path / "s1")) == [("vv", "second.tif", 2), ("vh", "first.TIF", 1)]


def test_a_folder_with_one_raster_stands_for_it(write_raster: WriteRaster, tmp_path: Path) -> None:
    write_raster("id/elevation.tif")
    assert places(one("DEM", tmp_path / "id")) == [("DEM", "elevation.tif", 1)]


def test_of_several_rasters_the_one_named_after_the_modality_is_taken(
    write_raster: WriteRaster, tmp_path: Path
) -> None:
    write_raster("d/DEM.tif")
    write_raster("d/slope.tif")
    assert places(one("DEM", tmp_path / "d")) == [("DEM", "DEM.tif", 1)]
    with pytest.raises(RasterError, match=r"none of the rasters in .* is named LULC; give the file itself"):
        one("LULC", tmp_path / "d")


def test_a_band_file_with_several_bands_is_refused(write_raster: WriteRaster, tmp_path: Path) -> None:
    write_raster("s1/vv.tif", count=2)
    write_raster("s1/vh.tif")
    with pytest.raises(RasterError, match=r"vv.tif has 2 bands; a file named after a band has 1"):
        one("S1RTC", tmp_path / "s1")


def test_missing_bands_are_named_with_the_way_out(write_raster: WriteRaster, tmp_path: Path) -> None:
    for band in ("B02", "B03", "B04"):
        write_raster(f"s2/{band}.tif")
    with pytest.raises(RasterError, match=r"lacks B01, B09 of B01, B09; give only the groups .*S2L2A_B02_B03_B04_B08"):
        one("S2L2A", tmp_path / "s2")
    with pytest.raises(RasterError, match=r"lacks B08 of B04, B03, B02, B08$"):
        one("S2L2A_B02_B03_B04_B08", tmp_path / "s2")


def test_bands_of_a_file_are_found_by_description(write_raster: WriteRaster) -> None:
    path = write_raster("s2.tif", count=5, descriptions=["B8", "SCL", "B2, blue", "b03", "B04"])
    assert places(one("S2L2A_B02_B03_B04_B08", path)) == [
        ("B04", "s2.tif", 5),
        ("B03", "s2.tif", 4),
        ("B02", "s2.tif", 3),
        ("B08", "s2.tif", 1),
    ]


def test_a_description_given_twice_is_refused(write_raster: WriteRaster) -> None:
    path = write_raster("s1.tif", count=2, descriptions=["VV", "VV"])
    with pytest.raises(RasterError, match=r"describes bands 1 and 2 as vv"):
        one("S1RTC", path)


@pytest.mark.parametrize(("family", "order"), [("S2L1C", L1C), ("S2L2A", L2A), ("S1RTC", ("vv", "vh"))])
def test_undescribed_bands_are_known_by_their_number_and_said(
    write_raster: WriteRaster, family: str, order: tuple[str, ...]
) -> None:
    path = write_raster("file.tif", count=len(order))
    sources, notes = find_sources([(family, str(path))], {})
    assert {(b.name, b.index) for source in sources for b in source.bands} == {(b, i + 1) for i, b in enumerate(order)}
    assert notes == (f"{family}: file.tif describes no band; taken as {', '.join(order)} (--bands says otherwise)",)


@pytest.mark.parametrize(
    ("name", "count"),
    [("S2L1C", 12), ("S2L2A", 13), ("S2L2A_B02_B03_B04_B08", 4), ("S1RTC", 1), ("S1RTC", 3), ("DEM", 2), ("LULC", 3)],
)
def test_a_wrong_band_count_is_refused(write_raster: WriteRaster, name: str, count: int) -> None:
    path = write_raster("file.tif", count=count)
    with pytest.raises(RasterError, match=rf"file.tif has {count} bands?, .* --bands {name}=") as error:
        one(name, path)
    assert "\n" not in str(error.value)


def test_an_alpha_band_is_not_counted(write_raster: WriteRaster) -> None:
    path = write_raster("dem.tif", count=2)
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = (ColorInterp.gray, ColorInterp.alpha)
    assert places(one("DEM", path)) == [("DEM", "dem.tif", 1)]


def test_bands_are_taken_in_the_order_given(write_raster: WriteRaster) -> None:
    path = write_raster("s2.tif", count=5, descriptions=["B01"] * 5)
    name = "S2L2A_B02_B03_B04_B08"
    source = one(name, path, {name: ("b2", "B03", "-", "B4", "B08")})
    assert places(source) == [
        ("B04", "s2.tif", 4),
        ("B03", "s2.tif", 2),
        ("B02", "s2.tif", 1),
        ("B08", "s2.tif", 5),
    ]


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (("vv",), "names 1 bands, but s1.tif has 2"),
        (("vv", "vv"), "names vv twice"),
        (("vv", "hh"), "lacks vh"),
    ],
)
def test_bands_that_do_not_fit_the_file_are_refused(
    write_raster: WriteRaster, order: tuple[str, ...], message: str
) -> None:
    path = write_raster("s1.tif", count=2)
    with pytest.raises(RequestError, match=message):
        one("S1RTC", path, {"S1RTC": order})


def test_bands_of_what_is_not_given_are_refused(write_raster: WriteRaster) -> None:
    with pytest.raises(RequestError, match=r"--bands S2L1C: no condition of that name is given; have DEM"):
        one("DEM", write_raster("dem.tif"), {"S2L1C": L1C})


def test_bands_of_a_folder_of_several_files_are_refused(write_raster: WriteRaster, tmp_path: Path) -> None:
    write_raster("s1/a.tif")
    write_raster("s1/b.tif")
    with pytest.raises(RequestError, match=r"orders the bands of one file"):
        one("S1RTC", tmp_path / "s1", {"S1RTC": ("vv", "vh")})


def test_a_modality_given_twice_is_refused(write_raster: WriteRaster) -> None:
    path = str(write_raster("s2.tif", count=12))
    with pytest.raises(RequestError, match=r"S2L2A_B01_B09 is given twice, by S2L2A and by S2L2A_B01_B09"):
        find_sources([("S2L2A", path), ("S2L2A_B01_B09", path)], {})
    with pytest.raises(RequestError, match=r"LULC_LULC is given twice"):
        dem = str(write_raster("dem.tif"))
        find_sources([("LULC", dem), ("LULC", dem)], {})


@pytest.mark.parametrize("value", ["", "nowhere.tif"])
def test_a_file_that_does_not_exist_is_refused(value: str) -> None:
    with pytest.raises(RasterError, match=r"DEM: .* does not exist"):
        find_sources([("DEM", value)], {})


def test_a_path_that_the_system_refuses_is_refused() -> None:
    with pytest.raises(RasterError, match=r"cannot be opened \(File name too long\)|does not exist"):
        find_sources([("DEM", "x" * 5000)], {})


def test_a_folder_without_rasters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RasterError, match=r"holds no raster; expected files ending in .jp2, .tif, .tiff, .vrt"):
        one("DEM", tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a raster at all\n" * 40], ids=["empty", "text"])
def test_a_file_that_is_no_raster_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "dem.tif"
    path.write_bytes(content)
    with pytest.raises(RasterError, match=r"DEM: dem.tif cannot be read as a raster") as error:
        one("DEM", path)
    assert "\n" not in str(error.value)


def test_an_unknown_modality_is_refused(write_raster: WriteRaster) -> None:
    with pytest.raises(RequestError, match=r"unknown modality 'S3'"):
        one("S3", write_raster("x.tif", np.zeros((8, 8))))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "dem.tif")
    with pytest.raises(RasterError, match="neither a file nor a folder"):
        find_sources([("DEM", str(tmp_path / "dem.tif"))], {})
