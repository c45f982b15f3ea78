import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from copgen_edge.runtime.errors import CopgenError, RasterError, RequestError
from copgen_edge.runtime.modalities import BY_KEY, IMAGE_KEYS
from copgen_edge.runtime.raster.palette import CLASS_COLOURS
from copgen_edge.runtime.scene import statistics
from copgen_edge.runtime.scene.cog import to_cog
from copgen_edge.runtime.scene.grid import SceneGrid
from copgen_edge.runtime.scene.rasters import StripWriter
from copgen_edge.runtime.scene.statistics import entropy, quantiles, write_statistics
from numpy.typing import NDArray
from rasterio.crs import CRS

from .disk import disk_of, names

GRID = SceneGrid(CRS.from_epsg(32632), 675_840.0, 5_274_060.0, 3_000, 3_180)
OPTICAL = "S2L2A_B02_B03_B04_B08"


def write_samples(folder: Path, key: str, total: int, grid: SceneGrid = GRID) -> tuple[list[Path], NDArray[Any]]:
    modality = BY_KEY[key]
    rng = np.random.default_rng(5)
    shape = (len(modality.bands), *grid.shape(modality.resolution))
    paths, stored = [], []
    for s in range(total):
        pixels = rng.choice(list(modality.codes), shape) if modality.is_codes else rng.uniform(1, 4000, shape)
        paths.append(folder / f"{key}.sample-{s}.tif")
        with StripWriter(paths[-1], key, grid, {}) as strips:
            strips.write(0, pixels.astype(np.float32))
        with rasterio.open(paths[-1]) as dataset:
            stored.append(dataset.read())
    return paths, np.stack(stored)


def read(folder: Path, key: str, kind: str) -> NDArray[Any]:
    with rasterio.open(folder / f"{key}.{kind}.tif") as dataset:
        return dataset.read()


@pytest.mark.parametrize("total", [1, 4])
@pytest.mark.parametrize(
    "key", [key for key in IMAGE_KEYS if not BY_KEY[key].is_codes and BY_KEY[key].family != "S2L1C"]
)
def test_amounts_equal_numpy_on_the_whole_arrays(tmp_path: Path, key: str, total: int) -> None:
    paths, stored = write_samples(tmp_path, key, total)
    entries = write_statistics(tmp_path, key, paths, GRID, {"SEED": "7"})
    assert entries == [
        {"file": f"{key}.{kind}.tif", "modality": key, "kind": kind, "sample": None}
        for kind in ("mean", "std", "quantiles")
    ]
    exact = stored.astype(np.float64)
    np.testing.assert_array_equal(read(tmp_path, key, "mean"), exact.mean(axis=0).astype(np.float32))
    np.testing.assert_array_equal(read(tmp_path, key, "std"), exact.std(axis=0).astype(np.float32))
    integers = BY_KEY[key].kind == "reflectance"
    by_band = np.quantile(exact, (0.05, 0.5, 0.95), axis=0).swapaxes(0, 1).reshape(-1, *stored.shape[2:])
    expected = np.rint(by_band) if integers else by_band
    np.testing.assert_allclose(read(tmp_path, key, "quantiles"), expected, rtol=1e-6)
    for kind in ("mean", "std", "quantiles"):
        with rasterio.open(tmp_path / f"{key}.{kind}.tif") as dataset, rasterio.open(paths[0]) as sample:
            assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert (dataset.transform, dataset.crs) == (sample.transform, sample.crs)
            assert set(dataset.units) == set(sample.units)
            assert set(dataset.scales) == set(sample.scales)
            stored_as = "uint16" if integers and kind == "quantiles" else "float32"
            assert set(dataset.dtypes) == {stored_as}
            assert dataset.nodata == 0 if stored_as == "uint16" else np.isnan(dataset.nodata)
            tags = dataset.tags()
            assert (tags["MODALITY"], tags["SEED"]) == (key, "7")
            assert f"of {total} sample" in tags["STATISTIC"]
            bands = BY_KEY[key].bands
            named = tuple(f"{band} {name}" for band in bands for name in ("p05", "p50", "p95"))
            assert dataset.descriptions == (named if kind == "quantiles" else bands)


@pytest.mark.parametrize("total", [1, 5])
@pytest.mark.parametrize("key", ["LULC_LULC", "S2L1C_cloud_mask"])
def test_codes_equal_counts_on_the_whole_arrays(tmp_path: Path, key: str, total: int) -> None:
    paths, stored = write_samples(tmp_path, key, total)
    entries = write_statistics(tmp_path, key, paths, GRID, {})
    assert [entry["kind"] for entry in entries] == ["mode", "probability", "entropy"]
    codes = np.array(sorted(BY_KEY[key].codes))
    shares = np.stack([(stored[:, 0] == code).mean(axis=0) for code in codes])
    np.testing.assert_array_equal(read(tmp_path, key, "mode")[0], codes[shares.argmax(axis=0)])
    np.testing.assert_array_equal(read(tmp_path, key, "probability"), shares.astype(np.float32))
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = -np.nansum(shares * np.log2(shares), axis=0)
    np.testing.assert_allclose(read(tmp_path, key, "entropy")[0], bits, atol=1e-6)
    assert not np.signbit(read(tmp_path, key, "entropy")).any()
    with rasterio.open(tmp_path / f"{key}.mode.tif") as dataset:
        assert (dataset.dtypes, dataset.units) == (("uint8",), ("class",))
        assert {code: dataset.colormap(1)[code][:3] for code in codes} == CLASS_COLOURS[key]
    with rasterio.open(tmp_path / f"{key}.probability.tif") as dataset:
        assert dataset.descriptions == tuple(BY_KEY[key].codes[code] for code in codes)
        assert (set(dataset.dtypes), set(dataset.units)) == ({"float32"}, {"1"})
    with rasterio.open(tmp_path / f"{key}.entropy.tif") as dataset:
        assert (dataset.descriptions, dataset.units) == (("entropy",), ("bit",))


@pytest.mark.parametrize("total", [1, 2, 3, 8, 21])
def test_quantiles_are_those_of_numpy(total: int) -> None:
    values = np.random.default_rng(total).normal(0, 1e4, (total, 7, 9))
    np.testing.assert_allclose(quantiles(values), np.quantile(values, (0.05, 0.5, 0.95), axis=0), rtol=1e-12)


def test_entropy_counts_bits() -> None:
    np.testing.assert_allclose(entropy(np.array([[1.0, 0.5, 0.25], [0.0, 0.5, 0.75]])), [0.0, 1.0, 0.811278], atol=1e-6)


def test_many_samples_are_read_in_parts_with_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, stored = write_samples(tmp_path, "DEM_DEM", 5)
    monkeypatch.setattr(statistics, "_TOGETHER", 2)
    write_statistics(tmp_path, "DEM_DEM", paths, GRID, {})
    np.testing.assert_array_equal(read(tmp_path, "DEM_DEM", "mean"), stored.mean(axis=0, dtype="f8").astype("f4"))


def test_memory_does_not_grow_with_the_scene(tmp_path: Path) -> None:
    peaks = []
    for name, cells in (("small", 6), ("large", 24)):
        folder = tmp_path / name
        folder.mkdir()
        grid = SceneGrid(GRID.crs, GRID.left, GRID.top, 3000, 480 * cells)
        paths, _ = write_samples(folder, OPTICAL, 3, grid)
        tracemalloc.start()
        write_statistics(folder, OPTICAL, paths, grid, {})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_progress_counts_blocks(tmp_path: Path) -> None:
    paths, _ = write_samples(tmp_path, OPTICAL, 1)
    told: list[tuple[str, int, int]] = []
    write_statistics(tmp_path, OPTICAL, paths, GRID, {}, lambda *step: told.append(step))
    assert told == [("statistics", done, 4) for done in range(1, 5)]


def test_a_sample_of_another_scene_is_refused(tmp_path: Path) -> None:
    paths, _ = write_samples(tmp_path, "DEM_DEM", 1)
    elsewhere = SceneGrid(GRID.crs, GRID.left + 60, GRID.top, GRID.width, GRID.height)
    with pytest.raises(RasterError, match=r"expected .* at 675900,5274060"):
        write_statistics(tmp_path, "DEM_DEM", paths, elsewhere, {})
    assert names(tmp_path) == [paths[0].name]


def test_no_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="found 0 samples"):
        write_statistics(tmp_path, "DEM_DEM", [], GRID, {})


@pytest.mark.parametrize("share", [0.0001, 0.6])
def test_a_damaged_sample_is_named(tmp_path: Path, share: float) -> None:
    paths, _ = write_samples(tmp_path, OPTICAL, 2)
    # A COG has its directory first, so that it opens although its end is gone.
    to_cog(paths[1], tmp_path / "cog.tif")
    data = (tmp_path / "cog.tif").read_bytes()
    (tmp_path / "cog.tif").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(RasterError, match=r"cannot read .*cog\.tif") as error:
        write_statistics(tmp_path, OPTICAL, [paths[0], tmp_path / "cog.tif"], GRID, {})
    assert "\n" not in str(error.value)
    assert names(tmp_path) == [*(path.name for path in paths), "cog.tif"]


def test_a_full_disk_leaves_only_the_samples(tmp_path: Path) -> None:
    paths, _ = write_samples(tmp_path, OPTICAL, 2)
    with pytest.raises(CopgenError, match="cannot write"), disk_of(600_000):
        write_statistics(tmp_path, OPTICAL, paths, GRID, {})
    assert names(tmp_path) == [path.name for path in paths]


def test_what_a_killed_run_left_is_no_hindrance(tmp_path: Path) -> None:
    paths, _ = write_samples(tmp_path, "DEM_DEM", 1)
    (tmp_path / ".DEM_DEM.statistics").mkdir()
    (tmp_path / ".DEM_DEM.statistics/mean.tif").write_bytes(b"II*")
    write_statistics(tmp_path, "DEM_DEM", paths, GRID, {})
    assert not (tmp_path / ".DEM_DEM.statistics").exists()
