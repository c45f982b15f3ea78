from pathlib import Path

import numpy as np
import pytest
from copgen_edge.runtime.errors import CopgenError, NonFiniteError, RequestError
from copgen_edge.runtime.modalities import BY_KEY, KEYS
from copgen_edge.runtime.raster.palette import CLASS_COLOURS, HEAT
from copgen_edge.runtime.raster.quicklook import _fit, _title_size, write_quicklook
from PIL import Image

DEM, LULC, PLACE = "DEM_DEM", "LULC_LULC", "3d_cartesian_lat_lon"


def draw(key: str, rows: int, seed: int = 0) -> np.ndarray:
    modality, rng = BY_KEY[key], np.random.default_rng(seed)
    shape = (rows, len(modality.bands), modality.size, modality.size)
    if modality.kind == "place":
        return rng.uniform((-90.0, -180.0), (90.0, 180.0), (rows, 2))
    if modality.kind == "date":
        return np.stack([rng.integers(2017, 2025, rows), rng.integers(1, 13, rows), rng.integers(1, 29, rows)], axis=-1)
    if modality.is_codes:
        return np.sort(rng.choice(list(modality.codes), shape), axis=-1)
    high = {"reflectance": 5000.0, "backscatter": 1.0, "elevation": 3000.0}[modality.kind]
    slopes = np.linspace(0.001, high, modality.size) * rng.uniform(0.5, 1.0, (*shape[:3], 1))
    return slopes.astype(np.float32)


def sheet(
    folder: Path, conditions: dict[str, np.ndarray], samples: dict[str, np.ndarray], title: str = "A title"
) -> np.ndarray:
    path = folder / "quicklook.png"
    write_quicklook(path, conditions, samples, title=title)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.mode == "RGB"
        return np.asarray(picture).copy()


def count(pixels: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((pixels == colour).all(axis=-1).sum())


@pytest.mark.parametrize("samples", [1, 2, 9])
@pytest.mark.parametrize("key", KEYS)
def test_every_modality_alone(tmp_path: Path, key: str, samples: int) -> None:
    pixels = sheet(tmp_path, {}, {key: draw(key, samples)})
    assert 300 < pixels.shape[0] < 1000
    assert 400 < pixels.shape[1] < 2400
    assert (pixels != sheet(tmp_path, {}, {key: draw(key, samples, seed=1)})).any()


@pytest.mark.parametrize("samples", [1, 2, 9])
def test_all_twelve_as_samples(tmp_path: Path, samples: int) -> None:
    pixels = sheet(tmp_path, {}, {key: draw(key, samples) for key in KEYS})
    assert pixels.shape[0] > 12 * 192


@pytest.mark.parametrize("key", KEYS)
def test_eleven_given_and_one_made(tmp_path: Path, key: str) -> None:
    conditions = {other: draw(other, 1) for other in KEYS if other != key}
    pixels = sheet(tmp_path, conditions, {key: draw(key, 2)})
    conditions[KEYS[0] if key != KEYS[0] else KEYS[1]] = draw(KEYS[0] if key != KEYS[0] else KEYS[1], 1, seed=5)
    assert (pixels != sheet(tmp_path, conditions, {key: draw(key, 2)})).any()


def test_the_same_input_gives_the_same_picture(tmp_path: Path) -> None:
    conditions, samples = {DEM: draw(DEM, 1)}, {LULC: draw(LULC, 2)}
    np.testing.assert_array_equal(sheet(tmp_path, conditions, samples), sheet(tmp_path, conditions, samples))


def test_a_class_has_its_colour_on_the_whole_tile_and_in_the_legend(tmp_path: Path) -> None:
    water = CLASS_COLOURS[LULC][1]
    pixels = sheet(tmp_path, {}, {LULC: np.full((1, 1, 192, 192), 1)})
    # A small sheet has tiles of 384 pixels; its legend a swatch more, without the frame.
    assert 384**2 + 100 < count(pixels, water) < 384**2 + 200
    assert count(pixels, CLASS_COLOURS[LULC][7]) == 0


def test_many_samples_have_smaller_tiles(tmp_path: Path) -> None:
    pixels = sheet(tmp_path, {}, {LULC: np.full((8, 1, 192, 192), 1)})
    assert 8 * 192**2 < count(pixels, CLASS_COLOURS[LULC][1]) < 8 * 192**2 + 200
    # Equal samples: the tile of the spread is all of the ramp's darkest, and its scale bar begins with it.
    assert count(pixels, HEAT[0]) >= 192**2


def test_the_ninth_sample_counts_in_the_spread_but_is_not_drawn(tmp_path: Path) -> None:
    eight = np.full((8, 1, 192, 192), 1)
    nine = np.concatenate([eight, np.full((1, 1, 192, 192), 7)])
    without, with_ninth = sheet(tmp_path, {}, {LULC: eight}), sheet(tmp_path, {}, {LULC: nine})
    assert without.shape == with_ninth.shape
    assert count(with_ninth, CLASS_COLOURS[LULC][7]) == 0
    assert count(without, HEAT[0]) > 192**2 > count(with_ninth, HEAT[0])


def test_pixels_are_enlarged_as_they_are(tmp_path: Path) -> None:
    codes = np.full((1, 1, 192, 192), 2)
    codes[0, 0, 10, 20] = 7
    pixels = sheet(tmp_path, {}, {LULC: codes})
    rows, columns = np.nonzero((pixels[:-80] == CLASS_COLOURS[LULC][7]).all(axis=-1))
    assert (len(rows), np.ptp(rows), np.ptp(columns)) == (4, 1, 1)


def test_missing_values_of_a_condition_are_grey(tmp_path: Path) -> None:
    elevation = draw(DEM, 1)
    elevation[0, 0, :32] = np.nan
    pixels = sheet(tmp_path, {DEM: elevation}, {LULC: np.full((1, 1, 192, 192), 1)})
    assert count(pixels, (128, 128, 128)) >= 384**2 // 2


def test_the_title_is_drawn_and_cut_to_the_sheet(tmp_path: Path) -> None:
    samples = {PLACE: draw(PLACE, 1)}
    one, other = sheet(tmp_path, {}, samples, title="One"), sheet(tmp_path, {}, samples, title="Other")
    assert (one[:60] != other[:60]).any()
    assert (one[66:] == other[66:]).all()
    long = sheet(tmp_path, {}, samples, title="long " * 100)
    assert long.shape == one.shape
    assert (long[:60, -28:] == long[0, 0]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_samples_are_refused(tmp_path: Path, bad: float) -> None:
    samples = draw(DEM, 2)
    samples[0, 0, 0, 0] = bad
    with pytest.raises(NonFiniteError, match="DEM_DEM"):
        sheet(tmp_path, {}, {DEM: samples})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("conditions", "samples", "says"),
    [
        ({}, {}, "rows of samples"),
        ({}, {DEM: draw(DEM, 2), LULC: draw(LULC, 3)}, r"\[2, 3\] rows"),
        ({}, {DEM: draw(DEM, 0)}, r"\[0\] rows"),
        ({DEM: draw(DEM, 2)}, {LULC: draw(LULC, 1)}, "condition DEM_DEM has 2 rows"),
        ({}, {"S3": np.zeros((1, 1))}, "unknown modality 'S3'"),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    tmp_path: Path, conditions: dict[str, np.ndarray], samples: dict[str, np.ndarray], says: str
) -> None:
    with pytest.raises(RequestError, match=says):
        sheet(tmp_path, conditions, samples)


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CopgenError, match=r"cannot write .*absent"):
        sheet(tmp_path / "absent", {}, {DEM: draw(DEM, 1)})


def test_a_long_title_is_drawn_smaller_before_its_end_is_left_off() -> None:
    title = "COP-GEN base (random weights) at -47.5872, -111.3515: 50 steps of dpmpp-3s, seed 0"
    sizes = {width: _title_size(title, width) for width in (2000, 575, 100)}
    assert sizes[2000] == 24 > sizes[575] > sizes[100] == 12
    assert _fit(title, sizes[575], 575) == title
