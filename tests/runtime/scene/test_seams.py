"""The seam figure, against images whose seams are known."""

import numpy as np
import pytest
from copgen_edge.runtime.scene.seams import SeamMeter
from numpy.typing import NDArray

from .conftest import scene_grid


def figure(key: str, image: NDArray[np.generic], strips: int = 3, overlap: int = 0) -> float | None:
    grid = scene_grid(3840, 3840)
    meter = SeamMeter(key, grid, grid.windows(overlap))
    row = 0
    for part in np.array_split(image, strips, axis=1):
        meter.add(row, part)
        row += part.shape[1]
    return meter.figure()


def noise(shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.random.default_rng(1).uniform(100, 200, shape)


def test_an_image_without_seams_has_one() -> None:
    assert figure("DEM_DEM", noise((1, 128, 128))) == pytest.approx(1, abs=0.06)


def test_a_step_at_a_border_shows_and_one_elsewhere_does_not() -> None:
    seam, elsewhere = noise((1, 128, 128)), noise((1, 128, 128))
    seam[:, :, 64:] += 1000
    elsewhere[:, :, 70:] += 1000
    shown, hidden = figure("DEM_DEM", seam), figure("DEM_DEM", elsewhere)
    assert shown is not None and shown > 10
    assert hidden is not None and hidden < 1


def test_the_figure_is_a_ratio_of_mean_gradients_and_strips_do_not_change_it() -> None:
    image = noise((1, 128, 128))
    across, down = np.abs(np.diff(image[0], axis=1)), np.abs(np.diff(image[0], axis=0))
    border = np.concatenate([across[:, 63], down[63]])
    rest = np.concatenate([np.delete(across, 63, axis=1).ravel(), np.delete(down, 63, axis=0).ravel()])
    for strips in (1, 3, 128):
        assert figure("DEM_DEM", image, strips) == pytest.approx(border.mean() / rest.mean(), rel=1e-12)


def test_windows_that_overlap_have_borders_where_they_begin_and_end() -> None:
    image = np.ones((1, 128, 128))
    image += np.arange(128) % 2
    image[:, :, 64:] += 500
    assert figure("DEM_DEM", image, overlap=50) is not None
    # Starts at 0, 2 and 4 cells of 16 pixels, ends at 4, 6 and 8: borders at 32, 64 and 96.
    flat = np.tile(np.arange(128.0) % 2, (1, 128, 1))
    flat[:, :, 96:] += 500
    shown = figure("DEM_DEM", flat, overlap=50)
    assert shown is not None and shown > 10


def test_codes_count_where_they_differ_and_radar_is_in_decibels() -> None:
    codes = np.random.default_rng(2).choice([1, 2, 11], (1, 384, 384)).astype(np.uint8)
    assert figure("LULC_LULC", codes) == pytest.approx(1, abs=0.1)
    codes[:, :, 192:] = 10
    assert figure("LULC_LULC", codes) != pytest.approx(1, abs=0.1)
    power = noise((2, 384, 384))
    power[:, :, 192:] *= 100
    shown = figure("S1RTC_vh_vv", power)
    assert shown is not None and 2 < shown < 20


def test_one_window_and_an_even_image_have_no_figure() -> None:
    grid = scene_grid(1920, 1920)
    meter = SeamMeter("DEM_DEM", grid, grid.windows(25))
    meter.add(0, noise((1, 64, 64)))
    assert meter.figure() is None
    assert figure("DEM_DEM", np.ones((1, 128, 128))) is None
