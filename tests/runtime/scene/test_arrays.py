"""``Pipeline.generate_scene``: arrays with a transform and a CRS in and out."""

import numpy as np
import pytest
from affine import Affine
from copgen_edge.runtime.errors import RasterError, RequestError
from copgen_edge.runtime.pipeline import Pipeline
from copgen_edge.runtime.scene.arrays import GeoArray
from copgen_edge.runtime.scene.draw import DATE, PLACE
from rasterio.crs import CRS
from rasterio.warp import transform_bounds

from .conftest import UTM, relief, scene_grid


def elevation(width: int, height: int) -> GeoArray:
    grid = scene_grid(width, height)
    return GeoArray(relief(grid), grid.transform(30), UTM)


def test_one_window_is_generate_and_place_and_date_are_conditions(pipeline: Pipeline) -> None:
    given = elevation(1920, 1920)
    outputs = ["S2L2A_B05_B06_B07_B11_B12_B8A", "LULC"]
    found = pipeline.generate_scene(
        {"DEM_DEM": given}, outputs, place=True, date=(2023, 7, 14), samples=2, steps=2, seed=3
    )
    conditions = {
        "DEM_DEM": given.values[np.newaxis],
        PLACE: np.array([scene_grid(1920, 1920).ground((0, 0)).center]),
        DATE: np.array([[2023, 7, 14]]),
    }
    expected = pipeline.generate(conditions, outputs, samples=2, steps=2, seed=3)
    assert set(found) == set(expected)
    for key, values in expected.items():
        np.testing.assert_array_equal(found[key].values, values)
        assert found[key].values.dtype == values.dtype


def test_results_lie_where_the_conditions_do(pipeline: Pipeline) -> None:
    found = pipeline.generate_scene(
        {"DEM_DEM": elevation(3000, 2400)}, ["S1RTC", "S2L2A_B01_B09", "place", "date"], samples=2, steps=1
    )
    grid = scene_grid(3000, 2400)
    for key, resolution in (("S1RTC_vh_vv", 10), ("S2L2A_B01_B09", 60)):
        assert found[key].transform == grid.transform(resolution) and found[key].crs == UTM
        assert found[key].values.shape == (2, 2, 2400 // resolution, 3000 // resolution)
        assert np.isfinite(found[key].values).all()
    assert found[PLACE].shape == (2, len(grid.windows(25)), 2)
    assert found[DATE].shape == (2, 3)


def test_arrays_on_other_grids_are_warped_and_the_bbox_is_kept(pipeline: Pipeline) -> None:
    west, south, east, north = transform_bounds(UTM, CRS.from_epsg(4326), *scene_grid(6000, 6000).bounds)
    side = 200
    step = Affine((east - west) / side, 0, west, 0, (south - north) / side, north)
    ramp = np.linspace(100, 900, side, dtype=np.float32)[np.newaxis, :, np.newaxis].repeat(side, axis=2)
    middle = (west + 0.4 * (east - west), south + 0.4 * (north - south), west + 0.6 * (east - west), north)
    found = pipeline.generate_scene(
        {"DEM_DEM": GeoArray(ramp, step, CRS.from_epsg(4326))}, ["S2L2A_B01_B09"], bbox=middle, steps=1
    )
    result = found["S2L2A_B01_B09"]
    assert result.crs.to_epsg() == 32631
    rows, columns = result.values.shape[2:]
    assert columns * 60 >= 1920 and rows * 60 > columns * 60


@pytest.mark.parametrize(
    ("key", "shape", "error", "message"),
    [
        ("DEM_DEM", (2, 64, 64), RequestError, r"expected \(1, H, W\) with the bands DEM"),
        ("S2L2A_B01_B09", (64, 64), RequestError, r"found an array of shape \(64, 64\)"),
        (DATE, (1, 3, 1), RequestError, "is no raster"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    pipeline: Pipeline, key: str, shape: tuple[int, ...], error: type[Exception], message: str
) -> None:
    given = GeoArray(np.ones(shape, np.float32), scene_grid(1920, 1920).transform(30), UTM)
    with pytest.raises(error, match=message):
        pipeline.generate_scene({key: given}, ["S1RTC"], steps=1)


def test_an_array_without_any_data_is_refused_or_absent(pipeline: Pipeline) -> None:
    empty = GeoArray(np.full((1, 64, 64), -9999, np.float32), scene_grid(1920, 1920).transform(30), UTM, nodata=-9999)
    with pytest.raises(RasterError):
        pipeline.generate_scene({"DEM_DEM": empty}, ["S1RTC"], steps=1)
