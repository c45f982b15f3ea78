import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from copgen_edge.runtime.errors import RasterError, RequestError
from copgen_edge.runtime.modalities import FAMILIES, get
from copgen_edge.runtime.raster.conditions import ReadOptions
from copgen_edge.runtime.raster.products import Products, find_products
from copgen_edge.runtime.raster.window import GroundWindow
from rasterio.crs import CRS

WriteRaster = Callable[..., Path]

LEFT, TOP = 436_920.0, 4_175_880.0
WINDOW = GroundWindow(CRS.from_epsg(32618), LEFT + 300, TOP - 240)
ORDER = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
NATIVE = {"B01": 60, "B09": 60, "B10": 60, "B02": 10, "B03": 10, "B04": 10, "B08": 10}
TITLE = "S2A_MSI{level}_20230821T221941_N{baseline}_R029_T18SVG_20230822T021825.SAFE"
XML = {"L1C": "MTD_MSIL1C.xml", "L2A": "MTD_MSIL2A.xml"}


def products(*values: tuple[str, Any], **options: Any) -> Products:
    return find_products([(name, str(value)) for name, value in values], ReadOptions(**options))


def described(
    level: str,
    images: list[str],
    *,
    baseline: str = "05.09",
    offsets: dict[int, str] | None = None,
    quantification: str = "10000",
    start: str = "2023-08-21T22:19:41.024Z",
) -> str:
    tag = "BOA_ADD_OFFSET" if level == "L2A" else "RADIO_ADD_OFFSET"
    unit = "BOA_QUANTIFICATION_VALUE" if level == "L2A" else "QUANTIFICATION_VALUE"
    spectral = "".join(
        f'<Spectral_Information bandId="{i}" physicalBand="{b.replace("B0", "B")}"/>' for i, b in enumerate(ORDER)
    )
    listed = "".join(f"<IMAGE_FILE>{image}</IMAGE_FILE>" for image in images)
    shifts = "".join(f'<{tag} band_id="{i}">{value}</{tag}>' for i, value in (offsets or {}).items())
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><n1:P xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/x.xsd">'
        f"<Product_Info><PRODUCT_START_TIME>{start}</PRODUCT_START_TIME>"
        f"<PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE><Granule_List><Granule>{listed}</Granule></Granule_List>"
        f"</Product_Info><{unit}>{quantification}</{unit}><L>{shifts}</L>{spectral}</n1:P>"
    )


def images(level: str) -> dict[str, str]:
    """Image file, without its suffix, by band."""
    folder = f"GRANULE/{level}_T18SVG_A042640/IMG_DATA"
    named = {}
    for band in ORDER if level == "L1C" else [band for band in ORDER if band != "B10"]:
        at = NATIVE.get(band, 20)
        where = f"{folder}/R{at}m" if level == "L2A" else folder
        named[band] = f"{where}/T18SVG_20230821T221941_{band}" + (f"_{at}m" if level == "L2A" else "")
    return named


def write_safe(write_raster: WriteRaster, tmp_path: Path, level: str = "L1C", shift: float = 0.0, **about: Any) -> Path:
    """A product whose band number i is 2000 + 100 i everywhere, but for a ramp along the columns."""
    root = tmp_path / about.pop("title", TITLE.format(level=level, baseline="0509"))
    named = images(level)
    for band, image in named.items():
        side = 2520 // NATIVE.get(band, 20)
        values = 2000 + 100 * ORDER.index(band) + np.tile(np.arange(side), (side, 1)) + shift
        write_raster(f"{root.name}/{image}.jp2", values, resolution=NATIVE.get(band, 20), dtype="uint16")
    (root / XML[level]).write_text(described(level, list(named.values()), **about), encoding="utf-8")
    return root


def expected(key: str, offset: float) -> np.ndarray:
    modality = get(key)
    columns = 300 // modality.resolution + np.arange(modality.size)
    bands = [2000 + 100 * ORDER.index(band) + offset + columns for band in modality.bands]
    return np.stack([np.tile(band, (modality.size, 1)) for band in bands]).astype(np.float32)


@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_a_product_is_read_as_its_xml_says(write_raster: WriteRaster, tmp_path: Path, level: str) -> None:
    family = f"S2{level}"
    root = write_safe(write_raster, tmp_path, level, offsets=dict.fromkeys(range(13), "-1000"))
    found = products((family, root))
    assert [source.key for source in found.sources] == list(FAMILIES[family])
    for source in found.sources:
        read = source.read(WINDOW)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, expected(source.key, -1000))
        assert root / XML[level] in found.files[source.key]
        assert "baseline 05.09" in source.describe
        assert "copied" in source.describe
        assert "offset -1000 DN from the product's ADD_OFFSET" in source.describe
    assert found.date == (2023, 8, 21)
    assert any(note.startswith("date: 2023-08-21, from PRODUCT_START_TIME of S2A_MSI") for note in found.notes)
    by_file = products((family, root / XML[level]))
    np.testing.assert_array_equal(by_file.sources[0].read(WINDOW), found.sources[0].read(WINDOW))


def test_each_band_has_its_own_offset_in_units_of_the_quantification(write_raster: WriteRaster, tmp_path: Path) -> None:
    offsets = {number: str(-10 * number) for number in range(13)}
    root = write_safe(write_raster, tmp_path, offsets=offsets, quantification="5000")
    (source,) = products(("S2L1C_B02_B03_B04_B08", root)).sources
    read, stored = source.read(WINDOW), expected(source.key, 0)
    for number, band in enumerate(get(source.key).bands):
        np.testing.assert_allclose(read[number], 2 * (stored[number] - 10 * ORDER.index(band)))


@pytest.mark.parametrize(("baseline", "offset"), [("02.04", 0), ("03.01", 0), ("04.00", -1000), ("05.11", -1000)])
def test_without_offsets_the_baseline_says_them(
    write_raster: WriteRaster, tmp_path: Path, baseline: str, offset: int
) -> None:
    root = write_safe(write_raster, tmp_path, baseline=baseline)
    (source,) = products(("S2L1C_B01_B09_B10", root)).sources
    np.testing.assert_array_equal(source.read(WINDOW), expected(source.key, offset))


def test_the_users_offset_wins(write_raster: WriteRaster, tmp_path: Path) -> None:
    root = write_safe(write_raster, tmp_path, offsets=dict.fromkeys(range(13), "-1000"))
    (source,) = products(("S2L1C_B01_B09_B10", root), s2_offset=0).sources
    np.testing.assert_array_equal(source.read(WINDOW), expected(source.key, 0))
    assert "offset 0 DN from --s2-offset 0" in source.describe


def test_level_2a_takes_each_band_at_its_own_resolution(write_raster: WriteRaster, tmp_path: Path) -> None:
    root = write_safe(write_raster, tmp_path, "L2A")
    listed = list(images("L2A").values())
    decoy = listed[0].replace("R60m", "R20m").replace("60m", "20m")
    write_raster(f"{root.name}/{decoy}.jp2", np.full((126, 126), 7), resolution=20, dtype="uint16")
    (root / XML["L2A"]).write_text(described("L2A", [decoy, *listed]))
    (source,) = products(("S2L2A_B01_B09", root), s2_offset=0).sources
    np.testing.assert_array_equal(source.read(WINDOW), expected(source.key, 0))


def test_the_real_metadata_of_level_2a_gives_offset_date_and_files(
    write_raster: WriteRaster, tmp_path: Path, data: Path
) -> None:
    (real,) = (data / "safe_metadata" / "stactools_sentinel2").glob("*MSIL2A*.SAFE")
    root = tmp_path / real.name
    for band, at in (("B02", 10), ("B03", 10), ("B04", 10), ("B08", 10)):
        image = f"{real.name}/GRANULE/L2A_T01KAB_A042640_20230821T221944/IMG_DATA/R{at}m"
        write_raster(f"{image}/T01KAB_20230821T221941_{band}_{at}m.jp2", dtype="uint16")
    shutil.copyfile(real / "MTD_MSIL2A.xml", root / "MTD_MSIL2A.xml")
    found = products(("S2L2A_B02_B03_B04_B08", root))
    (source,) = found.sources
    assert found.date == (2023, 8, 21)
    assert "baseline 05.09" in source.describe
    with rasterio.open(source.layers[0].tiles[0].part.source.bands[0].path) as dataset:
        stored = dataset.read(1)[24:216, 30:222]
    np.testing.assert_array_equal(source.read(WINDOW)[0], stored - 1000.0)
    with pytest.raises(RasterError, match=r"lacks T01KAB_20230821T221941_B01_60m.jp2"):
        products(("S2L2A", root))


def test_the_real_metadata_of_level_1c_names_jpeg_2000_without_an_offset(tmp_path: Path, data: Path) -> None:
    (real,) = (data / "safe_metadata" / "s2reader_l1c_compact").glob("*.SAFE")
    with pytest.raises(RasterError, match=r"T32TNM_20170226T102021_B01.jp2 is empty \(0 bytes\)"):
        products(("S2L1C", real))
    root = tmp_path / real.name
    folder = root / "GRANULE/L1C_T32TNM_A008785_20170226T102458/IMG_DATA"
    folder.mkdir(parents=True)
    shutil.copyfile(real / "MTD_MSIL1C.xml", root / "MTD_MSIL1C.xml")
    stored = np.random.default_rng(0).integers(1, 3000, (3, 42, 42)).astype("uint16")
    for band, values in zip(("B01", "B09", "B10"), stored, strict=True):
        with rasterio.open(
            folder / f"T32TNM_20170226T102021_{band}.jp2",
            "w",
            driver="JP2OpenJPEG",
            height=42,
            width=42,
            count=1,
            dtype="uint16",
            crs="EPSG:32632",
            transform=Affine(60, 0, 499_980, 0, -60, 5_200_020),
            QUALITY="100",
            REVERSIBLE="YES",
        ) as dataset:
            dataset.write(values, 1)
    found = products(("S2L1C_B01_B09_B10", root))
    window = GroundWindow(CRS.from_epsg(32632), 499_980 + 120, 5_200_020 - 60)
    np.testing.assert_array_equal(found.sources[0].read(window), stored[:, 1:33, 2:34])
    assert found.date == (2017, 2, 26)
    assert "offset 0 DN from the product's baseline 02.04" in found.sources[0].describe


def test_a_second_subtraction_is_refused_when_the_product_is_opened(write_raster: WriteRaster, tmp_path: Path) -> None:
    root = write_safe(write_raster, tmp_path, shift=-1950, offsets=dict.fromkeys(range(13), "-1000"))
    with pytest.raises(RasterError, match=r"has been subtracted before; use --s2-offset 0"):
        products(("S2L1C", root))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("S2L2A", r"is a product of S2L1C, not of S2L2A; give it as S2L1C="),
        ("S2L2A_B01_B09", r"is a product of S2L1C, not of S2L2A"),
        ("DEM", r"is a Sentinel-2 product; expected a raster of DEM"),
        ("cloud_mask", r"is a Sentinel-2 product; expected a raster of cloud_mask"),
    ],
)
def test_a_product_of_another_family_is_refused(
    write_raster: WriteRaster, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(RasterError, match=message):
        products((name, write_safe(write_raster, tmp_path)))


def refused(root: Path, message: str, name: str = "S2L1C") -> None:
    with pytest.raises(RasterError, match=message) as error:
        products((name, root))
    assert "\n" not in str(error.value)


def test_a_safe_without_sentinel_2_metadata_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "S1A_IW_GRDH_1SDV_20240419T045904_x.SAFE"
    root.mkdir()
    refused(root, r"has no MTD_MSIL1C.xml or MTD_MSIL2A.xml; .*S1RTC the GeoTIFFs", "S1RTC")
    (root / "manifest.safe").write_text("<x/>")
    refused(root / "manifest.safe", r"has no MTD_MSIL1C.xml")


@pytest.mark.parametrize("name", ["x.SAFE.zip", "x.zip", "x.tar.gz"])
def test_packed_products_are_refused_with_advice(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    refused(tmp_path / name, r"is packed; unpack it")


@pytest.mark.parametrize(
    "image", ["../../../etc/passwd_B01", "/etc/T18SVG_B01", "GRANULE/../../other/T18SVG_B01", "/vsicurl/http://x/y_B01"]
)
def test_an_image_outside_the_product_is_refused(write_raster: WriteRaster, tmp_path: Path, image: str) -> None:
    root = write_safe(write_raster, tmp_path)
    (root / XML["L1C"]).write_text(described("L1C", [image, *images("L1C").values()]))
    refused(root, r"which is outside S2A_MSIL1C")


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]><a>&c;</a>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_with_entities_is_refused_before_they_expand(tmp_path: Path, encoding: str) -> None:
    root = tmp_path / "x.SAFE"
    root.mkdir()
    (root / XML["L1C"]).write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>{BOMB}'.encode(encoding))
    refused(root, r"MTD_MSIL1C.xml is no XML \(it has a DOCTYPE")


@pytest.mark.parametrize("content", ["", "<a><b></a>", "\0\0", "no XML", '<?xml version="1.0" encoding="x-none"?><a/>'])
def test_what_is_no_xml_is_refused(tmp_path: Path, content: str) -> None:
    root = tmp_path / "x.SAFE"
    root.mkdir()
    (root / XML["L1C"]).write_text(content)
    refused(root, r"MTD_MSIL1C.xml is no XML")


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"offsets": {0: "-1000"}}, r"gives no offset for B02, B03"),
        ({"offsets": dict.fromkeys(range(13), "nan")}, r"has RADIO_ADD_OFFSET 'nan'; expected a number"),
        ({"offsets": dict.fromkeys(range(13), "x")}, r"has RADIO_ADD_OFFSET 'x'"),
        ({"quantification": "0"}, r"quantification value of 0"),
        ({"quantification": "1e999"}, r"QUANTIFICATION_VALUE '1e999'"),
        ({"baseline": "newest"}, r"has processing baseline 'newest'"),
    ],
)
def test_metadata_that_cannot_be_meant_are_refused(
    write_raster: WriteRaster, tmp_path: Path, about: dict[str, Any], message: str
) -> None:
    refused(write_safe(write_raster, tmp_path, **about), message)


def test_two_offsets_for_one_band_are_refused(write_raster: WriteRaster, tmp_path: Path) -> None:
    root = write_safe(write_raster, tmp_path, offsets=dict.fromkeys(range(13), "-1000"))
    xml = root / XML["L1C"]
    again = '<RADIO_ADD_OFFSET band_id="3">{}</RADIO_ADD_OFFSET></L>'
    plain = xml.read_text()
    xml.write_text(plain.replace("</L>", again.format("-1000.0")))
    assert products(("S2L1C", root)).sources
    xml.write_text(plain.replace("</L>", again.format("-500")))
    refused(root, r"gives B04 two offsets, -1000 and -500; download")


def test_bands_that_share_no_ground_are_refused(write_raster: WriteRaster, tmp_path: Path) -> None:
    root = write_safe(write_raster, tmp_path)
    with rasterio.open(root / f"{images('L1C')['B08']}.jp2", "r+") as dataset:
        dataset.crs = "EPSG:32617"
    refused(root, r"T18SVG_20230821T221941_B08.jp2 share no ground; expected bands of one place")


def test_missing_images_are_refused_by_name(write_raster: WriteRaster, tmp_path: Path) -> None:
    root = write_safe(write_raster, tmp_path)
    lost = root / f"{images('L1C')['B11']}.jp2"
    lost.unlink()
    refused(root, r"lacks T18SVG_20230821T221941_B11.jp2, which its XML lists")
    # A group that does not need it is unaffected.
    assert len(products(("S2L1C_B01_B09_B10", root)).sources) == 1
    lost.write_bytes(b"")
    refused(root, r"T18SVG_20230821T221941_B11.jp2 is empty")
    (root / XML["L1C"]).write_text(described("L1C", [image for band, image in images("L1C").items() if band != "B11"]))
    refused(root, r"lists no image of B11")
    (root / XML["L1C"]).write_text(described("L1C", []))
    refused(root, r"lists no image files; expected the compact format")


def test_an_image_that_is_cut_off_is_refused_by_name(write_raster: WriteRaster, tmp_path: Path) -> None:
    root = write_safe(write_raster, tmp_path)
    image = root / f"{images('L1C')['B11']}.jp2"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    # Why, in words: GDAL's own is that there was an error before.
    refused(root, r"T18SVG_20230821T221941_B11.jp2 cannot be read as a raster \(T18SVG_\S+, band 1: IReadBlock failed")
    image.write_bytes(whole[:300])
    refused(root, r"T18SVG_20230821T221941_B11.jp2 cannot be read as a raster")


def test_adjacent_granules_of_one_date_are_one_mosaic(write_raster: WriteRaster, tmp_path: Path) -> None:
    west = write_safe(write_raster, tmp_path, offsets=dict.fromkeys(range(13), "-1000"))
    east = write_safe(write_raster, tmp_path, title="S2A_MSIL1C_20230821T221941_N0204_R029_T18SWG_x.SAFE", shift=500)
    for path in east.rglob("*.jp2"):
        with rasterio.open(path, "r+") as dataset:
            # 1500 m of the window are in the west granule, of which 300 m are in this one too.
            dataset.transform = Affine.translation(2220, 0) @ dataset.transform
    text = (east / XML["L1C"]).read_text()
    (east / XML["L1C"]).write_text(text.replace("05.09", "02.04"))
    found = products(("S2L1C", west), ("S2L1C", east))
    window = GroundWindow(WINDOW.crs, LEFT + 1020, TOP - 240)
    (source,) = (source for source in found.sources if source.key == "S2L1C_B02_B03_B04_B08")
    read = source.read(window)[0, 0]
    columns = np.arange(192)
    first, second = 1300.0 + 102 + columns, 2800.0 + columns - 120
    np.testing.assert_array_equal(read, np.where(columns < 150, first, second))
    assert any("a mosaic of" in note and "the first given counts" in note for note in found.notes)
    other_way = products(("S2L1C_B02_B03_B04_B08", east), ("S2L1C_B02_B03_B04_B08", west)).sources[0].read(window)
    np.testing.assert_array_equal(other_way[0, 0], np.where(columns < 120, first, second))
    (east / XML["L1C"]).write_text((east / XML["L1C"]).read_text().replace("2023-08-21", "2023-08-26"))
    with pytest.raises(RequestError, match=r"S2L1C is given of several dates: 2023-08-21 .*2023-08-26"):
        products(("S2L1C", west), ("S2L1C", east))


def test_the_bands_of_a_product_are_not_the_users_to_order(write_raster: WriteRaster, tmp_path: Path) -> None:
    root = write_safe(write_raster, tmp_path)
    with pytest.raises(RequestError, match=r"--bands S2L1C orders the bands of a raster"):
        products(("S2L1C", root), bands={"S2L1C": ORDER})


def test_the_folder_around_a_product_is_refused_with_its_name(write_raster: WriteRaster, tmp_path: Path) -> None:
    root = write_safe(write_raster, tmp_path)
    refused(root.parent, rf"holds a SAFE product; give it itself: {root}")
