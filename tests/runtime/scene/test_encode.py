"""Conditions of a scene: edges, gaps, and what is said of them."""

import numpy as np
import pytest
from copgen_edge.runtime.modalities import get
from copgen_edge.runtime.pipeline import Pipeline
from copgen_edge.runtime.scene.draw import Layout
from copgen_edge.runtime.scene.encode import (
    ABSENT,
    FILLED,
    OBSERVED,
    encode_windows,
    given_date,
    given_place,
    mark,
)
from numpy.typing import NDArray

from .conftest import ArraySource, relief, scene_grid


class Recorder:
    """A pipeline that keeps the images it is asked to encode."""

    def __init__(self) -> None:
        self.images: list[NDArray[np.float32]] = []

    def encode(self, key: str, image: NDArray[np.float32], noise: NDArray[np.float32]) -> NDArray[np.float32]:
        assert noise.shape == (len(image), *get(key).latent_shape)
        self.images.append(image)
        return noise


def encoded(layout: Layout, source: ArraySource) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    recorder = Recorder()
    result = encode_windows(recorder, layout, source, range(len(layout.windows)), seed=0)  # type: ignore[arg-type]
    return np.concatenate(recorder.images) if recorder.images else np.empty(0, np.float32), result.known


def test_what_sticks_out_is_a_reflection_and_never_data() -> None:
    grid = scene_grid(2460, 1920)
    layout = Layout(grid, 0, ("S1RTC_vh_vv",))
    images, known = encoded(layout, ArraySource("DEM_DEM", grid, relief(grid)))
    assert layout.windows == ((0, 0), (0, 2))
    inside = (2460 - 2 * 480) // 30
    last = images[1, 0]
    np.testing.assert_array_equal(last[:, inside:], last[:, inside - 1 : 2 * inside - 65 : -1])
    assert known.all()


def test_a_scene_narrower_than_its_padding_is_reflected_again_and_again() -> None:
    grid = scene_grid(60, 60)
    layout = Layout(grid, 0, ("S1RTC_vh_vv",))
    images, _ = encoded(layout, ArraySource("DEM_DEM", grid, relief(grid)))
    assert images.shape == (1, 1, 64, 64)
    assert len(np.unique(images)) == 4


def test_windows_without_data_are_absent_and_gaps_of_the_others_are_filled() -> None:
    grid = scene_grid(3840, 1920)
    values = relief(grid)
    values[:, :, 64:] = np.nan
    values[:, 10:20, 10:20] = np.nan
    layout = Layout(grid, 0, ("S1RTC_vh_vv",))
    images, known = encoded(layout, ArraySource("DEM_DEM", grid, values))
    assert len(images) == 1
    assert np.isfinite(images).all()
    assert known[0].sum() == 64 * 64 - 100
    assert not known[1].any()
    validity = np.zeros((64, 128), np.uint8)
    mark(validity, layout, "DEM_DEM", range(2), known)
    assert (validity[:, 64:] == ABSENT).all()
    assert (validity[10:20, 10:20] == FILLED).all()
    assert np.count_nonzero(validity == OBSERVED) == 64 * 64 - 100


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_gap_that_one_window_fills_and_another_lacks_is_filled(order: tuple[int, int]) -> None:
    grid = scene_grid(2880, 1920)
    layout = Layout(grid, 50, ("S1RTC_vh_vv",))
    values = relief(grid)
    values[:, :, 32:] = np.nan
    _, known = encoded(layout, ArraySource("DEM_DEM", grid, values))
    validity = np.zeros((64, 96), np.uint8)
    for window in order:
        mark(validity, layout, "DEM_DEM", range(window, window + 1), known[window : window + 1])
    assert (validity[:, :32] == OBSERVED).all()
    assert (validity[:, 32:64] == FILLED).all()
    assert (validity[:, 64:] == ABSENT).all()


@pytest.mark.parametrize(("key", "expected"), [("LULC_LULC", 0), ("S2L1C_cloud_mask", 1)])
def test_gaps_of_codes_become_a_class_and_no_mixture(key: str, expected: int) -> None:
    grid = scene_grid(1920, 1920)
    values = np.ones((1, 192, 192), np.float32)
    values[:, 50:60, 50:60] = np.nan
    images, known = encoded(Layout(grid, 0, ("S1RTC_vh_vv",)), ArraySource(key, grid, values))
    index = sorted(get(key).codes).index(expected)
    assert (images[0, :, 55, 55].argmax(), set(np.unique(images))) == (index, {-1.0, 1.0})
    assert known[0].sum() == 192 * 192 - 100


def test_place_follows_the_window_and_the_date_does_not(pipeline: Pipeline) -> None:
    layout = Layout(scene_grid(3840, 1920), 0, ("S1RTC_vh_vv",))
    places, dates = given_place(pipeline, layout), given_date(pipeline, layout, (2023, 7, 14))
    assert places.shape == dates.shape == (2, 3)
    moved = np.degrees(np.linalg.norm(places[0] - places[1])) * 111.2
    assert moved == pytest.approx(1.92, rel=0.01)
    np.testing.assert_array_equal(dates[0], dates[1])
