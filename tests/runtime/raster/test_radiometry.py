from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from copgen_edge.runtime.errors import RasterError, RequestError
from copgen_edge.runtime.modalities import get
from copgen_edge.runtime.raster.radiometry import (
    S2Offset,
    Scaling,
    refuse_implausible,
    s2_scaling,
    to_codes,
    to_dn,
    to_power,
)
from copgen_edge.runtime.raster.read import Block, read_blocks
from copgen_edge.runtime.raster.sources import Source, find_sources
from copgen_edge.runtime.raster.window import GroundWindow
from numpy.typing import NDArray
from rasterio.crs import CRS

WriteRaster = Callable[..., Path]

WINDOW = GroundWindow(CRS.from_epsg(32618), 436_920.0 + 300, 4_175_880.0 - 240)
ESRI = get("LULC_LULC")


def source_of(key: str, path: Path) -> Source:
    (source,), _ = find_sources([(key, str(path))], {key: get(key).bands})
    return source


def blocks(key: str, path: Path) -> tuple[Block, ...]:
    return read_blocks(source_of(key, path), get(key), WINDOW)


def scaling(path: Path, choice: S2Offset = "auto") -> tuple[Scaling, ...]:
    return s2_scaling(source_of("S2L2A_B01_B09", path), choice)


@pytest.mark.parametrize(
    ("tags", "offset"),
    [
        ({}, 0.0),
        ({"BOA_ADD_OFFSET": "-1000"}, -1000.0),
        ({"RADIO_ADD_OFFSET": "0"}, 0.0),
        ({"BOA_ADD_OFFSET_B1": "-1000", "boa_add_offset_b9": "-1000"}, -1000.0),
        ({"PROCESSING_BASELINE": "05.09"}, -1000.0),
        ({"PROCESSING_BASELINE": "04.00"}, -1000.0),
        ({"PROCESSING_BASELINE": "03.01"}, 0.0),
        ({"s2:processing_baseline": "N0511"}, -1000.0),
        ({"BOA_ADD_OFFSET": "0", "PROCESSING_BASELINE": "05.09"}, 0.0),
        ({"PROCESSING_BASELINE": "unknown"}, 0.0),
    ],
)
def test_the_offset_is_read_from_the_tags(write_raster: WriteRaster, tags: dict[str, str], offset: float) -> None:
    path = write_raster("s2.tif", resolution=60, size=42, count=2, tags=tags)
    found = scaling(path)
    assert [s.offset for s in found] == [offset, offset]
    assert bool(found[0].origin) == bool(tags and tags.get("PROCESSING_BASELINE") != "unknown")


def test_tags_of_a_band_and_of_other_namespaces_count(write_raster: WriteRaster) -> None:
    by_band = write_raster("a.tif", resolution=60, size=42, count=2)
    with rasterio.open(by_band, "r+") as dataset:
        dataset.update_tags(2, BOA_ADD_OFFSET="-1000")
    assert [s.offset for s in scaling(by_band)] == [0.0, -1000.0]
    by_namespace = write_raster("b.tif", resolution=60, size=42, count=2)
    with rasterio.open(by_namespace, "r+") as dataset:
        dataset.update_tags(ns="SENTINEL", PROCESSING_BASELINE="05.00")
    assert [s.offset for s in scaling(by_namespace)] == [-1000.0, -1000.0]


def test_tags_that_disagree_are_refused(write_raster: WriteRaster) -> None:
    path = write_raster("s2.tif", count=2, tags={"BOA_ADD_OFFSET_B1": "0", "BOA_ADD_OFFSET_B9": "-1000"})
    with pytest.raises(RasterError, match=r"several offsets \(-1000, 0\); say which with --s2-offset"):
        scaling(path)


@pytest.mark.parametrize(
    ("scale_offset", "gain", "offset"),
    [
        ((0.0001, -0.1), 1.0, -1000.0),
        ((0.0001, 0.0), 1.0, 0.0),
        ((1.0, -1000.0), 1.0, -1000.0),
        ((0.001, 0.0), 10.0, 0.0),
    ],
)
def test_scale_and_offset_of_the_file_come_first(
    write_raster: WriteRaster, scale_offset: tuple[float, float], gain: float, offset: float
) -> None:
    path = write_raster("s2.tif", count=2, scale_offset=scale_offset, tags={"PROCESSING_BASELINE": "02.04"})
    assert [(s.gain, s.offset) for s in scaling(path)] == [(gain, offset)] * 2


def test_a_scale_without_an_offset_does_not_hide_the_tags(write_raster: WriteRaster) -> None:
    path = write_raster("s2.tif", count=2, scale_offset=(0.0001, 0.0), tags={"BOA_ADD_OFFSET": "-1000"})
    assert [(s.gain, s.offset) for s in scaling(path)] == [(1.0, -1000.0)] * 2


def test_the_users_offset_wins_but_the_gain_stays_the_files(write_raster: WriteRaster) -> None:
    path = write_raster("s2.tif", count=2, scale_offset=(0.001, -0.1))
    assert [(s.gain, s.offset) for s in scaling(path, 0)] == [(10.0, 0.0)] * 2
    assert [(s.gain, s.offset) for s in scaling(path, -1000)] == [(10.0, -1000.0)] * 2


def stack(*levels: float) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return np.stack([level + rng.uniform(0, 50, (32, 32)) for level in levels]).astype(np.float32)


def test_gain_and_offset_make_dn_and_nodata_stays() -> None:
    values = stack(1500, 2500)
    values[:, 3, 4] = np.nan
    dn = to_dn(values, [Scaling(2.0, -1000.0, "x"), Scaling()], [np.dtype("uint16")], "S2")
    np.testing.assert_allclose(dn, np.stack([values[0] * 2 - 1000, values[1]]))
    assert np.isnan(dn[:, 3, 4]).all()


@pytest.mark.parametrize("darkest", [520.0, 900.0, 1000.0])
def test_an_offset_is_subtracted_from_a_product_that_carries_it(darkest: float) -> None:
    values = stack(darkest, 3000)
    np.testing.assert_allclose(
        to_dn(values, [Scaling(1.0, -1000.0, "x")] * 2, [np.dtype("uint16")], "S2"), values - 1000
    )


@pytest.mark.parametrize("darkest", [1.0, 200.0, 440.0])
def test_a_second_subtraction_is_refused(darkest: float) -> None:
    with pytest.raises(RasterError, match=r"subtracted before; use --s2-offset 0"):
        to_dn(stack(3000, darkest), [Scaling(1.0, -1000.0, "x")] * 2, [np.dtype("uint16")], "S2")


def test_a_few_dark_pixels_do_not_look_like_a_second_subtraction() -> None:
    values = stack(1100, 3000)
    values[0, 0, :10] = 1.0  # fewer than one in a hundred
    to_dn(values, [Scaling(1.0, -1000.0, "x")] * 2, [np.dtype("uint16")], "S2")


def test_reflectance_is_refused_unless_the_file_says_how_to_read_it() -> None:
    values = stack(1000, 12000) / np.float32(10000)
    with pytest.raises(RasterError, match=r"look like reflectance; expected DN"):
        to_dn(values, [Scaling()] * 2, [np.dtype("float32")], "S2")
    dn = to_dn(values, [Scaling(10000.0)] * 2, [np.dtype("float32")], "S2")
    np.testing.assert_allclose(dn, values * 10000)


@pytest.mark.parametrize("choice", ["auto", "db"])
def test_db_becomes_power(write_raster: WriteRaster, choice: str) -> None:
    db = np.random.default_rng(0).uniform(-30, 5, (2, 252, 252))
    made, note = to_power(blocks("S1RTC_vh_vv", write_raster("s1.tif", db)), choice, "S1")  # type: ignore[arg-type]
    np.testing.assert_allclose(made[0].values, 10 ** (db[0, 24:216, 30:222] / 10), rtol=1e-5)
    assert "dB" in note


def test_power_with_a_little_noise_below_zero_stays_power(write_raster: WriteRaster) -> None:
    power = np.random.default_rng(0).uniform(-0.01, 0.3, (2, 252, 252))
    made, note = to_power(blocks("S1RTC_vh_vv", write_raster("s1.tif", power)), "auto", "S1")
    np.testing.assert_allclose(made[1].values, power[1, 24:216, 30:222].astype(np.float32))
    assert "look like linear power" in note
    assert "--s1-scale" in note


def test_db_is_averaged_as_power(write_raster: WriteRaster) -> None:
    # Two columns of 5 m pixels for one of 10 m: the mean of 0 dB and -20 dB is 0.505, not -10 dB.
    db = np.zeros((2, 504, 504))
    db[:, :, 1::2] = -20
    made, _ = to_power(blocks("S1RTC_vh_vv", write_raster("s1.tif", db, resolution=5)), "auto", "S1")
    np.testing.assert_allclose(made[0].on_window(), (1 + 0.01) / 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "key", "odd"),
    [("elevation", "DEM_DEM", -9999.0), ("elevation", "DEM_DEM", 32767.0), ("db", "S1RTC_vh_vv", -9999.0)],
)
def test_a_nodata_value_that_nobody_declared_is_refused(
    write_raster: WriteRaster, kind: str, key: str, odd: float
) -> None:
    values = np.full((2 if kind == "db" else 1, 252, 252), -10.0)
    outside = values.copy()
    outside[:, 23, 29] = odd  # the pixel before the window's first
    refuse_implausible(blocks(key, write_raster("far.tif", outside))[0], kind)
    values[:, 100, 100] = odd
    with pytest.raises(RasterError, match=rf"holds {odd:g} in band .* declare it as nodata"):
        refuse_implausible(blocks(key, write_raster("near.tif", values))[0], kind)


def test_db_read_as_power_is_refused(write_raster: WriteRaster) -> None:
    path = write_raster("s1.tif", np.full((2, 252, 252), -12.0))
    with pytest.raises(RasterError, match=r"give --s1-scale db if this is dB"):
        to_power(blocks("S1RTC_vh_vv", path), "linear", "S1")


def test_a_map_of_codes_is_applied_at_once_and_leaves_the_others() -> None:
    mapping = {3: 4, 4: 5, 5: 7, 6: 8, 7: 9, 8: 10, 9: 11}
    codes = np.arange(10, dtype=np.float32).reshape(2, 5)
    np.testing.assert_array_equal(to_codes(codes, mapping, ESRI, "LULC"), [[0, 1, 2, 4, 5], [7, 8, 9, 10, 11]])
    np.testing.assert_array_equal(codes.ravel(), np.arange(10))


def test_nan_is_no_unknown_code() -> None:
    codes = np.array([[1, np.nan]], dtype=np.float32)
    np.testing.assert_array_equal(to_codes(codes, None, ESRI, "LULC"), codes)


@pytest.mark.parametrize(
    ("key", "codes", "message"),
    [
        ("LULC_LULC", [1, 3, 6, 11], r"unknown codes 3, 6; expected 0 no data, 1 water, .*--lulc-map OLD:NEW"),
        ("LULC_LULC", [1, 2.5], r"unknown codes 2.5"),
        ("S2L1C_cloud_mask", [0, 255], r"unknown codes 255; expected 0 clear, .*recode the file, or declare nodata"),
    ],
)
def test_unknown_codes_are_refused(key: str, codes: list[float], message: str) -> None:
    with pytest.raises(RasterError, match=message):
        to_codes(np.array([codes], dtype=np.float32), None, get(key), "x")


def test_a_map_to_what_is_no_class_is_refused() -> None:
    with pytest.raises(RequestError, match=r"--lulc-map 1:3: 3 is no class"):
        to_codes(np.zeros((2, 2), dtype=np.float32), {1: 3}, ESRI, "LULC")


def test_pictures_of_8_bits_are_refused_unless_they_declare_a_scale() -> None:
    values = np.full((2, 8, 8), 120, dtype=np.float32)
    with pytest.raises(RasterError, match="8-bit values"):
        to_dn(values, [Scaling()] * 2, [np.dtype("uint8")], "S2")
    assert to_dn(values, [Scaling(40.0)] * 2, [np.dtype("uint8")], "S2").max() == 4800


def test_uncalibrated_radar_is_refused_unless_it_is_said_to_be_power(write_raster: WriteRaster) -> None:
    path = write_raster("s1.tif", np.full((2, 252, 252), 183), dtype="uint16", descriptions=["VV", "VH"])
    with pytest.raises(RasterError, match=r"median of 183.*--s1-scale linear"):
        to_power(blocks("S1RTC_vh_vv", path), "auto", "S1")
    made, _ = to_power(blocks("S1RTC_vh_vv", path), "linear", "S1")
    assert made[0].values.max() == 183
