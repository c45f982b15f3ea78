from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from copgen_edge.runtime.errors import CopgenError, NonFiniteError, RequestError
from copgen_edge.runtime.modalities import BY_KEY, IMAGE_KEYS, KEYS, Modality
from copgen_edge.runtime.raster.palette import CLASS_COLOURS
from copgen_edge.runtime.raster.window import GroundWindow
from copgen_edge.runtime.raster.write import estimate_bytes, mode_and_agreement, write_modality
from rasterio.coords import BoundingBox
from rasterio.crs import CRS
from rasterio.enums import Compression

WINDOW = GroundWindow(CRS.from_epsg(32632), 675_840.0, 5_274_060.0)
TAGS = {"MODEL": "tiny", "SEED": "7", "SOLVER": "dpm-solver-3"}
CONTINUOUS = [key for key in IMAGE_KEYS if not BY_KEY[key].is_codes]
CODES = [key for key in IMAGE_KEYS if BY_KEY[key].is_codes]


def draw(modality: Modality, samples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (samples, len(modality.bands), modality.size, modality.size)
    if modality.is_codes:
        return rng.choice(list(modality.codes), shape)
    low, high = {"reflectance": (1.0, 9000.0), "backscatter": (1e-4, 2.0), "elevation": (0.0, 4000.0)}[modality.kind]
    return rng.uniform(low, high, shape).astype(np.float32)


def names(records: list[dict[str, str | int | None]]) -> list[str | int | None]:
    return [record["file"] for record in records]


@pytest.mark.parametrize("key", IMAGE_KEYS)
def test_every_file_lies_exactly_on_the_window(tmp_path: Path, key: str) -> None:
    modality = BY_KEY[key]
    records = write_modality(tmp_path, key, draw(modality, 2), WINDOW, tags=TAGS)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(map(str, names(records)))
    for record in records:
        with rasterio.open(tmp_path / str(record["file"])) as dataset:
            step = modality.resolution
            assert dataset.driver == "GTiff"
            assert dataset.transform == Affine(step, 0.0, 675_840.0, 0.0, -step, 5_274_060.0)
            assert dataset.crs == CRS.from_epsg(32632)
            assert dataset.bounds == BoundingBox(675_840.0, 5_272_140.0, 677_760.0, 5_274_060.0)
            assert dataset.shape == (modality.size, modality.size)
            assert dataset.compression is Compression.deflate
            assert dataset.profile["tiled"]
            for block in dataset.block_shapes:
                assert all(side % 16 == 0 and side <= modality.size for side in block)
            tags = dataset.tags()
            assert tags["AREA_OR_POINT"] == "Area"
            assert {name: tags[name] for name in TAGS} == TAGS
            assert tags["MODALITY"] == key


@pytest.mark.parametrize("key", CONTINUOUS)
def test_continuous_samples_and_statistics_carry_their_metadata(tmp_path: Path, key: str) -> None:
    modality = BY_KEY[key]
    sentinel2 = modality.kind == "reflectance"
    records = write_modality(tmp_path, key, draw(modality, 2), WINDOW, tags=TAGS)
    assert [record["kind"] for record in records] == ["sample", "sample", "mean", "std"]
    for record in records:
        with rasterio.open(tmp_path / str(record["file"])) as dataset:
            integers = sentinel2 and record["kind"] == "sample"
            assert set(dataset.dtypes) == {"uint16" if integers else "float32"}
            assert dataset.nodata == 0 if integers else np.isnan(dataset.nodata)
            assert dataset.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == ("2" if integers else "3")
            assert dataset.descriptions == modality.bands
            assert set(dataset.scales) == {0.0001 if sentinel2 else 1.0}
            assert set(dataset.offsets) == {0.0}
            unit = {"reflectance": "reflectance", "backscatter": "linear power", "elevation": "m"}[modality.kind]
            assert set(dataset.units) == {unit}


@pytest.mark.parametrize(("key", "nodata"), [("LULC_LULC", 0), ("S2L1C_cloud_mask", 255)])
def test_codes_carry_colours_and_class_names(tmp_path: Path, key: str, nodata: int) -> None:
    modality = BY_KEY[key]
    records = write_modality(tmp_path, key, draw(modality, 3), WINDOW, tags={})
    assert [record["kind"] for record in records] == ["sample"] * 3 + ["mode", "agreement"]
    for record in records[:-1]:
        with rasterio.open(tmp_path / str(record["file"])) as dataset:
            assert dataset.dtypes == ("uint8",)
            assert dataset.nodata == nodata
            table = dataset.colormap(1)
            assert {code: table[code][:3] for code in modality.codes} == CLASS_COLOURS[key]
            assert {f"CLASS_{code}": name for code, name in modality.codes.items()} == dataset.tags(1)
            assert (dataset.descriptions, dataset.units) == (modality.bands, ("class",))
    with rasterio.open(tmp_path / f"{key}.agreement.tif") as dataset:
        assert (dataset.dtypes, dataset.descriptions, dataset.units) == (("float32",), ("agreement",), ("1",))
        assert np.isnan(dataset.nodata)


def test_land_cover_has_the_colours_of_esri(tmp_path: Path) -> None:
    write_modality(tmp_path, "LULC_LULC", draw(BY_KEY["LULC_LULC"], 1), WINDOW, tags={})
    with rasterio.open(tmp_path / "LULC_LULC.sample-0.tif") as dataset:
        table = dataset.colormap(1)
    assert (table[1][:3], table[7][:3], table[11][:3]) == ((26, 91, 171), (237, 2, 42), (198, 173, 141))


@pytest.mark.parametrize("key", ["DEM_DEM", "S1RTC_vh_vv", *CODES])
def test_values_come_back_unchanged(tmp_path: Path, key: str) -> None:
    samples = draw(BY_KEY[key], 2)
    for record in write_modality(tmp_path, key, samples, WINDOW, tags={})[:2]:
        with rasterio.open(tmp_path / str(record["file"])) as dataset:
            np.testing.assert_array_equal(dataset.read(), samples[record["sample"]])


def test_sentinel2_is_rounded_and_leaves_0_to_nodata(tmp_path: Path) -> None:
    samples = np.full((1, 2, 32, 32), 1234.4)
    samples[0, 0, 0, :6] = [-35.0, 0.0, 0.2, 1234.6, 65535.4, 80_000.0]
    write_modality(tmp_path, "S2L2A_B01_B09", samples, WINDOW, tags={})
    with rasterio.open(tmp_path / "S2L2A_B01_B09.sample-0.tif") as dataset:
        pixels = dataset.read()
        assert dataset.read_masks().all()
    assert pixels[0, 0, :7].tolist() == [1, 1, 1, 1235, 65535, 65535, 1234]
    assert (pixels[1] == 1234).all()


def test_mean_and_std_are_those_of_the_sample_files(tmp_path: Path) -> None:
    samples = np.zeros((3, 2, 32, 32))
    samples[:, 0] = np.array([100.0, 200.0, 600.4]).reshape(3, 1, 1)
    samples[:, 1] = 500.0
    write_modality(tmp_path, "S2L2A_B01_B09", samples, WINDOW, tags={})
    with (
        rasterio.open(tmp_path / "S2L2A_B01_B09.mean.tif") as mean,
        rasterio.open(tmp_path / "S2L2A_B01_B09.std.tif") as std,
    ):
        # 100, 200, 600: mean 300, squared distances 40,000, 10,000 and 90,000, divided by 3.
        assert (mean.read(1) == 300.0).all()
        assert (std.read(1) == np.float32(np.sqrt(140_000.0 / 3.0))).all()
        assert (mean.read(2) == 500.0).all()
        assert (std.read(2) == 0.0).all()
        assert "ddof 0" in std.tags()["STATISTIC"]


def test_mode_takes_the_lowest_of_equals_and_agreement_is_its_share(tmp_path: Path) -> None:
    samples = np.full((4, 1, 192, 192), 11)
    samples[:, 0, 0, 0] = [7, 2, 7, 2]
    samples[:, 0, 0, 1] = [5, 5, 5, 1]
    samples[:, 0, 0, 2] = [9, 8, 5, 4]
    write_modality(tmp_path, "LULC_LULC", samples, WINDOW, tags={})
    with (
        rasterio.open(tmp_path / "LULC_LULC.mode.tif") as mode,
        rasterio.open(tmp_path / "LULC_LULC.agreement.tif") as agreement,
    ):
        assert mode.read(1)[0, :4].tolist() == [2, 5, 4, 11]
        assert agreement.read(1)[0, :4].tolist() == [0.5, 0.75, 0.25, 1.0]


def test_mode_agrees_with_counting_each_pixel() -> None:
    samples = np.random.default_rng(3).choice([0, 1, 2, 3], (9, 40))
    mode, agreement = mode_and_agreement(samples, [0, 1, 2, 3])
    for column in range(40):
        counts = np.bincount(samples[:, column], minlength=4)
        assert mode[column] == counts.argmax()
        assert agreement[column] == np.float32(counts.max() / 9)


def test_one_sample_has_no_statistics(tmp_path: Path) -> None:
    records = write_modality(tmp_path, "DEM_DEM", draw(BY_KEY["DEM_DEM"], 1), WINDOW, tags={})
    assert records == [{"file": "DEM_DEM.sample-0.tif", "modality": "DEM_DEM", "kind": "sample", "sample": 0}]


def test_sample_numbers_are_padded_so_that_names_sort(tmp_path: Path) -> None:
    samples = np.arange(11.0).reshape(11, 1, 1, 1) * np.ones((1, 1, 64, 64))
    records = write_modality(tmp_path, "DEM_DEM", samples, WINDOW, tags={})
    assert names(records)[:2] == ["DEM_DEM.sample-00.tif", "DEM_DEM.sample-01.tif"]
    assert names(records)[10:] == ["DEM_DEM.sample-10.tif", "DEM_DEM.mean.tif", "DEM_DEM.std.tif"]
    assert [record["sample"] for record in records] == [*range(11), None, None]
    with rasterio.open(tmp_path / "DEM_DEM.sample-07.tif") as dataset:
        assert (dataset.read() == 7.0).all()


def test_ten_samples_need_one_digit(tmp_path: Path) -> None:
    samples = np.ones((10, 2, 32, 32))
    assert names(write_modality(tmp_path, "S2L2A_B01_B09", samples, WINDOW, tags={}))[9] == "S2L2A_B01_B09.sample-9.tif"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", ["DEM_DEM", "S2L2A_B02_B03_B04_B08", "LULC_LULC"])
def test_non_finite_values_write_nothing(tmp_path: Path, key: str, bad: float) -> None:
    samples = draw(BY_KEY[key], 2).astype(np.float32)
    samples[1, 0, 5, 5] = bad
    with pytest.raises(NonFiniteError, match=rf"^1 of .*{key}"):
        write_modality(tmp_path, key, samples, WINDOW, tags={})
    assert list(tmp_path.iterdir()) == []


def test_unknown_codes_are_refused(tmp_path: Path) -> None:
    samples = draw(BY_KEY["LULC_LULC"], 1)
    samples[0, 0, 0, 0] = 3
    with pytest.raises(RequestError, match="code 3"):
        write_modality(tmp_path, "LULC_LULC", samples, WINDOW, tags={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(64, 64), (1, 64, 64), (1, 2, 64, 64), (1, 1, 64, 60), (0, 1, 64, 64)])
def test_a_shape_that_does_not_fill_the_window_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match="shape"):
        write_modality(tmp_path, "DEM_DEM", np.ones(shape), WINDOW, tags={})


def test_place_has_no_raster(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no pixels"):
        write_modality(tmp_path, "3d_cartesian_lat_lon", np.zeros((1, 2)), WINDOW, tags={})


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CopgenError, match=r"cannot write .*absent"):
        write_modality(tmp_path / "absent", "DEM_DEM", np.ones((1, 1, 64, 64)), WINDOW, tags={})


@pytest.mark.parametrize("samples", [1, 3])
def test_the_estimate_bounds_what_is_written_even_for_noise(tmp_path: Path, samples: int) -> None:
    for key in IMAGE_KEYS:
        modality = BY_KEY[key]
        records = write_modality(tmp_path, key, draw(modality, samples), WINDOW, tags=TAGS)
        written = sum((tmp_path / str(name)).stat().st_size for name in names(records))
        assert written <= estimate_bytes([key], samples) <= 4 * written + 80_000 * (samples + 2)
    assert estimate_bytes(KEYS, samples) == sum(estimate_bytes([key], samples) for key in IMAGE_KEYS)


def test_the_estimate_counts_pixels() -> None:
    # Two float32 samples, a mean and a standard deviation of 64 x 64 pixels, and a margin for each of the 4 files.
    pixels = 4 * 64 * 64 * 4
    assert pixels < estimate_bytes(["DEM_DEM"], 2) < pixels + 4 * 20_000
    assert estimate_bytes(["mean_timestamps"], 5) == 0
    with pytest.raises(RequestError, match="unknown modality"):
        estimate_bytes(["S3"], 1)
